"""Whatever fails in whichever task of a flow: a person reads the task's own error in one line, and the status is 1."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect import Task

from flows import running
from tasks import dataset, explaining, publishing, registry, training
from tests.checkout import PROJECT
from xadflow.cli.main import main
from xadflow.errors import BadImage, TrainingFailed
from xadflow.models.versions import ModelRef

pytestmark = [pytest.mark.slow, pytest.mark.server]

RETRAIN = "retrain --dataset coloured-mnist --detector bce --detector utad"
EXPLAIN = "explain --dataset elpv --detector fcdd"
OURS = "the image cannot be decoded; got 'train/good/007.png'. Next: replace it"
BUG = ZeroDivisionError("a rank of no images\nand a second line")
# Which work function of which task's module, and the command of its flow.
WORKS = {
    "dvc repro": (dataset, "reproduce", RETRAIN),
    "open registry": (registry, "open_registry_models", RETRAIN),
    "fit judge": (registry, "fit_judge", RETRAIN),
    "train": (training, "train_detector", RETRAIN),
    "train stage": (training, "train_stage", RETRAIN),
    "register": (registry, "register_trained", RETRAIN),
    "gate": (registry, "judge_challenger", RETRAIN),
    "train explainer": (training, "train_explainer", RETRAIN),
    "register explainer": (registry, "register_explainer", RETRAIN),
    "put in service": (registry, "settle", RETRAIN),
    "report gate": (publishing, "create_table_artifact", RETRAIN),
    "detectors in service": (explaining, "champion_of", EXPLAIN),
    "plan night": (explaining, "plan_night", EXPLAIN),
    "explain shard": (explaining, "explain_shard", EXPLAIN),
    "finish night": (publishing, "finish_night", EXPLAIN),
}


class Registry:
    """A registry in which everything is there."""

    def __init__(self) -> None:
        self.models: Callable[[], Any] = list
        self.champion_of: Callable[[], Any] = lambda: None

    def prepare(self) -> None:
        pass

    def alias(self, name: str, alias: str) -> ModelRef:
        self.champion_of()
        return ModelRef(name, 1, "run")

    def resolve(self, spec: str) -> ModelRef:
        return ModelRef(spec.partition("/")[0], 1, "run")

    def figures(self, ref: ModelRef) -> dict[str, float]:
        return {}

    def run_link(self, ref: ModelRef) -> str:
        return "http://127.0.0.1:5000/#/run"


def outcome(project: Any, dataset: str, ref: ModelRef, *_: Any, **__: Any) -> SimpleNamespace:
    """What the gate says of everything."""
    return SimpleNamespace(
        model_name=ref.name,
        version=1,
        passed=True,
        verdict="passed",
        judged=True,
        reasons=(),
        figures={},
        serves=1,
        key="key",
    )


@pytest.fixture
def works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_server: str) -> Registry:
    """Both flows for real, in which no task has anything to do."""
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    monkeypatch.setenv("XADFLOW_PROJECT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("XADFLOW_HOME", "XADFLOW_WEBHOOK", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("flows.running._started", lambda times: running._answered())
    found = Registry()

    class Project:
        @staticmethod
        def open() -> SimpleNamespace:
            store = SimpleNamespace(prepare=lambda: None)
            home = SimpleNamespace(tables="tables", webhook=None)
            return SimpleNamespace(home=home, registry=found, store=store, settings=None)

    ref = lambda name: lambda *_, **__: ModelRef(name, 1, "run")  # noqa: E731
    order = lambda *_, **__: SimpleNamespace(key="key", is_done=lambda home: False, data_md5="md5", detector=None)  # noqa: E731
    night = SimpleNamespace(
        shards=((), ()), images=2, already=0, dataset="elpv", run_date="", left_out={}, model_name="m", model_version=1
    )
    page = tmp_path / "report.html"
    done = SimpleNamespace(figures={}, mlflow="run", report=page, sheet=None, refused={}, refused_list="quarantine")
    nothing = lambda *_, **__: None  # noqa: E731
    for module in (registry, training, explaining, publishing):
        monkeypatch.setattr(module, "Project", Project)
    for module in (dataset, registry, training):
        monkeypatch.setattr(module, "slot", lambda name: contextlib.nullcontext())
    for place, stand_in in {
        "dataset.reproduce": nothing,
        "dataset.dvc_hashes": lambda *_: {"manifest": "md5"},
        "registry.fit_judge": nothing,
        "registry.training_order": order,
        "registry.register_trained": ref("xad.coloured-mnist.bce"),
        "registry.judge_challenger": outcome,
        "registry.register_explainer": ref("xad.coloured-mnist.bce.diverse"),
        "registry.judge_explainer": outcome,
        "registry.order_of": order,
        "registry.settle": nothing,
        "training.training_order": order,
        "training.order_of": order,
        "training.train_detector": nothing,
        "training.train_stage": nothing,
        "training.train_explainer": nothing,
        "explaining.plan_night": nothing,
        "explaining.read_plan": lambda path: night,
        "explaining.explain_shard": nothing,
        "explaining.asdict": lambda figures: {},
        "publishing.read_plan": lambda path: night,
        "publishing.finish_night": lambda *_: done,
    }.items():
        monkeypatch.setattr(f"tasks.{place}", stand_in)
    for name in ("create_table_artifact", "create_markdown_artifact"):
        monkeypatch.setattr(publishing, name, nothing)
    monkeypatch.setattr(publishing, "_webhook", lambda: None)
    return found


def undecodable() -> BadImage:
    return BadImage("the image cannot be decoded", seen="train/good/007.png", next_step="replace it")


def break_work(name: str, error: Exception, found: Registry, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the work of one task fail; returns the command of its flow."""
    module, attribute, command = WORKS[name]

    def broken(*_: Any, **__: Any) -> None:
        raise error

    if name == "open registry":
        found.models = broken
    elif name == "detectors in service":
        found.champion_of = broken
    else:
        monkeypatch.setattr(module, attribute, broken)
    if name == "train stage":  # whose failure is left to the training itself, which does what is missing
        monkeypatch.setattr(module, "train_detector", broken)
    return command


