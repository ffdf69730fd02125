"""What somebody without the login, another page or another host name asks of `make server`, and what each got.

`OPEN` answers everybody: that a server is up, and the shell of Prefect's page, which holds no data.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import queue
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

OPEN = {"prefect": ("/api/health", "/api/ready", "/", "/ui-settings"), "mlflow": ("/health",)}
REFUSED = (400, 401, 403, 404, 405)
FOREIGN = {"Origin": "https://attacker.example"}
NULL = {"Origin": "null"}
SOCKETS = ("/api/events/in", "/api/events/out", "/api/logs/out")
JSON = {"Content-Type": "application/json"}
PLAIN = {"Content-Type": "text/plain"}  # what a page of another origin may send without asking first
EVIL = {
    "name": "evil",
    "flow_id": "00000000-0000-0000-0000-000000000000",
    "work_pool_name": "local",
    "job_variables": {"command": "touch /tmp/evil"},
}


@dataclass(frozen=True)
class Request:
    """One request and who makes it; `host` None: the server's own name."""

    who: str
    service: str
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    host: str | None = None
    has_login: bool = False


def requests() -> Iterator[Request]:
    """All of them."""
    reads = {
        "prefect": (
            "/api/admin/settings",
            "/api/admin/version",
            "/api/flows/count",
            "/api/csrf-token?client=a",
            "/api/openapi.json",
        ),
        "mlflow": (
            "/",
            "/api/2.0/mlflow/registered-models/search",
            "/ajax-api/2.0/mlflow/experiments/search?max_results=5",
            "/get-artifact?path=a&run_uuid=b",
            "/model-versions/get-artifact?path=a&name=b&version=1",
            "/graphql",
            "/metrics",
            "/version",
        ),
    }
    writes = {
        "prefect": (
            ("POST", "/api/deployments/", EVIL),
            ("POST", "/api/deployments/filter", {}),
            ("POST", "/api/flow_runs/filter", {}),
            ("POST", "/api/work_pools/local/get_scheduled_flow_runs", {}),
            ("PATCH", "/api/work_pools/local", {"base_job_template": {}}),
            ("POST", "/api/admin/database/clear", {"confirm": True}),
            ("POST", "/api/variables/", {"name": "a", "value": "b"}),
            ("DELETE", "/api/flow_runs/00000000-0000-0000-0000-000000000000", None),
        ),
        "mlflow": (
            ("POST", "/api/2.0/mlflow/registered-models/alias", {"name": "a", "alias": "champion", "version": "1"}),
            ("POST", "/api/2.0/mlflow/registered-models/create", {"name": "evil"}),
            ("POST", "/api/2.0/mlflow/model-versions/create", {"name": "evil", "source": "file:///tmp"}),
            ("POST", "/api/2.0/mlflow/runs/create", {"experiment_id": "0"}),
            ("POST", "/api/2.0/mlflow/users/create", {"username": "evil", "password": "evil-evil-evil"}),
            ("DELETE", "/api/2.0/mlflow/registered-models/delete", {"name": "a"}),
        ),
    }
    for service, paths in reads.items():
        for path in paths:
            yield Request("another user of the machine", service, "GET", path)
        yield Request("another host name, with the login", service, "GET", paths[1], host="evil.test", has_login=True)
        yield Request("another user, a wrong login", service, "GET", paths[1], _basic("xadflow:wrong"))
    for service, each in writes.items():
        for method, path, body in each:
            yield Request("another user of the machine", service, method, path, JSON, body)
        method, path, body = each[0]
        yield Request("a page of another origin", service, method, path, {**PLAIN, **FOREIGN}, body)
        yield Request(
            "a page of another origin, with the login", service, method, path, {**JSON, **FOREIGN}, body, None, True
        )
        yield Request(
            "a page without an origin, with the login", service, method, path, {**JSON, **NULL}, body, None, True
        )
        yield Request("another host name, with the login", service, method, path, JSON, body, "evil.test:80", True)
    yield Request(
        "a form of the same browser: login, no token", "prefect", "POST", "/api/deployments/", JSON, EVIL, None, True
    )
    for path in SOCKETS:
        yield Request("another user of the machine", "prefect", "SOCKET", path)
        yield Request("a page of another origin", "prefect", "SOCKET", path, FOREIGN)


