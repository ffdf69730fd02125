"""The small real project of `make faults`: made once; every fault starts from a copy of the same state."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.faults_kit import children
from benchmarks.faults_kit.children import Child, Ended
from benchmarks.faults_kit.outcomes import Evidence, Registered, evidence, registered
from benchmarks.faults_kit.points import KillPoint, arm
from benchmarks.faults_kit.services import HOST, Service, free_port
from benchmarks.small_project import commit, draw_arrivals, draw_screws, make_project, project_environment
from xadflow.settings.environment import QUIET

DATASET, DAY, ARRIVALS, SEED = "screws", "2026-01-05", 12, 0
MANY = 100  # slots of the GPU: a killed run keeps its slot for a minute, and no other fault shall wait for that
WARM = (
    "benchmarks.faults_kit.warmed",
    "benchmarks.faults_kit.bench",
    "flows.explain",
    "flows.retrain",
    "flows.commands",
)
CHANGES = {
    "retrain: {datasets: [elpv],": "retrain: {datasets: [],",  # `xadflow data add` lists ours for both flows
    "explain: {datasets: [elpv],": "explain: {datasets: [],",
    "shard_size: 100, batch_size: 32": "shard_size: 4, batch_size: 4",
    # small work: what is watched here is what becomes of it, not how good it is
    "settings: {trunk: lite0, head: mahalanobis}": "settings: {trunk: lite0, head: mahalanobis, stages: [2], synthetic_rounds: 1, min_steps: 40}",  # noqa: E501
    "sparse: {p: 1.5, iterations: 75, target_p_normal: 0.6}": "sparse: {radii: [200.0], rung_iterations: 3, iterations: 1, widen_mask: false, shrink_steps: 0}",  # noqa: E501
    "min_flip_rate: 0.9 ": "min_flip_rate: 0.0 ",
    "min_change_inside: 0.3 ": "min_change_inside: 0.0 ",
    "explained: 48 ": "explained: 4 ",
    "min_images: 5 ": "min_images: 1 ",
}


@dataclass
class Bench:
    """The project, its Prefect server, and the states that faults are compared with."""

    root: Path
    prefect: Service
    environment: dict[str, str]

    @property
    def project(self) -> Path:
        """The small project."""
        return self.root / "project"

    @property
    def night(self) -> tuple[str, ...]:
        """The nightly command: a dozen new images in three shards."""
        return ("explain", "--dataset", DATASET, "--inbox", str(self.root / "arrivals"), "--only-inbox", "--date", DAY)

    @property
    def week(self) -> tuple[str, ...]:
        """The weekly command."""
        return ("retrain", "--dataset", DATASET)

    def state(self, name: str, of: str) -> Path:
        """A new state folder with a copy of the registry of another, and of its files: none outside would be opened."""
        state = self.root / "states" / re.sub(r"\W+", "-", name)
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir(parents=True)
        shutil.copyfile(self.root / "states" / of / "mlflow.db", state / "mlflow.db")
        if (files := self.root / "states" / of / "mlartifacts").is_dir():
            shutil.copytree(files, state / "mlartifacts")
        return state

    def start(
        self,
        state: Path,
        words: tuple[str, ...],
        point: KillPoint | None = None,
        retries: int | None = None,
        **more: str,
    ) -> Child:
        """Start `xadflow <words>` in a child.

        Args:
            point: where it dies, if it shall.
            retries: of Prefect's client; 5 as a rule, which is a minute for each request.
            more: added to its environment.
        """
        return children.start(
            command,
            words,
            point,
            self.project,
            retries,
            log=self._log(state),
            environment={"XADFLOW_HOME": str(state), **more},
        )

    def start_scheduled(self, state: Path, **more: str) -> Child:
        """Start the night as a schedule does: the flow itself, without the checks that the command makes first."""
        return children.start(
            scheduled,
            self.project,
            self.root / "arrivals",
            log=self._log(state),
            environment={"XADFLOW_HOME": str(state), **more},
        )

    @staticmethod
    def _log(state: Path) -> Path:
        return state.parent / f"{state.name}.log"

    def run(self, state: Path, words: tuple[str, ...], **more: Any) -> Ended:
        """Start and wait."""
        return self.start(state, words, **more).wait()

    def must(self, state: Path, words: tuple[str, ...]) -> Ended:
        """A command without which nothing can be measured. Raises RuntimeError with what it said."""
        ended = self.run(state, words)
        if ended.status != 0:
            raise RuntimeError(f"xadflow {' '.join(words)} ended with {ended.status}:\n{ended.said}")
        return ended

    def slots(self, count: int) -> None:
        """Set how many slots the limit `gpu` has, all of them free."""
        children.ask(set_slots, count, log=self.root / "slots.log")

    def evidence(self, state: Path) -> Evidence:
        """See :func:`evidence`; in a child, because it opens tables and databases."""
        found: Evidence = children.ask(evidence, state, log=state.parent / "evidence.log")
        return found

    def registered(self, state: Path) -> Registered:
        """See :func:`registered`."""
        found: Registered = children.ask(registered, state, DATASET, log=state.parent / "registered.log")
        return found


def build(root: Path) -> Bench:
    """Make the project with its data set, an empty registry (state `empty`) and a champion (state `trained`)."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    port = free_port()
    environment = {
        **project_environment(root / "project"),
        **QUIET,
        "PREFECT_HOME": str(root / "prefect"),
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        # by default whoever is refused a slot comes again after up to 30 s
        "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
        "MPLCONFIGDIR": str(root / "matplotlib"),
        "DVC_SITE_CACHE_DIR": str(root / "dvc-site"),
    }
    (root / "prefect").mkdir()
    server = Service(
        ("prefect", "server", "start", "--host", HOST, "--port", str(port), "--no-ui"),
        f"http://{HOST}:{port}/api/health",
        root / "prefect-server.log",
        environment,
    )
    bench = Bench(root, server, environment)
    make_project(bench.project, CHANGES)
    prefect = bench.project / "prefect.yaml"  # no cron may start a run of its own meanwhile
    prefect.write_text(re.sub(r"  schedules:\n(  - .*\n)+", "", prefect.read_text()))
    draw_screws(root / "users" / "screws")
    draw_arrivals(root / "arrivals", ARRIVALS, SEED)
    children.warm(*WARM, environment=environment)
    server.start()
    bench.slots(MANY)
    empty, trained = root / "states" / "empty", root / "states" / "trained"
    children.ask(empty_registry, empty, log=root / "empty.log")
    bench.must(empty, ("data", "add", DATASET, str(root / "users" / "screws")))
    commit(bench.project)
    bench.must(bench.state("trained", of="empty"), bench.week)
    champion = bench.registered(trained).aliases.get("champion")
    if champion != 1:
        raise RuntimeError(f"the small project's detector did not become champion: {bench.registered(trained)}")
    return bench


