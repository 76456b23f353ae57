"use strict";
(() => {
  const PAGE = 100;
  const element = (name, text, type) => {
    const node = document.createElement(name);
    if (text !== undefined) node.textContent = text;
    if (type) node.className = type;
    return node;
  };

  // A heading becomes a button; a second press turns the order round.
  const makeSortable = (table, act) => {
    for (const [place, head] of [...table.tHead.rows[0].cells].entries()) {
      if (head.querySelector("span")) continue;
      const button = element("button", head.textContent);
      button.type = "button";
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        act(place, down ? -1 : 1);
      });
    }
  };
  const compare = (a, b) => {
    if (a === b) return 0;
    if (a === null || a === "") return 1;
    if (b === null || b === "") return -1;
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  };
  const keyOf = (cell) => {
    const text = cell.dataset.value ?? cell.textContent;
    const number = Number(text);
    return text.trim() === "" ? "" : Number.isNaN(number) ? text : number;
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    makeSortable(table, (place, sign) => {
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => {
        const x = keyOf(a.cells[place]), y = keyOf(b.cells[place]);
        return x === "" || y === "" ? compare(x, y) : sign * compare(x, y);
      });
      table.tBodies[0].append(...rows);
    });
  }

  const data = JSON.parse(document.getElementById("data").textContent);
  const count = data.value.length;
  const text = (column, row) => data[column].texts[data[column].rows[row]];
  const SORTS = ["dataset", "experiment", "setting", "metric", "model", "protocol", "value", "low", "n"];
  const key = (name, row) => (data[name].texts ? text(name, row) : data[name][row]);
  const table = document.getElementById("all");
  const status = document.getElementById("status");
  const words = document.getElementById("words");
  const selects = ["dataset", "experiment", "metric", "protocol"].map((name) => {
    const select = document.getElementById("by-" + name);
    select.append(element("option", "all"));
    select.options[0].value = "";
    for (const [number, label] of data[name].texts.entries()) {
      const option = element("option", label);
      option.value = String(number);
      select.append(option);
    }
    return [name, select];
  });
  let order = [...Array(count).keys()];
  let shown = order;
  let page = 0;

  // Texts are few and rows are many: search the texts once, then look up numbers.
  const SEARCHED = ["dataset", "experiment", "setting", "metric", "model", "protocol", "notes"];
  const filter = () => {
    const terms = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const hits = terms.map((term) =>
      SEARCHED.map((name) => data[name].texts.map((label) => label.toLowerCase().includes(term))));
    const wanted = selects.filter(([, s]) => s.value !== "").map(([name, s]) => [name, Number(s.value)]);
    shown = order.filter((row) =>
      wanted.every(([name, number]) => data[name].rows[row] === number) &&
      hits.every((columns) => columns.some((found, i) => found[data[SEARCHED[i]].rows[row]])));
    page = 0;
    draw();
  };
  const number = (value) => (value === null ? "" : String(value));
  const origin = (row) => {
    const list = element("dl");
    const notes = text("notes", row);
    const facts = notes ? [["notes", notes]] : [];
    for (const [name, column] of Object.entries(data.context)) {
      const value = column.texts[column.rows[row]];
      if (value) facts.push([name, value]);
    }
    for (const [name, value] of facts) list.append(element("dt", name), element("dd", value));
    return list;
  };
  const line = (row) => {
    const tr = element("tr");
    const model = text("model", row) + (data.control[row] ? " (control)" : "");
    const low = number(data.low[row]), high = number(data.high[row]);
    tr.append(
      element("td", text("dataset", row)), element("td", text("experiment", row)),
      element("td", text("setting", row), "wrap"), element("td", text("metric", row), "wrap"),
      element("td", model), element("td", text("protocol", row)),
      element("td", (data.value[row] + " " + text("unit", row)).trim(), "number"),
      element("td", low === "" || high === "" ? "" : low + " to " + high, "number"),
      element("td", String(data.n[row]), "number"));
    const cell = element("td");
    const button = element("button", text("notes", row) ? "notes and origin" : "origin");
    button.type = "button";
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-expanded") === "true";
      button.setAttribute("aria-expanded", String(!open));
      if (open) { tr.nextSibling.remove(); return; }
      const more = element("tr");
      const wide = element("td", undefined, "wrap");
      wide.colSpan = 10;
      wide.append(origin(row));
      more.append(wide);
      tr.after(more);
    });
    cell.append(button);
    tr.append(cell);
    return tr;
  };
  const back = document.getElementById("back"), on = document.getElementById("on");
  const draw = () => {
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    table.tBodies[0].replaceChildren(...shown.slice(page * PAGE, (page + 1) * PAGE).map(line));
    status.textContent = shown.length.toLocaleString("en") + " of " + count.toLocaleString("en") + " numbers";
    document.getElementById("page").textContent = "page " + (page + 1) + " of " + pages;
    back.disabled = page === 0;
    on.disabled = page >= pages - 1;
  };
  makeSortable(table, (place, sign) => {
    const name = SORTS[place];
    order = [...order].sort((a, b) => {
      const x = key(name, a), y = key(name, b);
      return x === null || y === null ? compare(x, y) : sign * compare(x, y);
    });
    filter();
  });
  words.addEventListener("input", filter);
  for (const [, select] of selects) select.addEventListener("change", filter);
  back.addEventListener("click", () => { page -= 1; draw(); });
  on.addEventListener("click", () => { page += 1; draw(); });
  for (const part of document.querySelectorAll(".filters, .pager")) part.hidden = false;
  draw();
})();
