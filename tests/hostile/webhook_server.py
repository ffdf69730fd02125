"""A real HTTP server on loopback that takes what a failed flow reports, and answers as it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Webhook:
    """`address` + /<status> is answered with that status; /302 leads to /200. `got` holds (method, path, content)."""

    address: str
    got: list[tuple[str, str, Any]] = field(default_factory=list)


@contextmanager
def listening() -> Iterator[Webhook]:
    """The server, up for the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hook.got.append((self.command, self.path, json.loads(content) if content else None))
            status = int(self.path.split("/")[1])
            self.send_response(status)
            if status in (301, 302, 307, 308):
                self.send_header("Location", self.path.replace(f"/{status}/", "/200/"))
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hook = Webhook(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hook
        finally:
            server.shutdown()
            thread.join()
