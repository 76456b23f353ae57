"""A local HTTP server with faults on demand, for tests of downloads."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FaultyServer", "serving"]


@dataclass
class FaultyServer:
    """Serves the same content at every path, with the faults that a test asks for.

    Args:
        content: The file.
        ranges: Whether `Range` is honoured.
        etag: Sent with every answer.
        html: Answer with a web page.
        length: Whether `Content-Length` is sent.
        drops: After how many bytes the next answers end; each is used once.
        statuses: Errors that come before any answer; each is used once.
        asked: The `Range` of each request so far, None where there was none.
        paths: How often each path was asked for.
    """

    content: bytes
    ranges: bool = True
    etag: str = '"one"'
    html: bool = False
    length: bool = True
    drops: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)
    paths: Counter[str] = field(default_factory=Counter)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one GET request."""
        self.paths[handler.path] += 1
        self.asked.append(handler.headers.get("Range"))
        if self.statuses:
            handler.send_error(self.statuses.pop(0))
            return
        start = self._start(handler)
        if start >= len(self.content) > 0:
            handler.send_error(416)
            return
        body = self.content[start:]
        handler.send_response(206 if start else 200)
        for name, value in self._headers(start):
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body[: self.drops.pop(0)] if self.drops else body)

    def _start(self, handler: BaseHTTPRequestHandler) -> int:
        wanted = handler.headers.get("Range", "")
        if wanted and self.ranges and handler.headers.get("If-Range") == self.etag:
            return int(wanted.removeprefix("bytes=").removesuffix("-"))
        return 0

    def _headers(self, start: int) -> Iterator[tuple[str, str]]:
        total = len(self.content)
        yield "Content-Type", "text/html" if self.html else "application/octet-stream"
        if start:
            yield "Content-Range", f"bytes {start}-{total - 1}/{total}"
        if self.length:
            yield "Content-Length", str(total - start)
        if self.etag:
            yield "ETag", self.etag


@contextmanager
def serving(server: FaultyServer) -> Iterator[str]:
    """Run a server in a thread; yield its address, such as `http://127.0.0.1:40123`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.answer(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # http.server's name
            """Say nothing."""

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Pass over clients that hang up."""

    http = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
