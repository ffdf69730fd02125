"""The nightly path end to end, and what the orchestrator costs: `python -m benchmarks.nightly [--quick]`.

Real ELPV cells arrive in an inbox: all 1,508 sound ones, all 401 ambiguous ones and 91 defective ones, 2,000 in all.
Two measurements, each arm a child process with fresh tables and its own clock, after imports and after the server
answers:

1. Overhead: the same night of 2,000 images by plain function calls and by the Prefect flow, with the explainer
   `heatmap` only. That is the strict case: the less work a shard has, the larger the orchestrator's share. Three
   rounds, both arms in each; the overhead is the median over the rounds of (flow - direct) / direct. The flow's two
   threads overlap the decoding and writing of one shard with the scoring of another, which the plain loop does not:
   that gain is in the figure.
2. Shares: a night of 200 of these images by plain calls with every explainer in use; what each phase takes.

What the arms have in common: one `dvc repro` child, border checks of the inbox, planning, every shard, report. Needs
data/elpv (built by `make demo`, or here through DVC).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from argparse import SUPPRESS
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.study import Study

DATASET, DAY = "elpv", date(2026, 1, 1)
ROUNDS = (("direct", "flow"), ("flow", "direct"), ("direct", "flow"))  # turn about: a shared machine drifts
STRICT = ["heatmap"]


def main() -> None:
    """Run all arms and write benchmarks/results/nightly.json; or one arm, in a child process."""
    hidden = {"arm": {"choices": list(ARMS)}, "inbox": {"type": Path}}
    study = Study("nightly")
    given = study.start(
        __doc__, "200 images instead of 2,000", **{k: {**v, "help": SUPPRESS} for k, v in hidden.items()}
    )
    if given.arm:
        print("\n" + json.dumps(ARMS[given.arm](given.inbox)))
        return
    project = Path.cwd()
    work = project / "var" / "bench-nightly"
    for old in ("arrivals", "few"):  # a champion of before is used again
        shutil.rmtree(work / old, ignore_errors=True)
    inbox = work / "arrivals"
    images = _fill(inbox, 200 if given.quick else 2000)
    _child("prepare", inbox, _environment(project, work / "state-prepare"))
    arms: dict[str, list[dict[str, Any]]] = {"direct": [], "flow": []}
    for order in ROUNDS[:1] if given.quick else ROUNDS:
        for arm in order:
            done = _child(arm, inbox, _fresh(project, work, arm))
            arms[arm].append(done)
            study.note(f"{arm:<8} {images / done['seconds']:.1f} images/s")
    few = work / "few"
    fewer = _fill(few, 200)
    shares = _child("shares", few, _fresh(project, work, "shares"))
    figures = _figures(arms, images, shares, fewer)
    study.write(figures, [0])


def _environment(project: Path, state: Path) -> dict[str, str]:
    return {
        "XADFLOW_PROJECT": str(project),
        "XADFLOW_HOME": str(state),
        "MLFLOW_TRACKING_URI": f"sqlite:///{state / 'mlflow.db'}",
    }


def _fresh(project: Path, work: Path, arm: str) -> dict[str, str]:
    """A state of its own for an arm, with a copy of the prepared registry: MLflow also anchors the arm's ledger."""
    state = work / f"state-{arm}"
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir()
    shutil.copyfile(work / "state-prepare" / "mlflow.db", state / "mlflow.db")
    return _environment(project, state)


def _fill(inbox: Path, most: int) -> int:
    """Copy cells of the ELPV package into the inbox, a realistic mix; returns how many."""
    from xadflow.datasets.sources.elpv import _data_folder, read_labels

    folder = _data_folder()
    paths, probability, _ = read_labels(folder / "labels.csv")
    defective = [path for path, p in zip(paths, probability, strict=True) if p > 0.9]
    others = [path for path, p in zip(paths, probability, strict=True) if p <= 0.9]
    share = most / 2000
    chosen = others[:: max(1, round(1 / share))][: round(1909 * share)] + defective[: most - round(1909 * share)]
    inbox.mkdir(parents=True)
    for path in chosen:
        shutil.copyfile(folder / path, inbox / Path(path).name)
    return len(chosen)