def command(words: tuple[str, ...], point: KillPoint | None, project: Path, retries: int | None) -> None:
    """The work of a child: the command line as a user types it, in the project's folder."""
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    from xadflow.cli.main import main

    os.chdir(project)
    if point is not None:
        arm(point)
    with temporary_settings({} if retries is None else {PREFECT_CLIENT_MAX_RETRIES: retries}):
        main(list(words))


def scheduled(project: Path, arrivals: Path) -> int:
    """The work of a child: the nightly flow as a worker runs it."""
    from flows.explain import explain
    from xadflow.errors import XadflowError

    os.chdir(project)
    try:
        explain([DATASET], date.fromisoformat(DAY), str(arrivals), only_inbox=True)
    except XadflowError as err:
        print(f"xadflow: {err}")
        return err.exit_status
    return 0


def empty_registry(state: Path) -> None:
    """Create MLflow's database, once for all retrainings."""
    from xadflow.models.registry import Registry

    Registry(f"sqlite:///{state / 'mlflow.db'}", state / "mlartifacts").prepare()


def set_slots(count: int) -> None:
    """Give the limit `gpu` this many slots, all of them free."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate

    from tasks.slots import GPU

    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(GPU, limit=count)
        client.update_global_concurrency_limit(GPU, GlobalConcurrencyLimitUpdate(limit=count, active_slots=0))