def ask(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Exit status, and the lines on standard error."""
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    return ended.value.code, capsys.readouterr().err.strip().splitlines()


@pytest.mark.parametrize("command", [RETRAIN, EXPLAIN])
def test_nothing_fails_where_nothing_is_broken(works, capsys, command) -> None:
    status, said = ask(command, capsys)
    assert (status, said) == (0, [])


@pytest.mark.parametrize("name", [name for name in WORKS if name != "open registry"])
def test_the_error_of_a_task_is_what_a_person_reads(works, capsys, monkeypatch, name: str) -> None:
    status, said = ask(break_work(name, undecodable(), works, monkeypatch), capsys)
    assert status == 1
    assert said[0] == f"xadflow: {OURS}", said


@pytest.mark.parametrize("name", ["dvc repro", "open registry", "train", "gate", "finish night"])
def test_a_bug_is_one_line_too_and_its_traceback_is_kept(works, capsys, monkeypatch, tmp_path, name: str) -> None:
    status, said = ask(break_work(name, BUG, works, monkeypatch), capsys)
    assert status == 1
    assert "ZeroDivisionError: a rank of no images" in said[0], said
    assert "Next: read var/log/bug-" in said[0]
    assert not [line for line in said if "PENDING" in line or line.startswith(("Traceback", "  File"))]
    kept = "".join(path.read_text() for path in (tmp_path / "var/log").glob("bug-*.log"))
    assert "Traceback" in kept
    assert "and a second line" in kept


def test_every_task_of_both_flows_is_among_them() -> None:
    modules = (dataset, explaining, publishing, registry, training)
    assert {one.name for module in modules for one in vars(module).values() if isinstance(one, Task)} == set(WORKS)


def test_what_else_failed_and_what_went_on_is_said_below(works, capsys, monkeypatch) -> None:
    def train(project: Any, order: Any, update: Any) -> None:
        raise TrainingFailed("the loss stopped being a number", seen=order.detector, next_step="lower it")

    monkeypatch.setattr(
        training,
        "training_order",
        lambda project, data, detector, seed: SimpleNamespace(
            key=detector, detector=detector, is_done=lambda home: detector == "hsc"
        ),
    )
    monkeypatch.setattr(
        training, "train_detector", lambda *given: train(*given) if given[1].detector != "hsc" else None
    )
    break_work("fit judge", undecodable(), works, monkeypatch)
    command = "retrain --dataset mosaic --detector bce --detector hsc --detector padim"
    status, (first, *others) = ask(command, capsys)
    assert status == 1
    assert first == f"xadflow: {OURS}"
    assert [line.split(": ")[0] for line in others[:2]] == ["  bce on mosaic, seed 0", "  padim on mosaic, seed 0"]
    assert all("Next: lower it" in line for line in others[:2])
    assert "hsc" not in " ".join(others[:2])
    assert "passed the gate" in others[2]
    assert len(others) == 3
