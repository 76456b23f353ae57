"""Downloads from a local server that behaves as real ones do on their bad days."""

import errno
import hashlib
import socket
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest
from medssl_models.card import WeightFile
from medssl_models.errors import DownloadError, OfflineError
from medssl_models.hub.downloads import DownloadSettings, _HonestRedirects, download
from medssl_models.testing.server import FaultyServer, serving

CONTENT = np.random.default_rng(0).bytes(3_000_000)
HASH = hashlib.sha256(CONTENT).hexdigest()
QUICK = DownloadSettings(timeout=60, tries=3, pause=0)


@pytest.fixture(autouse=True)
def online(monkeypatch):
    monkeypatch.setenv("MEDSSL_OFFLINE", "0")
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server():
    return FaultyServer(CONTENT)


@pytest.fixture
def address(server):
    with serving(server) as root:
        yield f"{root}/weights.bin"


def file_at(*urls, sha256=HASH, size=None):
    return WeightFile(
        filename="weights.bin", urls=urls, container="torch", sha256=sha256, size=size
    )


def fetch(folder, *urls, **known):
    return download(file_at(*urls, **known), folder, settings=QUICK)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_comes_whole_with_its_hash(address, tmp_path):
    done = fetch(tmp_path / "new", address)

    assert done.path.read_bytes() == CONTENT
    assert (done.sha256, done.url) == (HASH, address)
    assert names(tmp_path / "new") == ["weights.bin"]


def test_a_hash_that_is_not_known_is_recorded(address, tmp_path):
    assert fetch(tmp_path, address, sha256=None).sha256 == HASH


def test_what_is_whole_is_not_asked_for_again(server, address, tmp_path):
    fetch(tmp_path, address)
    fetch(tmp_path, address)

    assert server.asked == [None]


def test_lost_connections_go_on_where_they_ended(server, address, tmp_path):
    server.drops = [1_000_000, 500_000, 1]

    assert fetch(tmp_path, address).path.read_bytes() == CONTENT
    # Each begins a little earlier, and what came again was the same.
    assert server.asked == [None, "bytes=934464-", "bytes=1368928-", "bytes=1368928-"]


def test_a_killed_download_goes_on_in_the_next_call(server, address, tmp_path):
    server.drops = [1_000_000, 0, 0, 0]
    with pytest.raises(DownloadError, match="1,000,000 of 3,000,000 bytes"):
        fetch(tmp_path, address)
    assert names(tmp_path) == ["weights.bin.part", "weights.bin.part.json"]

    assert fetch(tmp_path, address).sha256 == HASH
    assert server.asked[-1] == "bytes=934464-"


def test_a_server_without_ranges_begins_anew(server, address, tmp_path):
    server.ranges, server.drops = False, [1_000_000, 2_000_000]

    assert fetch(tmp_path, address).path.read_bytes() == CONTENT
    assert server.asked[1:] == ["bytes=934464-", "bytes=1934464-"]


@pytest.mark.parametrize("tag", ['"one"', '"two"'])
def test_a_file_that_changed_meanwhile_is_not_mixed_with_its_old_part(
    server, address, tmp_path, tag
):
    server.drops = [1_000_000, 0, 0, 0]
    with pytest.raises(DownloadError):
        fetch(tmp_path, address)
    server.content, server.etag = CONTENT[::-1], tag

    done = fetch(tmp_path, address, sha256=None)

    assert done.path.read_bytes() == CONTENT[::-1]


def test_without_a_validator_nothing_is_continued(server, address, tmp_path):
    server.etag, server.drops = "", [1_000_000]

    assert fetch(tmp_path, address).path.read_bytes() == CONTENT
    assert server.asked == [None, None]


def test_a_part_that_is_too_long_is_forgotten(server, address, tmp_path):
    server.drops = [1_000_000, 0, 0, 0]
    with pytest.raises(DownloadError):
        fetch(tmp_path, address)
    (tmp_path / "weights.bin.part").write_bytes(CONTENT + b"more")

    assert fetch(tmp_path, address).path.read_bytes() == CONTENT


def test_a_part_that_was_whole_is_only_checked(server, address, tmp_path):
    server.drops = [2_999_999, 0, 0, 0]
    with pytest.raises(DownloadError):
        fetch(tmp_path, address)
    (tmp_path / "weights.bin.part").write_bytes(CONTENT)
    before = len(server.asked)

    assert fetch(tmp_path, address).sha256 == HASH
    assert len(server.asked) == before


@pytest.mark.parametrize("note", ["", "[]", "{", '{"url": 3}'])
def test_a_damaged_note_is_not_trusted(address, tmp_path, note):
    (tmp_path / "weights.bin.part").write_bytes(b"other bytes")
    (tmp_path / "weights.bin.part.json").write_text(note)

    assert fetch(tmp_path, address).path.read_bytes() == CONTENT


