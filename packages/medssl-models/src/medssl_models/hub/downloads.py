"""Published files over HTTP: resumed where they were cut off, checked, then renamed into place.

Nothing is downloaded unless a caller asks for it; `MEDSSL_OFFLINE=1` forbids even that. Proxies are
taken from the environment, as urllib does.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import IO, TYPE_CHECKING, Any, NoReturn

from medssl_models.errors import DownloadError, OfflineError
from medssl_models.files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from medssl_models.card import WeightFile
    from medssl_models.console import Advance, Progress

__all__ = ["DownloadSettings", "Downloaded", "download", "refuse_offline"]

_CHUNK = 2**18
_MIB = 2**20
_LARGEST = 16 * 2**30
_OVERLAP = 2**16
"""Bytes that are asked for again: servers may call two versions of a file by one tag."""
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_WHO = re.compile(r"//[^/?#]*@")
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


@dataclass(frozen=True)
class DownloadSettings:
    """How patient a download is.

    Args:
        timeout: Seconds without a byte after which a connection counts as lost.
        tries: Attempts in a row that may bring nothing new, for each address.
        pause: Seconds before the second attempt; doubled before each further one.
    """

    timeout: float = 60.0
    tries: int = 4
    pause: float = 1.0


@dataclass(frozen=True)
class Downloaded:
    """A file that is whole: where it lies, its SHA-256, and the address that gave it.

    It is not `new` where an earlier call had left it whole; then `url` is only where it would come
    from.
    """

    path: Path
    sha256: str
    url: str
    new: bool = True


class _Lost(Exception):  # noqa: N818 # a state of a connection, never seen by callers
    """The connection ended early; the same address may go on."""


class _Refused(Exception):  # noqa: N818 # see `_Lost`
    """This address does not give the file."""


class _HonestRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no address out of HTTPS, nor to anything but HTTP."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        scheme = newurl.partition(":")[0].lower()
        if scheme not in {"https", req.type}:
            message = f"it leads on to an address of {scheme}, which is not followed"
            raise _Refused(message)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def without_password(url: str) -> str:
    """Leave out what an address says of who asks, for messages and notes.

    Example:
        >>> without_password("https://me:secret@mirror.org/a")
        'https://mirror.org/a'
    """
    return _WHO.sub("//", url, count=1)


def refuse_offline(what: str) -> None:
    """Stop where downloads are forbidden.

    Raises:
        OfflineError: `MEDSSL_OFFLINE` is set to anything but 0.
    """
    if os.environ.get("MEDSSL_OFFLINE", "0") not in {"", "0"}:
        message = f"downloads are forbidden by MEDSSL_OFFLINE: {what}"
        raise OfflineError(message)


def download(
    file: WeightFile,
    folder: Path,
    *,
    mirror: str | None = None,
    refused: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    settings: DownloadSettings | None = None,
) -> Downloaded:
    """Bring a published file into a folder.

    What an interrupted download left (`FILENAME.part`) is continued, if the server still has the
    same file. A file that is there whole is not downloaded again.

    Args:
        file: Its addresses are tried in order.
        folder: Where to; made if needed.
        mirror: Address of a folder that holds files by their published names, tried first.
        refused: Addresses that are not asked (again), and why not.
        progress: Shows how much has come, in MiB.
        settings: How patient to be.

    Returns:
        The file; it has the size and the hash of the card where the card knows them.

    Raises:
        OfflineError: Downloads are forbidden.
        DownloadError: No address gave the file; the message has the reason for each.
        OSError: The file cannot be written.
    """
    urls = [f"{mirror.rstrip('/')}/{file.filename}", *file.urls] if mirror else list(file.urls)
    refuse_offline(without_password(urls[0]))
    known = (refused or {}).items()
    reasons = [f"{without_password(url)}: {reason}" for url, reason in known if url in urls]
    for url in urls:
        if refused and url in refused:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        transfer = _Transfer(url, file, folder, settings or DownloadSettings())
        try:
            return transfer.run(progress)
        except _Refused as refusal:
            reasons.append(f"{without_password(url)}: {refusal}")
        except KeyboardInterrupt as stop:
            kept = transfer.kept // _MIB
            stop.add_note(f"{kept} MiB of {file.filename} are kept, the same command goes on")
            raise
    message = f"{file.filename}: no address serves it: {'; '.join(reasons)}"
    raise DownloadError(message)


@dataclass(frozen=True)
class _Transfer:
    """One file from one address."""

    url: str
    file: WeightFile
    folder: Path
    settings: DownloadSettings

    @property
    def target(self) -> Path:
        return self.folder / self.file.filename

    @property
    def part(self) -> Path:
        return self.folder / f"{self.file.filename}.part"

    @property
    def note(self) -> Path:
        """Says which version of which address the part belongs to."""
        return self.folder / f"{self.file.filename}.part.json"

    @property
    def kept(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def run(self, progress: Progress | None) -> Downloaded:
        new = not self.target.is_file()
        if new:
            if not self.kept or self.kept != self._read_note().get("size"):
                self._receive(progress)
            self._check()
            self.part.replace(self.target)
            self.note.unlink(missing_ok=True)
        return Downloaded(self.target, sha256_of(self.target), without_password(self.url), new)

    def _receive(self, progress: Progress | None) -> None:
        """Ask again for the rest after each loss, as long as that brings something."""
        left, pause = self.settings.tries, self.settings.pause
        while True:
            before = self.kept
            try:
                self._receive_once(progress)
            except _Lost as loss:
                if self.kept > before:
                    left, pause = self.settings.tries, self.settings.pause
                left -= 1
                if left <= 0:
                    raise _Refused(str(loss)) from loss
                time.sleep(pause)
                pause *= 2
            else:
                return

    def _receive_once(self, progress: Progress | None) -> None:
        note = self._read_note()
        offset = max(0, self.kept - _OVERLAP) if note else 0
        with self._open(offset, note.get("validator", "")) as response:
            start, total = _extent(response, offset)
            self._refuse_early(response, total)
            with self.part.open("r+b" if start else "wb") as part:
                part.seek(start)
                if start:
                    start += self._compare(response, part.read(), total)
                part.truncate()
                self._write_note(response, total)
                with _counting(progress, self.file.filename, start, total) as advance:
                    got = start + self._copy(response, part, advance)
        if total is not None and got < total:
            message = f"the connection ended after {got:,} of {total:,} bytes"
            raise _Lost(message)

    def _compare(self, response: http.client.HTTPResponse, kept: bytes, total: int | None) -> int:
        """Read again the end of what is kept; where it is something else by now, forget it all."""
        try:
            again = response.read(len(kept))
        except (http.client.HTTPException, OSError) as error:
            raise _Lost(str(error) or type(error).__name__) from error
        if again == kept:
            return len(kept)
        message = f"the connection ended after {self.kept:,} of {total or self.kept:,} bytes"
        if self.kept > (total or self.kept) or not kept.startswith(again):
            self._forget()
            message = "the file there is another one by now"
        raise _Lost(message)

    @contextmanager
    def _open(self, offset: int, validator: str) -> Iterator[http.client.HTTPResponse]:
        if not self.url.startswith(("https://", "http://")):
            message = "only http and https are used"
            raise _Refused(message)
        headers = {
            "User-Agent": f"medssl-models/{version('medssl-models')}",
            "Accept-Encoding": "identity",
        }
        if offset:
            headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
        opener = urllib.request.build_opener(_HonestRedirects)
        try:
            request = urllib.request.Request(self.url, headers=headers)  # noqa: S310 # checked above
            response = opener.open(request, timeout=self.settings.timeout)
        except urllib.error.HTTPError as error:
            self._judge(error)
        except (ValueError, http.client.InvalidURL) as error:
            message = "this is no address that can be asked"
            raise _Refused(message) from error
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            ConnectionError,
            TimeoutError,
        ) as error:
            raise _Lost(str(error) or type(error).__name__) from error
        with response:
            yield response

    def _judge(self, error: urllib.error.HTTPError) -> NoReturn:
        reason = f"the server answers {error.code} {error.reason}"
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            self._forget()  # the part is longer than the file: it is of another one
            raise _Lost(reason) from error
        raise (_Lost if error.code in _TRANSIENT else _Refused)(reason) from error

    def _refuse_early(self, response: http.client.HTTPResponse, total: int | None) -> None:
        if response.headers.get_content_type() == "text/html":
            message = "the server gives a web page instead of the file; it may need a browser"
            raise _Refused(message)
        known = self.file.size
        if total is not None and (total > _LARGEST or known not in {None, total}):
            message = f"the file there has {total:,} bytes, expected {known or _LARGEST:,}"
            raise _Refused(message)

    def _copy(self, response: IO[bytes], part: IO[bytes], advance: Advance) -> int:
        """Copy what comes; only reading may fail with the connection's errors."""
        got = 0
        while True:
            try:
                chunk = response.read(_CHUNK)
            except (http.client.HTTPException, OSError) as error:
                raise _Lost(str(error) or type(error).__name__) from error
            if not chunk:
                return got
            part.write(chunk)
            got += len(chunk)
            advance(got // _MIB - (got - len(chunk)) // _MIB)
            if got > _LARGEST:
                message = f"it sends more than {_LARGEST:,} bytes"
                raise _Refused(message)

    def _check(self) -> None:
        """Refuse a whole file that is another one, and forget it."""
        found, size = sha256_of(self.part), self.kept
        if self.file.size not in {None, size}:
            self._forget()
            message = f"it gave {size:,} bytes, expected {self.file.size:,}; they were deleted"
            raise _Refused(message)
        known = self.file.hash_start
        if not found.startswith(known):
            self._forget()
            message = (
                f"it gave a file with SHA-256 {found}, expected {known}: damaged on the way, or "
                "replaced at its source; it was deleted"
            )
            raise _Refused(message)

    def _read_note(self) -> dict[str, Any]:
        """Read what the part belongs to; empty where this address cannot continue it."""
        try:
            note = json.loads(self.note.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        known = isinstance(note, dict) and note.get("url") == without_password(self.url)
        usable = known and isinstance(note.get("validator"), str) and note["validator"]
        return note if usable else {}

    def _write_note(self, response: http.client.HTTPResponse, total: int | None) -> None:
        # A weak ETag does not promise equal bytes.
        tag = response.headers.get("ETag", "")
        validator = response.headers.get("Last-Modified", "") if tag.startswith("W/") else tag
        validator = validator or response.headers.get("Last-Modified", "")
        note = {"url": without_password(self.url), "validator": validator, "size": total}
        self.note.write_text(json.dumps(note), "utf-8")

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def _extent(response: http.client.HTTPResponse, offset: int) -> tuple[int, int | None]:
    """Read where the answer begins in the file, and how long the file is where that is said."""
    if response.status == http.client.PARTIAL_CONTENT:
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != offset:
            message = "the server gave another part of the file than the one asked for"
            raise _Refused(message)
        return offset, int(found[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isascii() and length.isdecimal() else None


@contextmanager
def _counting(
    progress: Progress | None, name: str, start: int, total: int | None
) -> Iterator[Advance]:
    if progress is None or total is None:
        yield _ignore
        return
    with progress(f"{name} (MiB)", total // _MIB) as advance:
        advance(start // _MIB)
        yield advance


def _ignore(n: int = 1, *, note: str = "") -> None:
    """Satisfy `Advance` where nothing is shown."""
