"""The report in a real browser: sorting, filtering, origin of a number, silence in the console.

Needs Chromium with its driver and selenium; `nox -s browser` brings both where it may.
"""

import json
import shutil

import pytest
from medssl_eval.report import published_content, write_page

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium with its driver here: nox -s browser installs it"
)
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1280,900"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser that shows the study's numbers from a file, and logs what it does."""
    folder = tmp_path_factory.mktemp("browser")
    page = folder / "report.html"
    page.write_text(write_page(published_content()), encoding="utf-8")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*QUIET, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.get(page.as_uri())
    yield driver
    driver.quit()


def rows(browser, column):
    """Read a column of the table of all numbers."""
    found = browser.find_elements("css selector", f"#all tbody tr td:nth-child({column})")
    return [cell.text for cell in found]


def status(browser):
    return browser.find_element("id", "status").text


def test_all_numbers_are_there_a_page_at_a_time(browser):
    assert status(browser) == "940 of 940 numbers"
    first = rows(browser, 5)
    assert len(first) == 100
    browser.find_element("id", "on").click()
    assert "page 2 of 10" in browser.find_element("id", "page").text
    browser.find_element("id", "back").click()
    assert rows(browser, 5) == first


def test_a_heading_sorts_and_says_so(browser):
    head = browser.find_element("css selector", "#all thead th:nth-child(7)")
    button = head.find_element("tag name", "button")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    for order, sign in (("ascending", 1), ("descending", -1)):
        button.click()
        assert head.get_attribute("aria-sort") == order
        values = [sign * float(text.split()[0]) for text in rows(browser, 7)]
        assert values == sorted(values)


def test_words_and_lists_filter(browser):
    words = browser.find_element("id", "words")
    words.send_keys("few-shot byol")
    assert set(rows(browser, 2)) == {"few-shot"}
    assert set(rows(browser, 5)) == {"byol"}
    assert status(browser) == "11 of 940 numbers"
    select = browser.find_element("id", "by-dataset")
    select.find_element("xpath", "option[.='bach']").click()
    assert status(browser) == "1 of 940 numbers"
    select.find_element("xpath", "option[.='all']").click()
    words.clear()
    words.send_keys(" ")
    assert status(browser) == "940 of 940 numbers"


def test_the_keyboard_opens_the_origin_of_a_number(browser):
    button = browser.find_element("css selector", "#all tbody tr td button")
    browser.execute_script("arguments[0].focus()", button)
    button.send_keys("\ue007")
    assert button.get_attribute("aria-expanded") == "true"
    assert "source" in browser.find_element("css selector", "#all dl").text
    button.send_keys("\ue007")
    assert not browser.find_elements("css selector", "#all dl")


def test_a_small_table_sorts_too(browser):
    table = browser.find_element("css selector", "#tables table")
    head = table.find_element("css selector", "thead th:nth-child(2)")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", head)
    head.find_element("tag name", "button").click()
    cells = table.find_elements("css selector", "tbody td:nth-child(2)")
    values = [float(cell.get_attribute("data-value")) for cell in cells]
    assert values == sorted(values)


def test_figures_take_part_in_light_and_dark(browser):
    def colour():
        script = "return getComputedStyle(document.querySelector('figure svg text')).fill"
        return browser.execute_script(script)

    seen = set()
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        seen.add(colour())
    assert len(seen) == 2


def test_the_page_shows_something(browser):
    from PIL import Image

    folder = browser.capabilities["chrome"]["userDataDir"]
    path = f"{folder}/page.png"
    browser.execute_script("window.scrollTo(0, 0)")
    assert browser.save_screenshot(path)
    with Image.open(path) as image:
        colours = image.convert("RGB").getcolors(maxcolors=1 << 24)
    assert len(colours) > 50


def test_it_prints(browser):
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert len(printed["data"]) > 50_000


def test_it_asked_nobody_and_complained_of_nothing(browser):
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
        and message["params"]["documentURL"].startswith("file:")  # the browser has pages of its own
    ]
    assert asked
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