def _child(arm: str, inbox: Path, environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.nightly", "--arm", arm, "--inbox", str(inbox)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"the arm {arm} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _open():
    from xadflow.settings import Home, quiet_environment

    quiet_environment(Home.find())  # before Prefect is imported, which reads its settings then
    from xadflow.project import Project

    project = Project.open()
    project.registry.prepare()
    return project


def _prepare(inbox: Path) -> dict[str, Any]:
    """Build the data set and a champion for all arms."""
    from xadflow.datasets.reproducing import reproduce
    from xadflow.work.week import judge_challenger, register_trained, train_detector, training_order

    project = _open()
    reproduce(project.home.project, f"validate@{DATASET}")
    order = training_order(project, DATASET, project.settings.retrain.detectors[0])
    train_detector(project, order)
    ref = register_trained(project, order)
    judge_challenger(project, DATASET, ref)
    project.registry.set_alias(ref.name, "champion", ref.version)
    return {"model": ref.name}


def _warm(project) -> None:
    """Import and load what both arms need, outside the time."""
    import great_expectations  # noqa: F401
    import torch

    import xadflow.datasets.quality
    import xadflow.work.night.finish  # noqa: F401
    from xadflow.detectors.base import WEIGHTS
    from xadflow.digests import sha256_file
    from xadflow.images import as_float
    from xadflow.work.night.work import _detector

    ref = project.registry.champion(f"xad.{DATASET}.{project.settings.retrain.detectors[0]}")
    folder = project.registry.detector_folder(ref)
    detector = _detector(str(folder), sha256_file(folder / WEIGHTS), project.device)
    detector.score(as_float(torch.zeros(8, *detector.input_shape, dtype=torch.uint8)))


def _by_calls(inbox: Path, explainers: list[str] | None) -> dict[str, Any]:
    from xadflow.datasets.reproducing import reproduce
    from xadflow.work.night import NightOrder, explain_shard, plan_night, read_plan
    from xadflow.work.night.finish import finish_night

    project = _open()
    _warm(project)
    started = time.perf_counter()
    reproduce(project.home.project, f"validate@{DATASET}")
    project.store.prepare()
    order = NightOrder(DATASET, DAY, "bench", inbox=inbox, only_inbox=True, explainers=explainers)
    plan = read_plan(plan_night(project, order))
    planned_s = time.perf_counter() - started
    shards = [explain_shard(project, plan, index) for index in range(len(plan.shards))]
    worked_s = time.perf_counter() - started - planned_s
    finish_night(project, plan, [])
    seconds = time.perf_counter() - started
    phases: dict[str, float] = {"admit and plan": planned_s, "report": seconds - planned_s - worked_s}
    for shard in shards:
        for name, value in shard.seconds.items():
            phases[name] = phases.get(name, 0.0) + value
    return {"seconds": seconds, "phases": phases, **_counts(project.store), "shards": len(shards)}


def _flow(inbox: Path) -> dict[str, Any]:
    project = _open()
    from flows.explain import explain
    from tasks.slots import ensure_limits

    _warm(project)
    ensure_limits()  # starts the server
    started = time.perf_counter()
    explain([DATASET], DAY, str(inbox), only_inbox=True, explainers=STRICT)
    return {"seconds": time.perf_counter() - started, **_counts(project.store)}


def _counts(store) -> dict[str, int]:
    return {
        "scores": store.read("scores", columns=["image_id"]).num_rows,
        "explanations": store.read("explanations", columns=["image_id"]).num_rows,
    }


def _figures(arms: dict[str, list[dict[str, Any]]], images: int, shares: dict[str, Any], fewer: int) -> dict[str, Any]:
    rows = {(one["scores"], one["explanations"]) for rounds in arms.values() for one in rounds}
    if len(rows) != 1:
        sys.exit(f"the arms did different work: {rows}")
    each = [(plain["seconds"], flow["seconds"]) for plain, flow in zip(arms["direct"], arms["flow"], strict=True)]
    overheads = [(flow - plain) / plain for plain, flow in each]
    direct, flow = (median(one[arm] for one in each) for arm in (0, 1))
    (scores, explanations), shards = rows.pop(), arms["direct"][0]["shards"]
    total = sum(shares["phases"].values())
    return {
        "images": images,
        "shards": shards,
        "score_rows": scores,
        "explanation_rows": explanations,
        "explainers": STRICT,
        "seconds_direct": direct,
        "seconds_flow": flow,
        "images_per_second_direct": images / direct,
        "images_per_second_flow": images / flow,
        "overhead_share": median(overheads),
        "overhead_share_each_round": overheads,
        "seconds_each_round": each,
        "overhead_target": 0.10,
        "phase_seconds_heatmap_only": arms["direct"][0]["phases"],
        "all_explainers": {
            "images": fewer,
            "score_rows": shares["scores"],
            "explanation_rows": shares["explanations"],
            "seconds": shares["seconds"],
            "images_per_second": fewer / shares["seconds"],
            "phase_seconds": shares["phases"],
            "phase_share": {name: value / total for name, value in shares["phases"].items()},
        },
    }


ARMS: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    "prepare": _prepare,
    "direct": lambda inbox: _by_calls(inbox, STRICT),
    "flow": _flow,
    "shares": lambda inbox: _by_calls(inbox, None),
}

if __name__ == "__main__":
    main()
