import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from medssl_data.cli import app
from medssl_data.console import run
from PIL import Image

COMMANDS = [info.name for info in app.registered_commands]


def out(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    """Run a command; give stdout and stderr without the colours that a CI service asks for."""
    assert run(app, words) == code
    captured = capsys.readouterr()
    return tuple(re.sub(r"\x1b\[[\d;]*m", "", text) for text in (captured.out, captured.err))


def document(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0):
    text, _ = out(capsys, *words, "--json", code=code)
    return json.loads(text)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_an_example(capsys, command: str) -> None:
    text, _ = out(capsys, command, "--help")
    assert "Example" in text
    assert "--json" in text


def test_help_names_every_command(capsys) -> None:
    text, _ = out(capsys, "--help")
    for command in COMMANDS:
        assert command in text
    assert "medssl-data " in out(capsys, "--version")[0]


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    code = (
        "import sys, medssl_data.cli; "
        "heavy = ('torch', 'numpy', 'PIL', 'pydantic', 'rich.table'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_the_package_never_imports_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import medssl_data as m; "
        "[getattr(m, n) for n in m.__all__]; m.load_dataset('phantom:chest-xray')[0]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_list(capsys) -> None:
    found = document(capsys, "list")
    assert "chest-xray" in found["phantoms"]
    assert "chest-xray" in out(capsys, "list")[0]


def test_show(capsys) -> None:
    shown = document(capsys, "show", "phantom:chest-xray")
    assert shown["images"] == 240
    assert shown["synthetic"] is True
    assert "fingerprint" in out(capsys, "show", "phantom:chest-xray")[0]


def test_check_of_a_sound_folder(capsys, class_folders: Path) -> None:
    (report,) = document(capsys, "check", "-d", f"folder:{class_folders}")
    assert report["sound"] is True
    assert report["counts"] == {"healthy": 2, "ill": 3}
    text, err = out(capsys, "check", "-d", f"folder:{class_folders}")
    assert "nothing to repair" in text
    assert err == ""


def test_check_finds_every_fault(capsys, class_folders: Path) -> None:
    ill = class_folders / "ill"
    (ill / "0.png").write_bytes(b"")
    (ill / "1.png").write_bytes((ill / "1.png").read_bytes()[:40])
    (ill / "text.png").write_text("no picture")
    (class_folders / "healthy" / "twin.png").write_bytes((ill / "2.png").read_bytes())
    (ill / "gone.png").symlink_to(ill / "nowhere.png")
    (report,) = document(capsys, "check", "-d", f"folder:{class_folders}", code=3)
    found = {(finding["what"], finding["where"]) for finding in report["findings"]}
    assert found == {
        ("empty file", "ill/0.png"),
        ("unreadable", "ill/1.png"),
        ("unreadable", "ill/text.png"),
        ("missing", "ill/gone.png"),
        ("duplicate file", "ill/2.png = healthy/twin.png"),
    }
    _, err = out(capsys, "check", "-d", f"folder:{class_folders}", "--quiet", code=3)
    assert err.startswith("error: not sound: mine (5 faults)")
    assert err.count("\n") == 1


def test_preview_writes_a_sheet(capsys, tmp_path: Path, class_folders: Path) -> None:
    (class_folders / "ill" / "0.png").write_bytes(b"")
    sheet = tmp_path / "deep" / "sheet.png"
    shown = document(
        capsys, "preview", "-d", "phantom:chest-xray,count=4", "-d", f"folder:{class_folders}",
        "--out", str(sheet),
    )  # fmt: skip
    with Image.open(sheet) as image:
        assert image.size == (shown["width"], shown["height"])


def test_phantom_then_check(capsys, tmp_path: Path) -> None:
    words = ("phantom", "chest-xray", "--root", str(tmp_path), "--count", "6")
    facts = document(capsys, *words)
    assert facts["images"] == 6
    assert document(capsys, "check", "-d", facts["use"])[0]["sound"] is True
    _, err = out(capsys, *words, code=2)
    assert "is there already" in err
    out(capsys, *words, "--force")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("check",), 2, "no data set is named"),
        (("check", "-d", "nix"), 2, "'nix' is unknown"),
        (("check", "-d", "folder:/nowhere"), 4, "/nowhere is not there"),
        (("check", "--nonsense"), 2, "--nonsense"),
        (("preview", "--per-class", "0"), 2, "per-class"),
        (("nonsense",), 2, "nonsense"),
        (("check", "-d", f"folder:{__file__}"), 4, "is a file"),
        (
            ("split", "-d", "phantom:chest-xray,count=9", "--split", "nix"),
            3,
            "not one of published",
        ),
    ],
)
def test_failures_are_sentences_with_a_code(capsys, words, code, message) -> None:
    text, err = out(capsys, *words, code=code)
    assert text == ""
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_folder_in_place_of_a_file_is_named(capsys, tmp_path: Path) -> None:
    words = ("preview", "-d", "phantom:chest-xray,count=4", "--out", str(tmp_path))
    _, err = out(capsys, *words, code=1)
    assert err == f"error: {tmp_path}: Is a directory\n"


def test_names_with_line_ends_and_foreign_letters_are_drawn(capsys, class_folders: Path) -> None:
    (class_folders / "ill").rename(class_folders / "kr\u00e4nk\n\u75c5")
    out(capsys, "preview", "-d", f"folder:{class_folders}", "--out", str(class_folders / "s.png"))


def test_leaks_names_pictures_that_it_could_not_compare(capsys, class_folders: Path) -> None:
    (class_folders / "ill" / "0.png").write_bytes(b"no picture")
    _, err = out(capsys, "leaks", "-d", f"folder:{class_folders}")
    assert "1 image(s) that cannot be read (ill/0.png) were not compared" in err


def test_a_closed_stdout_stops_nothing(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert run(app, ["list"]) == 0
    sys.stdout.close()  # what `run` put in its place


@pytest.mark.parametrize("words", [(), ("--json",)], ids=["table", "json"])
def test_letters_that_a_terminal_lacks_are_escaped(monkeypatch, class_folders: Path, words) -> None:
    (class_folders / "ill").rename(class_folders / "kr\u00e4nk")
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    assert run(app, ["check", "-d", f"folder:{class_folders}", *words]) == 0
    ascii_only.flush()
    text = ascii_only.buffer.getvalue().decode("ascii")
    assert "kr\\u00e4nk" in text if words else "kr\\xe4nk" in text
    if words:
        assert "kr\u00e4nk" in json.loads(text)[0]["counts"]


def test_show_prints_no_heading_above_its_facts(capsys) -> None:
    text, _ = out(capsys, "show", "phantom:chest-xray")
    assert text.startswith("name ")


def test_debug_shows_the_traceback(capsys, monkeypatch) -> None:
    monkeypatch.setenv("MEDSSL_DEBUG", "1")
    assert "Traceback" in out(capsys, "check", "-d", "nix", code=2)[1]


def test_an_interrupt_is_130_and_one_line(capsys, monkeypatch) -> None:
    from medssl_data import catalog

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(catalog, "describe", interrupt)
    _, err = out(capsys, "show", "x", code=130)
    assert err.count("\n") <= 2
    assert "interrupted" in err


def test_a_full_disk_is_a_sentence(capsys, monkeypatch, tmp_path: Path) -> None:
    from medssl_data.images import preview

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "sheet.png")

    monkeypatch.setattr(preview, "save_sheet", full)
    _, err = out(capsys, "preview", "-d", "phantom:chest-xray,count=4", code=1)
    assert err == "error: sheet.png: No space left on device\n"
