"""What `xadflow doctor` looks at in Prefect: the server, and what scheduled runs need on it; and who hears of a
failure.

The server is asked over HTTP: importing Prefect would take seconds.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit
from zoneinfo import ZoneInfo

from xadflow.cli.doctor.checks import Finding
from xadflow.errors import BadSettings
from xadflow.progress import moment_text
from xadflow.project import Project
from xadflow.settings import Home, webhook_address

LIMITS = ("gpu", "dvc")  # what tasks take with strict=True; tasks/slots.py makes them for a run without a server
_REACH_S = 10.0  # a busy machine answers late
_BUSY = (429, 502, 503, 504)  # "ask me again": Prefect's own client does, and a locked database is a 503
_PAUSES_S = (0.5, 1.0, 2.0)  # before the second, third and fourth time of asking
_READ_LOG = "read var/log/prefect-server.log"
_OTHER_LAYOUT = (KeyError, TypeError, AttributeError)  # what a prefect.yaml of another shape raises when it is walked
_ALL_OF_IT = "or let `make server` do all of it"


@dataclass(frozen=True)
class _Deployment:
    """One entry of prefect.yaml."""

    flow: str
    name: str
    pool: str | None
    schedules: tuple[tuple[str, str], ...]  # cron and its time zone

    @property
    def crons(self) -> tuple[str, ...]:
        return tuple(cron for cron, _ in self.schedules)


class _Refused(Exception):
    """The server answered, but with an error status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


def prefect_server(home: Home) -> Iterator[Finding]:
    """The server that PREFECT_API_URL names, and on it limits, work pools with a worker, deployments with schedules."""
    if home.prefect_api_url is None:
        yield Finding(
            "prefect", "ok", "no PREFECT_API_URL: each flow starts an ephemeral server; schedules need `make server`"
        )
        return
    try:
        healthy = _ask(home, "health") is True
        yield Finding(
            "prefect",
            "ok" if healthy else "fail",
            f"server {_shown(home)} is {'healthy' if healthy else 'ill'}",
            "" if healthy else _READ_LOG,
        )
        if healthy:
            yield from _limits(home)
            deployments = _readable_deployments(home)
            yield from _pools(home, sorted({one.pool for one in deployments if one.pool}))
            yield from _deployed(home, deployments)
    except _Refused as err:
        yield _refused(home, err)
    except (OSError, http.client.HTTPException, ValueError) as err:
        yield Finding(
            "prefect",
            "fail",
            f"PREFECT_API_URL {_shown(home)} does not answer: {getattr(err, 'reason', err)}",
            "make server, or `unset PREFECT_API_URL`",
        )


def schedules(home: Home) -> Iterator[Finding]:
    """The schedules of prefect.yaml: each in its own time zone, and when it comes next by this machine's clock."""
    import yaml

    now = datetime.now(UTC)
    try:
        crons = [_told(one.name, cron, zone, now) for one in _deployments(home) for cron, zone in one.schedules]
    except OSError:
        yield Finding("schedules", "warn", "no prefect.yaml", "git checkout prefect.yaml")
    except (yaml.YAMLError, *_OTHER_LAYOUT) as err:
        yield Finding("schedules", "fail", f"prefect.yaml cannot be read: {type(err).__name__}", "mend prefect.yaml")
    else:
        yield Finding("schedules", "ok", "; ".join(crons) or "none")


def _told(name: str, cron: str, zone: str, now: datetime) -> str:
    coming = next_run(cron, zone, now)
    return f"{name} {cron} ({zone}{f'; next {moment_text(coming)}' if coming else ''})"


def next_run(cron: str, zone: str, now: datetime) -> datetime | None:
    """When a schedule of one time a day, or a day of the week, comes next; None for others, which Prefect works out.

    >>> next_run("30 3 * * *", "UTC", datetime(2026, 12, 1, 4, 0, tzinfo=UTC)).isoformat()
    '2026-12-02T03:30:00+00:00'
    """
    fields = cron.split()
    if len(fields) != 5 or not (fields[0].isdigit() and fields[1].isdigit()) or fields[2:4] != ["*", "*"]:
        return None
    minute, hour, day = int(fields[0]), int(fields[1]), fields[4]
    if minute > 59 or hour > 23 or not (day == "*" or (day.isdigit() and int(day) <= 7)):
        return None
    try:
        there = now.astimezone(ZoneInfo(zone))
    except (ValueError, OSError, KeyError):  # no such zone
        return None
    for days in range(9):
        then = (there + timedelta(days=days)).replace(hour=hour, minute=minute, second=0, microsecond=0)
        if then > now and (day == "*" or then.isoweekday() % 7 == int(day) % 7):
            return then
    return None


def webhook(project: Project) -> Iterator[Finding]:
    """Where a failed flow is reported; only the host is shown, the rest of the address is a secret."""
    try:
        address = webhook_address(project.home, project.settings)
    except BadSettings as err:
        yield Finding("webhook", "fail", err.wrong, err.next_step)
        return
    where = "XADFLOW_WEBHOOK" if project.home.webhook else "notify.webhook"
    if address is not None:
        yield Finding("webhook", "ok", f"a failed flow is reported to {urlsplit(address).hostname} ({where})")
    else:
        yield Finding(
            "webhook",
            "ok" if project.home.prefect_api_url is None else "warn",
            "none: a failed flow is in the log only",
            "set XADFLOW_WEBHOOK, or notify.webhook in params.yaml",
        )


