"""`make server` for a small project, once: both deployments triggered, a cron of one minute, SIGTERM; then looked at.

One fixture lives through the whole evening and keeps what it saw; the tests only read that.
"""

import contextlib
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from deltalake import DeltaTable
from real_servers import FINAL, RealServers, Watcher, living, until
from server_logs import tracebacks
from strangers import EVIL, OPEN, REFUSED, Request, answer, page_of_another_origin, requests

from benchmarks.small_project import draw_arrivals, draw_screws, make_project, project_environment
from xadflow.settings.environment import QUIET

pytestmark = [pytest.mark.server, pytest.mark.slow]

EVERY_MINUTE = "* * * * *"
# Servers and schedules are looked at here, not detectors: the cheap explainer at night, and a gate that lets pass what
# these few small images give.
CHANGES = {
    "retrain: {datasets: [elpv],": "retrain: {datasets: [],",  # `xadflow data add` lists ours
    (
        "explain: {datasets: [elpv], explainers: [heatmap, transplant, sparse, reconstruction, cues],"
    ): "explain: {datasets: [], explainers: [heatmap],",
    "iterations: 75,": "iterations: 5,",
    "min_flip_rate: 0.9 ": "min_flip_rate: 0.0 ",
    "min_change_inside: 0.3 ": "min_change_inside: 0.0 ",
    "explained: 48 ": "explained: 1 ",
    "min_images: 5 ": "min_images: 1 ",
}
# What a task does that meets a limit nobody made.
UNLIMITED = """
from prefect import task
from tasks.slots import slot

@task
def guarded():
    with slot("nobody-made-this"):
        print("worked without a limit")

guarded()
"""
# What the next start does about a run whose worker is gone.
NEXT_START = """
from prefect.client.orchestration import get_client
from flows.servers.cut_off import end_cut_off_runs

with get_client(sync_client=True) as client:
    end_cut_off_runs(client)
"""


@dataclass(frozen=True)
class CutOff:
    """What became of two runs without a worker, of the process of the first and of a stranger."""

    states: list[str]
    slots: tuple[int, int]
    own_status: int | None
    stranger_status: int | None


@dataclass
class Evening:
    """What was seen."""

    servers: RealServers
    watcher: Watcher
    deployments: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    retrained: dict[str, Any] = field(default_factory=dict)
    late: dict[str, Any] = field(default_factory=dict)
    scheduled: dict[str, Any] = field(default_factory=dict)
    champion: dict[str, Any] = field(default_factory=dict)
    cut_off: CutOff | None = None
    refused: dict[str, subprocess.CompletedProcess[str]] = field(default_factory=dict)
    unlimited: subprocess.CompletedProcess[str] | None = None
    strangers: list[tuple[Request, int]] = field(default_factory=list)
    everybody: dict[str, int] = field(default_factory=dict)
    page: str | None = None
    foreign: dict[str, Any] = field(default_factory=dict)
    before: tuple[Any, ...] = ()
    after: tuple[Any, ...] = ()
    stop_status: int | None = None
    left: list[str] = field(default_factory=list)

    def table(self, name: str) -> pd.DataFrame:
        return DeltaTable(self.servers.state / "tables" / name).to_pyarrow_table().to_pandas()

    def environments(self, words: str) -> list[dict[str, str]]:
        """Those of the processes whose command has these words."""
        return [one.environment for one in self.watcher.processes if words in one.command]