def test_wrong_bytes_are_deleted_and_the_next_address_is_asked(server, address, tmp_path):
    bad = FaultyServer(CONTENT)
    bad.content = CONTENT[:-1] + b"?"
    with serving(bad) as root:
        assert fetch(tmp_path, f"{root}/bad", address).url == address
        assert (bad.paths["/bad"], server.paths["/weights.bin"]) == (1, 1)

        with pytest.raises(DownloadError, match=f"SHA-256 .*expected {HASH}.*deleted") as caught:
            fetch(tmp_path / "other", f"{root}/bad")
    assert caught.value.exit_code == 4
    assert names(tmp_path / "other") == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"statuses": [404]}, "404 Not Found"),
        ({"statuses": [403]}, "403 Forbidden"),
        ({"statuses": [503, 503, 503]}, "503"),
        ({"html": True}, "a web page instead of the file"),
    ],
)
def test_an_address_that_does_not_give_the_file_says_why(server, address, tmp_path, change, words):
    vars(server).update(change)
    with pytest.raises(DownloadError, match=words):
        fetch(tmp_path, address)


def test_a_server_that_recovers_is_asked_again(server, address, tmp_path):
    server.statuses = [503, 429]

    assert fetch(tmp_path, address).sha256 == HASH


def test_another_size_is_refused_before_it_is_downloaded(address, tmp_path):
    with pytest.raises(DownloadError, match="3,000,000 bytes, expected 99"):
        fetch(tmp_path, address, size=99)
    assert names(tmp_path) == []


def test_a_size_that_the_server_does_not_say_is_checked_at_the_end(server, address, tmp_path):
    server.length = False

    assert fetch(tmp_path, address, size=3_000_000).sha256 == HASH
    server.content = CONTENT[:-1]
    with pytest.raises(DownloadError, match="gave 2,999,999 bytes, expected 3,000,000"):
        fetch(tmp_path / "short", address, sha256=None, size=3_000_000)


def test_a_server_that_is_not_there(tmp_path):
    with socket.socket() as held:  # nobody else can take the port, and nobody listens
        held.bind(("127.0.0.1", 0))
        root = f"http://127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(DownloadError, match=root):
            fetch(tmp_path, f"{root}/x")


def test_a_mirror_is_asked_first(server, address, tmp_path):
    mirror = FaultyServer(CONTENT)
    with serving(mirror) as root:
        done = download(file_at(address), tmp_path, mirror=f"{root}/files/", settings=QUICK)
    assert done.url == f"{root}/files/weights.bin"
    assert server.asked == []


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "weights.bin"])
def test_other_schemes_are_refused(tmp_path, url):
    with pytest.raises(DownloadError, match="only http and https"):
        fetch(tmp_path, url)


@pytest.mark.parametrize("value", ["1", "yes"])
def test_offline_nothing_is_asked(server, address, tmp_path, monkeypatch, value):
    monkeypatch.setenv("MEDSSL_OFFLINE", value)

    with pytest.raises(OfflineError, match="forbidden") as caught:
        fetch(tmp_path / "new", address)
    assert caught.value.exit_code == 4
    assert server.asked == []
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_no_fault_of_the_server(server, address, tmp_path, monkeypatch):
    """A write error ends the fetch at once; a network error would be tried again."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("medssl_models.hub.downloads._Transfer._write_note", full)
    with pytest.raises(OSError, match="No space left"):
        fetch(tmp_path, address)
    assert server.asked == [None]


def test_an_interrupt_says_what_is_kept(address, tmp_path):
    @contextmanager
    def progress(description, total):
        assert (description, total) == ("weights.bin (MiB)", 2)
        counted = 0

        def advance(n=1, *, note=""):
            nonlocal counted
            counted += n
            if counted > 1:
                raise KeyboardInterrupt

        yield advance

    with pytest.raises(KeyboardInterrupt) as caught:
        download(file_at(address), tmp_path, progress=progress, settings=QUICK)
    assert caught.value.__notes__ == ["2 MiB of weights.bin are kept, the same command goes on"]
    assert fetch(tmp_path, address).sha256 == HASH


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/x", "file:///etc/hostname", "http://other/x"])
def test_no_redirect_leads_out_of_https(target):
    request = urllib.request.Request("https://models.org/weights.bin")
    with pytest.raises(Exception, match="which is not followed"):
        _HonestRedirects().redirect_request(request, None, 302, "Found", {}, target)


def test_redirects_within_https_are_followed():
    request = urllib.request.Request("https://models.org/weights.bin")
    found = _HonestRedirects().redirect_request(request, None, 302, "Found", {}, "https://b.org/x")
    assert found.full_url == "https://b.org/x"


def test_no_message_holds_a_password(tmp_path):
    with pytest.raises(DownloadError) as caught:
        fetch(tmp_path, "http://me:hunter2@127.0.0.1:1/weights.bin")
    assert "127.0.0.1:1/weights.bin" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://[", "http://a b/x", "http://ä.org/ü", f"http://{'a' * 300}/x"]
)
def test_an_impossible_address_is_one_error(tmp_path, url):
    with pytest.raises(DownloadError):
        fetch(tmp_path, url)
