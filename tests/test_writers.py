"""Every file that the packages write goes through one writer, read from their source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path
    for path in ROOT.glob("packages/*/src/*/**/*.py")
    if "testing" not in path.parts and path.name != "files.py"
)
WRITES = {
    *(
        "write_text",
        "write_bytes",
        "savefig",
        "save",
        "save_as",
        "savez",
        "savez_compressed",
        "save_file",
    ),
    *("tofile", "copyfile", "copyfileobj", "copytree", "copy2", "move", "rename", "symlink_to"),
    *("mkstemp", "NamedTemporaryFile", "open_memmap", "to_parquet", "write_table"),
}
ONE_WRITER = {"replacing", "placing"}
OWN_WAY = {
    "medssl_models/features/feature_file.py": "a table that grows row by row, under a lock",
    "medssl_models/features/sharding.py": "the same, of one process among several",
    "medssl_models/features/store.py": "sets broken tables aside",
    "medssl_models/hub/downloads.py": "a part that a later run continues",
    "medssl_models/checkpoints/archive.py": "copies a member into the draft of its caller",
    "medssl_models/experiments/record_store.py": "appends whole lines under a lock",
    "medssl_dip/inversion/run_folder.py": "a trace grows line by line; torn lines are left out",
}
"""Modules that write in place, and why a draft does not serve them."""


def is_write(call: ast.Call) -> bool:
    """Tell whether a call may put something on the disk."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in {"open", "File", "ZipFile", "fdopen"}:
        words = [*call.args, *(word.value for word in call.keywords)]
        texts = [str(word.value) for word in words if isinstance(word, ast.Constant)]
        return any(text and set(text) <= set("wax+b") and set(text) & set("wax+") for text in texts)
    return name in WRITES


def names(node: ast.AST) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def goes_to_memory(call: ast.Call) -> bool:
    """A buffer, or bytes for a caller; what saves itself in a folder is looked at where it does."""
    is_function = isinstance(call.func, ast.Name) and call.func.id == "save"
    text = ast.unparse(call)
    saves_itself = text.endswith(".save(folder)")
    return is_function or saves_itself or "buffer" in names(call) or "devnull" in text


def writes_beside_the_writer(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    covered = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.With)
        and any(names(item.context_expr) & ONE_WRITER for item in node.items)
        for inner in ast.walk(node)
    }
    return [
        f"{path.name}:{node.lineno}: {ast.unparse(node)[:80]}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and is_write(node)
        and id(node) not in covered
        and not goes_to_memory(node)
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "/".join(path.parts[-3:]))
def test_a_module_writes_files_through_the_one_writer(path):
    own = any(path.as_posix().endswith(name) for name in OWN_WAY)
    found = writes_beside_the_writer(path)
    assert bool(found) == own, found


def test_the_search_sees_writers():
    code = "with replacing(p) as draft:\n    draft.write_text('')\np.open('wb')\nq.write_bytes(b)"
    tree = ast.parse(code)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert sum(is_write(call) for call in calls) == 3
    assert not is_write(ast.parse("path.open('rb')").body[0].value)
