"""The rules of the door and of the worker, case by case; real servers answer in another file."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from flows.servers.doors import Door
from flows.servers.worker import check_is_own, declared
from tests.checkout import PROJECT
from xadflow.errors import WrongUse

OWN = {"nightly": "flows/explain.py:explain"}


def asked(kind: str, *headers: tuple[str, str]) -> list[Any]:
    """What the door sends, or `["inside"]` where it lets in."""
    sent: list[Any] = []

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        sent.append("inside")

    async def receive() -> Any:
        return {}

    async def send(message: Any) -> None:
        sent.append(message.get("status", message.get("code")))

    scope = {"type": kind, "headers": [(name.encode(), value.encode()) for name, value in headers]}
    asyncio.run(Door(inside, "http://127.0.0.1:4200")(scope, receive, send))
    return sent


HOST = ("host", "127.0.0.1:4200")


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    "headers",
    [
        (HOST,),
        (("Host", "LOCALHOST:4200"),),
        (HOST, ("origin", "http://127.0.0.1:4200")),
        (HOST, ("origin", "http://localhost:4200")),
    ],
)
def test_the_own_name_and_origin_are_let_in(kind: str, headers: tuple[tuple[str, str], ...]):
    assert asked(kind, *headers) == ["inside"]


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("host", "127.0.0.1"),),
        (("host", "127.0.0.1:4201"),),
        (("host", "attacker.example"),),
        (("host", "127.0.0.1:4200.attacker.example"),),
        (HOST, ("host", "attacker.example")),
        (HOST, ("origin", "null")),
        (HOST, ("origin", "http://127.0.0.1:8000")),
        (HOST, ("origin", "https://127.0.0.1:4200")),
        (HOST, ("origin", "http://127.0.0.1:4200"), ("origin", "https://attacker.example")),
    ],
)
def test_other_names_and_origins_are_refused(kind: str, headers: tuple[tuple[str, str], ...]):
    assert asked(kind, *headers)[0] == (403 if kind == "http" else 1008)


def test_start_and_end_of_the_server_go_through():
    assert asked("lifespan") == ["inside"]


def deployment(**changes: Any) -> Any:
    own = {
        "name": "nightly",
        "entrypoint": OWN["nightly"],
        "path": str(PROJECT),
        "pull_steps": None,
        "job_variables": {},
    }
    return SimpleNamespace(**{**own, **changes})


def step(folder: object) -> list[dict[str, Any]]:
    return [{"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}]


@pytest.mark.parametrize(
    "changes", [{}, {"path": None}, {"path": "."}, {"pull_steps": step(PROJECT)}, {"pull_steps": []}]
)
def test_the_projects_own_deployments_run(changes: dict[str, Any]):
    check_is_own(SimpleNamespace(job_variables=None), deployment(**changes), False, OWN, PROJECT)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "evil"},
        {"entrypoint": "flows/retrain.py:retrain"},
        {"entrypoint": "/tmp/evil.py:flow"},
        {"entrypoint": None},
        {"path": "/tmp"},
        {"pull_steps": step("/tmp")},
        {"pull_steps": [{"prefect.deployments.steps.run_shell_script": {"script": "id"}}]},
        {"pull_steps": [{**step(PROJECT)[0], "prefect.deployments.steps.run_shell_script": {"script": "id"}}]},
        {"pull_steps": step(PROJECT) + [{"prefect.deployments.steps.git_clone": {"repository": "x"}}]},
        {"job_variables": {"command": "id"}},
        {"job_variables": {"env": {"LD_PRELOAD": "/tmp/evil.so"}}},
        {"job_variables": {"working_dir": "/tmp"}},
    ],
)
def test_any_other_deployment_is_refused(changes: dict[str, Any]):
    with pytest.raises(WrongUse, match="this worker runs the deployments"):
        check_is_own(SimpleNamespace(job_variables=None), deployment(**changes), False, OWN, PROJECT)


@pytest.mark.parametrize(
    ("variables", "its", "has_command"),
    [({"env": {"PYTHONPATH": "/tmp"}}, deployment(), False), (None, None, False), (None, deployment(), True)],
)
def test_variables_of_a_run_no_deployment_or_a_command_of_the_pool_are_refused(variables, its, has_command):
    with pytest.raises(WrongUse, match="this worker runs the deployments"):
        check_is_own(SimpleNamespace(job_variables=variables), its, has_command, OWN, PROJECT)


def test_what_prefect_yaml_declares_is_what_runs():
    assert declared(PROJECT) == {"weekly": "flows/retrain.py:retrain", "nightly": "flows/explain.py:explain"}