def _limits(home: Home) -> Iterator[Finding]:
    for name in LIMITS:
        found = _named(home, f"v2/concurrency_limits/{name}")
        if found is None or not found.get("active", True):
            yield Finding(
                f"limit {name}",
                "fail",
                f"{'missing' if found is None else 'not active'}: every run stops at it",
                f"prefect gcl create {name} --limit 1, {_ALL_OF_IT}" if found is None else f"prefect gcl enable {name}",
            )
        else:
            yield Finding(f"limit {name}", "ok", f"{found['active_slots']} of {found['limit']} slots taken")


def _pools(home: Home, names: Sequence[str]) -> Iterator[Finding]:
    for name in names:
        found = _named(home, f"work_pools/{quote(name)}")
        if found is None:
            yield Finding(
                f"pool {name}",
                "fail",
                "missing: no scheduled run can start",
                f"prefect work-pool create {name} --type process, {_ALL_OF_IT}",
            )
            continue
        workers = _ask(home, f"work_pools/{quote(name)}/workers/filter", {})
        online = sum(1 for one in workers if one.get("status") == "ONLINE")
        if found.get("is_paused"):
            yield Finding(f"pool {name}", "fail", "paused: no scheduled run starts", f"prefect work-pool resume {name}")
        elif not online:
            yield Finding(
                f"pool {name}",
                "fail",
                "no worker is online: no scheduled run starts",
                f"prefect worker start --pool {name}, {_ALL_OF_IT}",
            )
        else:
            yield Finding(
                f"pool {name}", "ok", f"{online} worker online" if online == 1 else f"{online} workers online"
            )


def _deployed(home: Home, deployments: Sequence[_Deployment]) -> Iterator[Finding]:
    for one in deployments:
        what, full = f"deployment {one.name}", f"{one.flow}/{one.name}"
        found = _named(home, f"deployments/name/{quote(one.flow)}/{quote(one.name)}")
        if found is None:
            yield Finding(what, "fail", "not deployed", f"prefect --no-prompt deploy --all, {_ALL_OF_IT}")
            continue
        running = [when["schedule"].get("cron") for when in found.get("schedules", ()) if when.get("active")]
        lacking = [cron for cron in one.crons if cron not in running]
        if found.get("paused"):
            yield Finding(what, "fail", f"{full} is paused", "prefect --no-prompt deploy --all")
        elif lacking:
            yield Finding(
                what, "fail", f"{full} has no active schedule {', '.join(lacking)}", "prefect --no-prompt deploy --all"
            )
        else:
            yield Finding(what, "ok", f"{full}, {', '.join(one.crons) or 'no schedule'}")


def _deployments(home: Home) -> list[_Deployment]:
    """The deployments of prefect.yaml; a flow's name is that of its function."""
    import yaml

    entries = yaml.safe_load((home.project / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    return [
        _Deployment(
            str(one.get("entrypoint")).rpartition(":")[2],
            one["name"],
            (one.get("work_pool") or {}).get("name"),
            tuple(
                (when["cron"], str(when.get("timezone") or "UTC"))
                for when in one.get("schedules") or ()
                if "cron" in when
            ),
        )
        for one in entries
    ]


def _readable_deployments(home: Home) -> list[_Deployment]:
    import yaml

    try:
        return _deployments(home)
    except (OSError, yaml.YAMLError, *_OTHER_LAYOUT):  # said by `schedules`
        return []


def _refused(home: Home, err: _Refused) -> Finding:
    if err.status in (401, 403):
        return Finding(
            "prefect",
            "fail",
            f"server {_shown(home)} does not let us in: status {err.status}",
            "set PREFECT_API_AUTH_STRING=user:password (var/secrets/login of `make server`), or PREFECT_API_KEY",
        )
    return Finding("prefect", "fail", f"server {_shown(home)} answers with status {err.status}", _READ_LOG)


def _named(home: Home, path: str) -> dict[str, Any] | None:
    """What the server has under a name, or None."""
    try:
        found = _ask(home, path)
    except _Refused as err:
        if err.status == 404:
            return None
        raise
    return found if isinstance(found, dict) else None


def _ask(home: Home, path: str, body: object = None) -> Any:
    """Decoded answer of one request, asked again while the server is busy. Raises _Refused, or what urllib and json
    raise.
    """
    for pause_s in (*_PAUSES_S, None):
        try:
            return ask_prefect(str(home.prefect_api_url), path, body, home.prefect_authorization)
        except urllib.error.HTTPError as err:
            if pause_s is None or err.code not in _BUSY:
                raise _Refused(err.code) from err
        except OSError as err:  # what urllib raises of a connection, and wraps as the reason of an error of its own
            if pause_s is None or not isinstance(getattr(err, "reason", err), TimeoutError | ConnectionResetError):
                raise
        time.sleep(pause_s)
    raise AssertionError("the last time of asking answers or raises")


def ask_prefect(api: str, path: str, body: object = None, authorization: str | None = None) -> Any:
    """Decoded answer of a Prefect server, as its own client asks: with a login, and for a POST with a token.

    A guarded server takes a POST only with a token that it gave before, since no page of another origin can read one.
    Raises what urllib and json raise.
    """
    headers = {"Content-Type": "application/json"}
    if authorization is not None:
        headers["Authorization"] = authorization
    content = None if body is None else json.dumps(body).encode()
    if content is not None:
        client = str(uuid.uuid4())
        try:
            token = ask_prefect(api, f"csrf-token?client={client}", authorization=authorization)["token"]
            headers |= {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": client}
        except urllib.error.HTTPError:
            pass  # it asks for none, or it refuses us: the question itself is answered
    request = urllib.request.Request(f"{api.rstrip('/')}/{path}", content, headers)
    with urllib.request.urlopen(request, timeout=_REACH_S) as answer:
        return json.load(answer)


def _shown(home: Home) -> str:
    from xadflow.models.tracking_store import shown

    return shown(str(home.prefect_api_url))
