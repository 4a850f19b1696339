"""A local HTTP server that can break off, lie about sizes, ignore ranges and answer with web pages."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Serves `files` by path, as badly as a test wants."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.tag = '"one"'
        self.kind = "application/zip"
        self.ranges = True
        self.length: int | None = None
        self.send_length = True
        self.break_after: list[int] = []
        self.statuses: list[int] = []
        self.seen: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        server, start = self.server, 0
        wanted = self.headers.get("Range", "")
        server.seen.append(wanted)
        content = server.files.get(self.path.lstrip("/"))
        if content is None or server.statuses:
            self.send_error(server.statuses.pop(0) if server.statuses else 404)
            return
        unchanged = self.headers.get("If-Range", server.tag) == server.tag
        if wanted and server.ranges and unchanged:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        body = content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if server.send_length:
            self.send_header("Content-Length", str(server.length or len(body)))
        if server.tag:
            self.send_header("ETag", server.tag)
        self.send_header("Content-Type", server.kind)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body[: server.break_after.pop(0)] if server.break_after else body)


@contextlib.contextmanager
def serve() -> Iterator[Server]:
    """Run a server for the length of a block."""
    server = Server()
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
