"""Prefect's server behind our door: only its own host name and origin are let in, before Prefect looks at a login.

Prefect checks a login and tells browsers which origins may read; it does not look at the Host header, and a page of
another origin may still send. MLflow's server checks both by itself (`--allowed-hosts`, `--cors-allowed-origins`).

    python -m uvicorn --factory flows.servers.doors:prefect_app --host 127.0.0.1 --port 4200
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from xadflow.settings.environment import prefect_origin

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Door:
    """An ASGI application that answers 403 to requests by another host name, or from a page of another origin."""

    def __init__(self, inside: App, origin: str) -> None:
        self._inside, self._origins = inside, allowed_origins(origin)
        self._hosts = {one.partition("://")[2] for one in self._origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let in or refuse; what is no request (start and end of the server) goes through."""
        if scope["type"] not in ("http", "websocket") or self._is_let_in(scope):
            await self._inside(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": b"another host name or origin than this server's\n"})

    def _is_let_in(self, scope: Scope) -> bool:
        named: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            named.setdefault(name.lower(), []).append(value.decode("latin-1").lower())
        hosts, origins = named.get(b"host", []), named.get(b"origin", [])
        return len(hosts) == 1 and hosts[0] in self._hosts and all(one in self._origins for one in origins)


def allowed_origins(origin: str) -> tuple[str, ...]:
    """http://127.0.0.1:PORT, which the servers listen at, and the same by the name localhost."""
    port = origin.rpartition(":")[2]
    return f"http://127.0.0.1:{port}", f"http://localhost:{port}"


def prefect_app() -> App:
    """Prefect's server and its services, behind the door."""
    from prefect.server.api.server import create_app

    return Door(create_app(final=True), prefect_origin())