@pytest.fixture(scope="module")
def evening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evening]:
    root = tmp_path_factory.mktemp("evening")
    project, images = root / "project", root / "screws"
    make_project(project, CHANGES)
    move_crons_away(project / "prefect.yaml")
    draw_screws(images)
    environment = project_environment(project)
    for name in (*QUIET, "DVC_SITE_CACHE_DIR", "MPLCONFIGDIR"):
        environment.pop(name, None)  # an earlier test may have left them in this process
    environment["OMP_NUM_THREADS"] = "1"  # threads that wait for each other on a busy machine take minutes
    environment["PREFECT_WORKER_QUERY_SECONDS"] = "2"  # 10 by default: only the wait between a due run and its start
    servers = RealServers(project, root / "state", environment)
    seen = Evening(servers, Watcher(servers.state))
    try:
        with seen.watcher.watching():
            servers.start()
            added = subprocess.run(
                ["xadflow", "data", "add", "screws", str(images), "--size-px", "64"],
                cwd=project,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert added.returncode == 0, added.stdout + added.stderr
            servers.wait_until_ready()
            look_at_deployments(seen)
            knock(seen, root)
            run_by_hand(seen)
            run_by_cron(seen)
            cut_off_two_runs(seen)
            seen.stop_status = servers.stop()
        seen.left = [" ".join(process.cmdline()) for process in living(servers.state)]
        yield seen
    finally:
        servers.end()


def move_crons_away(path: Path) -> None:
    """Twelve hours from now, so that the schedules of the project itself stay out of this evening."""
    hour = (datetime.now(UTC).hour + 12) % 24
    text, count = re.subn(r'cron: "(\d+) \d+ ', rf'cron: "\1 {hour} ', path.read_text())
    assert count == 2
    path.write_text(text)


def look_at_deployments(seen: Evening) -> None:
    flows = {one["id"]: one["name"] for one in seen.servers.ask("flows/filter", {})}
    seen.deployments = {
        f"{flows[one['flow_id']]}/{one['name']}": one for one in seen.servers.ask("deployments/filter", {})
    }
    seen.limits = {one["name"]: one["limit"] for one in seen.servers.ask("v2/concurrency_limits/filter", {})}


def knock(seen: Evening, root: Path) -> None:
    """Everything that a stranger may try, a page of another origin in a browser, and a deployment of somebody else."""
    servers = seen.servers
    ports = {"prefect": servers.prefect_port, "mlflow": servers.mlflow_port}
    seen.before = what_is_there(servers)
    seen.strangers = [(one, answer(one, ports[one.service], servers.login)) for one in requests()]
    for service, paths in OPEN.items():
        for path in paths:
            status = answer(Request("anybody", service, "GET", path), ports[service], servers.login)
            seen.everybody[f"{service} {path}"] = status
    seen.page = page_of_another_origin(servers.prefect_port, servers.mlflow_port, root)
    seen.after = what_is_there(servers)
    nightly = seen.deployments["explain/nightly"]
    evil = {**EVIL, "flow_id": nightly["flow_id"], "entrypoint": nightly["entrypoint"]}
    evil["job_variables"] = {"command": f"touch {root / 'evil'}"}
    made = servers.ask("deployments/", evil)
    seen.foreign = servers.outcome(str(servers.ask(f"deployments/{made['id']}/create_flow_run", {})["id"]))
    servers.ask(f"deployments/{made['id']}", method="DELETE")


def what_is_there(servers: RealServers) -> tuple[Any, ...]:
    """What a stranger might have changed."""
    deployments = servers.ask("deployments/filter", {})
    pool = servers.ask("work_pools/local")
    models = servers.ask_mlflow("registered-models/search")
    return (
        sorted(one["name"] for one in deployments),
        pool["base_job_template"],
        servers.ask("variables/filter", {}),
        models,
    )


def run_by_hand(seen: Evening) -> None:
    """Both deployments, as docs/how-to says; the night as one that could not start when it was due.

    While that works, a cron of one minute is set (its first runs are cancelled: one run of a deployment at a time), and
    everything is tried that has to be refused.
    """
    servers = seen.servers
    seen.retrained = servers.outcome(servers.trigger("retrain/weekly"))
    seen.champion = servers.ask_mlflow("registered-models/alias?name=xad.screws.fcdd&alias=champion")["model_version"]
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    nightly = seen.deployments["explain/nightly"]["id"]
    late = servers.begin_later(nightly, f"{yesterday}T23:59:00Z")
    servers.ask(f"deployments/{nightly}/schedules", [{"schedule": {"cron": EVERY_MINUTE, "timezone": "UTC"}}])
    seen.refused["second"] = servers.again()
    seen.refused["port"] = servers.again(XADFLOW_HOME=servers.state.parent / "other")
    seen.unlimited = servers.terminal("python", "-c", UNLIMITED)
    seen.late = servers.outcome(late)


def run_by_cron(seen: Evening) -> None:
    """New images come, and nobody starts anything."""
    servers = seen.servers
    draw_arrivals(servers.state / "inbox" / "screws", 3, seed=1)
    done = {
        "flow_runs": {"state": {"type": {"any_": sorted(FINAL - {"CANCELLED"})}}},
        "deployments": {"id": {"any_": [seen.deployments["explain/nightly"]["id"]]}},
        "sort": "END_TIME_DESC",
    }

    def cron_runs() -> list[dict[str, Any]]:
        return [one for one in servers.ask("flow_runs/filter", done) if one["auto_scheduled"]]  # the newest first

    until(lambda: bool(cron_runs()), servers.worker_log)
    seen.scheduled = cron_runs()[-1]
    deployment = servers.ask(f"deployments/{seen.deployments['explain/nightly']['id']}")
    (schedule,) = (one for one in deployment["schedules"] if one["schedule"]["cron"] == EVERY_MINUTE)
    servers.ask(f"deployments/{deployment['id']}/schedules/{schedule['id']}", method="DELETE")


def cut_off_two_runs(seen: Evening) -> None:
    """Two runs that Prefect believes to be under way while no worker knows of them, as after a power failure.

    Of the first, the process lives on; the second's process id belongs to a stranger by now.
    """
    servers, deployment = seen.servers, seen.deployments["retrain/weekly"]["id"]
    runs = [servers.begin_by_nobody(deployment, "PENDING", force=False)]
    runs.append(servers.begin_by_nobody(deployment, "RUNNING", force=True))
    wait = [sys.executable, "-c", "import time; time.sleep(3600)"]
    with contextlib.ExitStack() as stack:
        processes = []
        for run_id, told in zip(runs, (runs[0], "another run"), strict=True):
            process = subprocess.Popen(wait, env={"PREFECT__FLOW_RUN_ID": told}, start_new_session=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            servers.ask(f"flow_runs/{run_id}", {"infrastructure_pid": str(process.pid)}, method="PATCH")
            processes.append(process)
        before = servers.taken_slots(deployment)
        done = servers.terminal("python", "-c", NEXT_START)
        assert done.returncode == 0, done.stderr
        seen.cut_off = CutOff(
            states=[servers.ask(f"flow_runs/{run_id}")["state_type"] for run_id in runs],
            slots=(before, servers.taken_slots(deployment)),
            own_status=processes[0].wait(60),
            stranger_status=processes[1].poll(),
        )


def test_both_deployments_are_there_with_the_crons_of_prefect_yaml(evening: Evening) -> None:
    wanted = {
        f"{Path(one['entrypoint'].partition(':')[0]).stem}/{one['name']}": [
            (when["cron"], when["timezone"]) for when in one["schedules"]
        ]
        for one in yaml.safe_load((evening.servers.project / "prefect.yaml").read_text())["deployments"]
    }
    assert set(wanted) == {"retrain/weekly", "explain/nightly"}
    for name, crons in wanted.items():
        deployment = evening.deployments[name]
        assert [(one["schedule"]["cron"], one["schedule"]["timezone"]) for one in deployment["schedules"]] == crons
        assert all(one["active"] for one in deployment["schedules"])
        assert deployment["paused"] is False
        assert deployment["global_concurrency_limit"]["limit"] == 1


def test_both_deployments_run_to_completion(evening: Evening) -> None:
    for run in (evening.retrained, evening.late):
        assert run["state_type"] == "COMPLETED", run["state"]
        assert run["auto_scheduled"] is False


def test_the_model_is_in_the_mlflow_server_and_the_rows_are_in_the_tables(evening: Evening) -> None:
    assert (evening.champion["name"], evening.champion["version"]) == ("xad.screws.fcdd", "1")
    scores, explanations = evening.table("scores"), evening.table("explanations")
    mine = scores[scores.run_id == f"{evening.late['id']}-screws-fcdd"]
    assert len(mine) >= 30  # the data set's test images
    assert mine.is_anomaly.any()
    assert set(mine.model_version) == {1}
    assert set(explanations.image_id) == set(scores[scores.is_anomaly].image_id)


def test_a_night_that_starts_late_keeps_the_day_it_was_scheduled_for(evening: Evening) -> None:
    due, begun = (datetime.fromisoformat(evening.late[key]).date() for key in ("expected_start_time", "start_time"))
    assert due < begun
    for name in ("scores", "explanations"):
        rows = evening.table(name)
        assert set(rows[rows.run_id == f"{evening.late['id']}-screws-fcdd"].run_date) == {due}


def test_the_cron_starts_a_run_by_itself_and_its_rows_have_the_scheduled_day(evening: Evening) -> None:
    run = evening.scheduled
    assert run["state_type"] == "COMPLETED", run["state"]
    assert run["auto_scheduled"] is True
    assert run["created_by"]["type"] == "SCHEDULE"
    due = datetime.fromisoformat(run["expected_start_time"])
    assert (due.second, due.microsecond) == (0, 0)
    scores = evening.table("scores")
    mine = scores[scores.run_id == f"{run['id']}-screws-fcdd"]
    assert len(mine) == 3  # what came into the inbox; the file that is no image is in quarantine
    assert set(mine.run_date) == {due.date()}


def test_every_process_is_quiet_from_its_start_and_a_flow_run_knows_its_servers(evening: Evening) -> None:
    servers = evening.servers
    runs = [one for one in evening.environments("prefect.engine") if "PREFECT__FLOW_RUN_ID" in one]
    assert {one["PREFECT__FLOW_RUN_ID"] for one in runs} >= {
        run["id"] for run in (evening.retrained, evening.late, evening.scheduled)
    }
    services = ("uvicorn --factory flows.servers.doors", "mlflow server", "flows.servers.worker", "prefect --no-prompt")
    others = [evening.environments(f"-m {words}") for words in services]
    assert all(others)
    told = {
        **QUIET,
        "PREFECT_API_URL": servers.api,
        "MLFLOW_TRACKING_URI": servers.mlflow,
        "XADFLOW_HOME": str(servers.state),
        "XADFLOW_PROJECT": str(servers.project),
        "PREFECT_HOME": str(servers.state / "prefect"),
        "DVC_SITE_CACHE_DIR": str(servers.state / "dvc-site"),
    }
    for environment in [*runs, *(one for group in others for one in group)]:
        has = {name: environment.get(name, "") for name in told}
        assert {name: value for name, value in has.items() if value.casefold() != told[name].casefold()} == {}


def test_no_stranger_reads_or_changes_anything(evening: Evening) -> None:
    let_in = [(one, status) for one, status in evening.strangers if status not in REFUSED]
    assert let_in == []
    assert len(evening.strangers) >= 40
    assert {one.service for one, _ in evening.strangers} == {"prefect", "mlflow"}
    assert evening.after == evening.before
    assert set(evening.everybody.values()) == {200}  # the table knows what is open


def test_a_page_of_another_origin_gets_no_answer(evening: Evening) -> None:
    """In a browser where the machine has one; what a browser sends is in the table of strangers in any case."""
    assert evening.page in (None, "nothing was read")


def test_the_worker_refuses_a_command_that_the_project_does_not_declare(evening: Evening) -> None:
    assert evening.foreign["state_type"] in ("CRASHED", "FAILED")
    assert not (evening.servers.project.parent / "evil").exists()
    assert "this worker runs the deployments of its project's prefect.yaml" in evening.foreign["state"]["message"]


def test_the_login_is_for_the_owner_alone(evening: Evening) -> None:
    state = evening.servers.state
    for path, mode in ((state, 0o700), (state / "secrets", 0o700), (state / "secrets" / "login", 0o600)):
        assert path.stat().st_mode & 0o777 == mode
    password = evening.servers.login.partition(":")[2]
    logs = [path for path in (state / "log").iterdir() if password in path.read_text(errors="replace")]
    assert logs == []
    assert not any(password in one.command for one in evening.watcher.processes)


def test_nothing_listens_beyond_loopback(evening: Evening) -> None:
    assert evening.watcher.listening <= {"127.0.0.1", "::1"}
    assert evening.watcher.listening


def test_the_limits_are_there_and_a_task_that_lacks_one_fails_loudly(evening: Evening) -> None:
    assert evening.limits["gpu"] == 1
    assert evening.limits["dvc"] == 1
    assert evening.unlimited.returncode != 0
    assert "gcl create nobody-made-this" in evening.unlimited.stderr
    assert "worked without a limit" not in evening.unlimited.stdout
    assert "nobody-made-this" not in evening.limits


def test_a_second_make_server_says_what_is_up_and_what_to_do(evening: Evening) -> None:
    second, port = evening.refused["second"], evening.refused["port"]
    for one in (second, port):
        assert one.returncode == 2
        assert "Traceback" not in one.stderr
        assert "Next: " in one.stderr
    assert evening.servers.api.removesuffix("/api") in second.stderr
    assert "is up already" in second.stderr
    assert f"got {evening.servers.prefect_port}" in port.stderr
    assert "in use" in port.stderr
    assert "PREFECT_PORT=" in port.stderr


def test_runs_that_were_cut_off_are_ended_and_their_slot_is_free(evening: Evening) -> None:
    assert evening.cut_off.states == ["CRASHED", "CRASHED"]
    assert evening.cut_off.slots == (1, 0)
    assert evening.cut_off.own_status == -signal.SIGKILL
    assert evening.cut_off.stranger_status is None


def test_sigterm_ends_every_process_and_frees_the_ports(evening: Evening) -> None:
    assert evening.stop_status == 0
    assert evening.left == []
    assert evening.servers.said().endswith("all stopped\n")
    for port in (evening.servers.prefect_port, evening.servers.mlflow_port):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))


def test_no_server_log_has_a_traceback_but_for_a_locked_database(evening: Evening, capsys) -> None:
    logs = sorted((evening.servers.state / "log").iterdir())
    assert [log.stem for log in logs] == ["deploy", "mlflow-server", "prefect-server", "worker"]
    found = [one for log in logs for one in tracebacks(log)]
    locked = [one for one in found if one.is_locked_database]
    with capsys.disabled():
        sys.stdout.write(f"\n{len(locked)} tracebacks in the server logs say that the SQLite database is locked\n")
    assert [one for one in found if not one.is_locked_database] == []
    for log in logs:
        assert re.match(r"=== \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", log.read_text()), log.name
