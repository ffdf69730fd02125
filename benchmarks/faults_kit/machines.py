"""Faults of what the flows stand on: servers, the worker, disks, and files that rot."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
from base64 import b64encode
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults_kit import children
from benchmarks.faults_kit.bench import DATASET, DAY, Bench
from benchmarks.faults_kit.mounts import Mount, may_mount
from benchmarks.faults_kit.nights import committed, wait_for
from benchmarks.faults_kit.outcome import NOT_ALLOWED, Fault, Outcome, after_night, ending, error_line
from benchmarks.faults_kit.outcomes import Evidence, left
from benchmarks.faults_kit.points import KillPoint
from benchmarks.faults_kit.services import HOST, Service, free_port
from benchmarks.faults_kit.weeks import flip, truncate
from xadflow.cli.doctor.prefect import ask_prefect
from xadflow.digests import sha256_file
from xadflow.settings.login import login_of

SERVERS, DISKS, FILES = "servers and worker", "disks", "files that rot"
BACK_S, MINUTE_S = 20.0, 60.0
LOCKED = 503
FEW = 2  # a run asks several times more before it gives up, and five retries are a minute each time
HALF_DONE = KillPoint("half done", "xadflow.evidence.store:EvidenceStore.publish", call=2, of="scores")


def prefect_killed(bench: Bench, reference: Evidence) -> list[Fault]:
    """The Prefect server dies by SIGKILL while shards are being published: back soon, or not at all."""

    def kill(back: bool) -> Outcome:
        after = f"back after {BACK_S:.0f} s" if back else f"stays down ({FEW} client retries instead of 5)"
        what = f"Prefect server killed, {after}"
        state = bench.state(what, of="trained")
        night = bench.start(state, bench.night, retries=None if back else FEW)
        wait_for(lambda: committed(state), night)
        bench.prefect.kill()
        if back:
            time.sleep(BACK_S)
            bench.prefect.start()
        ended = night.wait()
        seen = str(left(state))
        if not back:
            bench.prefect.start()
        return after_night(bench, reference, SERVERS, what, state, ended, seen)

    return [Fault(partial(kill, back), alone=True) for back in (True, False)]


def mlflow_down(bench: Bench, reference: Evidence) -> list[Fault]:
    """The MLflow server is down for a minute while shards are published, for a minute from the start, or for good.

    The first two nights are run as a schedule runs them, the last as a person does.
    """

    def down(what: str, up_first: bool, back: bool) -> Outcome:
        state = bench.state(what, of="trained")
        server, uri = _mlflow(bench, state)
        if up_first:
            server.start()
        environment = {"MLFLOW_TRACKING_URI": uri}
        night = bench.start_scheduled(state, **environment) if back else bench.start(state, bench.night, **environment)
        if up_first:
            wait_for(lambda: committed(state), night)
            server.kill()
        if back:
            time.sleep(MINUTE_S)
            server.start()
        ended = night.wait()
        seen = str(left(state))
        if not back:
            server.start()
        try:
            return after_night(bench, reference, SERVERS, what, state, ended, seen, environment)
        finally:
            server.stop()

    cases = (
        (f"MLflow down for {MINUTE_S:.0f} s while shards are published", True, True),
        (f"MLflow down for the first {MINUTE_S:.0f} s", False, True),
        ("MLflow down from the start, stays down", False, False),
    )
    return [Fault(partial(down, *case)) for case in cases]


def _mlflow(bench: Bench, state: Path) -> tuple[Service, str]:
    port = free_port()
    address = f"http://{HOST}:{port}"
    asked = f"mlflow server --host {HOST} --port {port} --workers 1 --no-serve-artifacts --backend-store-uri".split()
    store, artifacts = f"sqlite:///{state / 'mlflow.db'}", (state / "mlartifacts").as_uri()
    command = (*asked, store, "--default-artifact-root", artifacts)
    return Service(command, f"{address}/health", bench.root / "mlflow-server.log", bench.environment), address


def worker_killed(bench: Bench, reference: Evidence) -> list[Fault]:
    """The worker of `make server` dies by SIGKILL in the middle of a deployed night."""
    return [Fault(partial(_without_worker, bench, reference), alone=True)]


def _without_worker(bench: Bench, reference: Evidence) -> Outcome:
    state = bench.state("worker killed", of="trained")
    servers, api = _serve(bench, state)
    run = _deployed(bench, api)
    deadline = time.monotonic() + 300
    while not committed(state) and time.monotonic() < deadline and not _final(api, run):
        time.sleep(0.05)
    os.kill(json.loads((state / "server.json").read_text())["services"]["worker"], signal.SIGKILL)
    try:
        status = servers.wait(60)
    except subprocess.TimeoutExpired:
        status = None
    said = (state.parent / "serve.log").read_text()
    seen = str(left(state))
    if status is None:
        servers.send_signal(signal.SIGTERM)
        servers.wait(60)
    started = time.monotonic()
    servers, api = _serve(bench, state)
    tried = []
    while not tried or (tried[-1] != "COMPLETED" and time.monotonic() - started < 480):
        run = _deployed(bench, api)
        while not (end := _final(api, run)) and time.monotonic() - started < 480:
            time.sleep(0.5)
        tried.append(end or "not ended")
    seconds = time.monotonic() - started
    servers.send_signal(signal.SIGTERM)
    servers.wait(60)
    found = bench.evidence(state)
    return Outcome(
        SERVERS,
        "worker of `make server` killed",
        "still up" if status is None else f"status {status}",
        error_line(said, bench),
        "Traceback" in said,
        seen,
        "status 0" if tried[-1] == "COMPLETED" else ", ".join(tried),
        seconds,
        found.content == reference.content,
        found.plain == reference.rows,
        found.twice,
        found.audit,
        found.anchored,
    )


def _serve(bench: Bench, state: Path) -> tuple[subprocess.Popen[bytes], _Api]:
    """`make server` on a state folder; returns when it says that it is ready."""
    log = state.parent / "serve.log"
    ports = [str(free_port()), str(free_port())]
    environment = {**bench.environment, "XADFLOW_HOME": str(state), "PREFECT_HOME": str(state / "prefect")}
    environment.pop("PREFECT_API_URL")
    (state / "prefect").mkdir(exist_ok=True)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.servers.server", "--prefect-port", ports[0], "--mlflow-port", ports[1]],
            cwd=bench.project,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    while "\nready\n" not in log.read_text():
        if process.poll() is not None:
            raise RuntimeError(f"make server ended:\n{log.read_text()}")
        time.sleep(0.5)
    authorization = f"Basic {b64encode(login_of(state).pair.encode()).decode()}"
    return process, _Api(f"http://{HOST}:{ports[0]}/api", authorization)


@dataclass(frozen=True)
class _Api:
    """A guarded Prefect server: its address, and the header that lets its owner in."""

    address: str
    authorization: str

    def ask(self, path: str, question: dict[str, Any] | None = None) -> Any:
        """The answer as JSON. While its database is locked a server answers 503: as its own clients know, one asks
        again.
        """
        for wait in (1.0, 2.0, 4.0, 8.0, 16.0, 0.0):
            try:
                return ask_prefect(self.address, path, question, self.authorization)
            except urllib.error.HTTPError as err:
                if err.code != LOCKED or not wait:
                    raise
                time.sleep(wait)
        return None


def _deployed(bench: Bench, api: _Api) -> str:
    """Start the deployment explain/nightly with the bench's night; returns the flow run's id."""
    found = api.ask("deployments/name/explain/nightly")
    parameters = {"datasets": [DATASET], "run_date": DAY, "inbox": str(bench.root / "arrivals"), "only_inbox": True}
    run: str = api.ask(f"deployments/{found['id']}/create_flow_run", {"parameters": parameters})["id"]
    return run


def _final(api: _Api, run: str) -> str | None:
    """The state type in which a flow run ended, or None while it has not."""
    state: str = api.ask(f"flow_runs/{run}")["state"]["type"]
    return state if state in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None


def disks(bench: Bench, reference: Evidence, undisturbed: Path) -> list[Fault]:
    """Disks that fill up in the middle of a night, or are read-only from its start."""
    tables, before = _bytes(undisturbed / "tables"), _bytes(undisturbed / "mlflow.db")

    def full(what: str, folder: str, size: int) -> Outcome:
        state = bench.state(what, of="trained")
        if not may_mount():
            return Outcome(DISKS, what, NOT_ALLOWED)
        with Mount.sized(state / folder, size) as mount:
            ended = bench.run(state, bench.night)
            seen = str(left(state))
            mount.grow(1 << 30)
            return after_night(bench, reference, DISKS, what, state, ended, seen)

    def read_only(what: str, folder: str) -> Outcome:
        state = bench.state(what, of="trained")
        if not may_mount():
            return Outcome(DISKS, what, NOT_ALLOWED)
        bench.start(state, bench.night, HALF_DONE).wait()
        with Mount.read_only(state / folder):
            ended = bench.run(state, bench.night)
            seen = str(left(state))
        return after_night(bench, reference, DISKS, what, state, ended, seen)

    return [
        Fault(partial(full, "the tables' disk is full in mid-night", "tables", int(0.6 * tables))),
        Fault(
            partial(
                full, "the state's disk is full in mid-night", "", before + int(0.4 * (_bytes(undisturbed) - before))
            )
        ),
        Fault(partial(read_only, "the tables are read-only", "tables")),
        Fault(partial(read_only, "the ledger is read-only", "ledger")),
        Fault(partial(read_only, "the whole state is read-only", "")),
    ]


def _bytes(path: Path) -> int:
    """Disk blocks of a file or of everything below a folder."""
    return sum(one.stat().st_blocks * 512 for one in [path, *path.rglob("*")])


def rotten_files(bench: Bench, reference: Evidence, undisturbed: Path) -> list[Fault]:
    """A bit of the registered weights, and the table's own checkpoint."""

    def weights() -> Outcome:
        what = "one bit of the registered weights flipped, then restored"
        state = bench.state(what, of="trained")
        champion = bench.registered(state).versions[0][1]  # the judge's files lie there too
        files = (state / "mlartifacts").rglob("weights.safetensors")
        (file,) = (path for path in files if sha256_file(path) == champion)
        flip(file)
        ended = bench.run(state, bench.night)
        flip(file)
        return after_night(bench, reference, FILES, what, state, ended)

    def checkpoint() -> Outcome:
        what = "the Delta checkpoint cut off, then restored"
        state = bench.state(what, of="trained")
        for name in ("tables", "ledger", "mlflow.db"):
            copy = shutil.copytree if (undisturbed / name).is_dir() else shutil.copyfile
            copy(undisturbed / name, state / name)
        children.ask(grow_to_a_checkpoint, state, log=state.parent / "grow.log")
        before = bench.evidence(state)
        (file,) = (state / "tables" / "scores" / "_delta_log").glob("*.checkpoint.parquet")
        whole = file.read_bytes()
        truncate(file)
        ended = bench.run(state, bench.night)
        verified = bench.run(state, ("audit", "verify"))
        file.write_bytes(whole)
        seen = f"audit verify: {ending(verified)}, {error_line(verified.said, bench)}"
        return after_night(bench, before, FILES, what, state, ended, seen)

    return [Fault(weights), Fault(checkpoint)]


def grow_to_a_checkpoint(state: Path) -> None:
    """Publish one-row commits of later model versions until Delta has written a checkpoint of the table `scores`."""
    import pyarrow as pa

    os.environ["XADFLOW_HOME"] = str(state)
    from xadflow.evidence.tables import SCORES
    from xadflow.project import Project

    store = Project.open().store
    row = next(row for row in store.read("scores").to_pylist() if not row["is_anomaly"])  # it needs no explanation
    for version in range(2, 110):
        rows = pa.Table.from_pylist([{**row, "model_version": version}], schema=SCORES)
        store.publish("scores", rows, app=f"scores/grown/{version}")
        if list((state / "tables" / "scores" / "_delta_log").glob("*.checkpoint.parquet")):
            return
    raise RuntimeError("no checkpoint after 108 commits")