def answer(request: Request, port: int, login: str) -> int:
    """The status that a request got; of a socket that was opened and then closed without a word, 403."""
    headers = {**request.headers, **(_basic(login) if request.has_login else {})}
    headers["Host"] = request.host or f"127.0.0.1:{port}"
    if request.method == "SOCKET":
        return _socket(port, request.path, headers)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        body = None if request.body is None else json.dumps(request.body)
        connection.request(request.method, request.path, body, headers)
        return connection.getresponse().status


def _basic(login: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}


def _socket(port: int, path: str, headers: Mapping[str, str]) -> int:
    """Whether a socket gives a word to who has no login: 200 if it does, otherwise the status or 403."""
    asked = {**headers, "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    asked["Sec-WebSocket-Key"] = base64.b64encode(os.urandom(16)).decode()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in asked.items()), "", ""]
        line.sendall("\r\n".join(lines).encode())
        status = int(line.recv(4096).split()[1])
        if status != 101:
            return status
        line.sendall(_frame(b'{"type": "auth", "token": "wrong"}'))  # the first word that Prefect waits for
        with contextlib.suppress(TimeoutError):
            told = line.recv(4096)
            return 200 if told and told[0] & 0x0F in (1, 2) and b"auth_success" in told else 403
    return 403


def _frame(text: bytes) -> bytes:
    mask = os.urandom(4)
    return bytes([0x81, 0x80 | len(text)]) + mask + bytes(one ^ mask[at % 4] for at, one in enumerate(text))


PAGE = """<!doctype html><script>
const asks = ADDRESSES.flatMap(([read, write]) => [
  fetch(read, {credentials: "include"}).then(one => one.text()).then(text => "read " + read),
  fetch(write, {method: "POST", mode: "no-cors", body: "{}"}).then(() => null),
  new Promise((done, fail) => {
    const line = new WebSocket(read.replace("http", "ws").split("/api")[0] + "/api/events/out");
    line.onmessage = () => done("a word of " + read); line.onclose = fail; line.onerror = fail;
  }),
]);
const patience = asks.map(one => Promise.race([one, new Promise(done => setTimeout(() => done(null), 10000))]));
Promise.allSettled(patience).then(all => {
  const got = all.map(one => one.value).filter(Boolean);
  fetch("/told", {method: "POST", body: got.length ? got.join(", ") : "nothing was read"});
});
</script>"""


def page_of_another_origin(prefect: int, mlflow: int, folder: Path) -> str | None:
    """What a page from another port could read of both servers, as it tells; None where there is no browser."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        return None
    addresses = [
        [f"http://127.0.0.1:{prefect}/api/flows/count", f"http://127.0.0.1:{prefect}/api/deployments/"],
        [
            f"http://127.0.0.1:{mlflow}/api/2.0/mlflow/registered-models/search",
            f"http://127.0.0.1:{mlflow}/api/2.0/mlflow/registered-models/create",
        ],
    ]
    told: queue.Queue[str] = queue.Queue()
    handler = partial(_PageServer, PAGE.replace("ADDRESSES", json.dumps(addresses)), told)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        words = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'browser'}"]
        words += ["--remote-debugging-port=0", f"http://127.0.0.1:{server.server_port}/"]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
            try:
                return told.get(timeout=300)
            finally:
                child.kill()
                server.shutdown()


class _PageServer(BaseHTTPRequestHandler):
    """The page, and what it tells."""

    def __init__(self, page: str, told: queue.Queue[str], *rest: Any) -> None:
        self._page, self._told = page.encode(), told
        super().__init__(*rest)

    def do_GET(self) -> None:
        self._answer(self._page)

    def do_POST(self) -> None:
        self._told.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self._answer(b"")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test's output is not a web server's log."""
