"""What is kept on the disk: what each arm made of each training's images, and what detector, judges and features say of
it.

A cell is at most CHUNK images of one arm and training. Its name holds the digests of everything that decides it, so a
change of a setting or of code makes it anew and nothing else; a run that was stopped goes on, and figures are of the
cells there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.counterfactuals_elpv_kit.judging import features_of
from benchmarks.transplant_kit.arms import ALL, BY_TITLE, MAIN, Arm, Made, Task, made_by
from benchmarks.transplant_kit.detectors import JUDGES, explained, folder_of, judge, judge_folder, place, scores_of
from benchmarks.transplant_kit.sets import tested_set
from xadflow.digests import sha256_file, sha256_json
from xadflow.lineage import code_digest
from xadflow.settings import Home

SEARCHES = (
    "explainers/transplant",
    "explainers/sparse/explainer.py",
    "explainers/sparse/frank_wolfe.py",
    "explainers/sparse/oracle.py",
)
HERE, OF_CONTROLS = ("sets.py", "arms.py", "banks.py"), ("untrained", "autoencoder", "black box")
ORDER_SEED, CHUNK = 0, 50
Arrays = dict[str, NDArray[Any]]


def task_of(home: Home, set_name: str, method: str, seed: int, most: int = ALL) -> Task:
    """A training with the anomalies of the test set that it flags, in an order that is the same for all trainings."""
    tested, detector = tested_set(set_name), explained(home, set_name, method, seed)
    anomalies = np.random.default_rng(ORDER_SEED).permutation(np.flatnonzero(tested.labels == 1))
    scores = scores_of_test(home, set_name, method, seed)
    flagged = anomalies[scores[anomalies] > detector.calibration.threshold]
    return Task(set_name, method, seed, tuple(int(row) for row in flagged[:most]))


def chunks(arm: Arm, task: Task) -> Iterator[Task]:
    """The images of a training that an arm is for, CHUNK at a time."""
    count = min(arm.most, len(task.rows))
    for start in range(0, count, CHUNK):
        yield task.part(start, min(start + CHUNK, count))


def finish(home: Home, arm: Arm, chunk: Task) -> None:
    """Make and judge one cell where that was not done."""
    _made(home, arm, chunk)
    _judged(home, arm, chunk)


def is_kept(home: Home, arm: Arm, chunk: Task) -> bool:
    """Whether nothing has to be computed for a cell."""
    return (
        _path(home, "made", arm, chunk).is_file()
        and _path(home, "judged", arm, chunk, _judges(home, chunk.set)).is_file()
    )


def kept_part(home: Home, arm: Arm, task: Task) -> Task:
    """The first images of a training that an arm has been measured on."""
    count = 0
    for chunk in chunks(arm, task):
        if not is_kept(home, arm, chunk):
            break
        count += len(chunk.rows)
    return task.part(0, count)


def made_of(home: Home, arm: Arm, task: Task) -> Made:
    """What an arm made of the images of :func:`kept_part`."""
    return _joined([_made(home, arm, chunk) for chunk in chunks(arm, task)])


def judged_of(home: Home, arm: Arm, task: Task) -> Arrays:
    """Of the same images: raw scores `own` [N,K], of each judge, and `features` [N,K,D] of the network for
    distances.
    """
    return _joined([_judged(home, arm, chunk) for chunk in chunks(arm, task)])


@cache
def judged_originals(home: Home, set_name: str) -> Mapping[str, NDArray[Any]]:
    """Of all test images of a set: raw scores of each judge [N], and `features` [N,D]."""

    def make() -> Arrays:
        images = tested_set(set_name).test.numpy()
        told = {f"judge {name}": judge(home, set_name, name).scores(images) for name in JUDGES}
        return {"features": features_of(images).astype(np.float32), **told}

    key = sha256_json({"judges": _judges(home, set_name), "sets": sha256_file(Path(__file__).with_name("sets.py"))})[
        :12
    ]
    return _kept(place(home) / f"originals-{set_name.replace(' ', '-')}-{key}.npz", make)


@cache
def scores_of_test(home: Home, set_name: str, method: str, seed: int) -> NDArray[np.float64]:
    """Raw scores [N] of all test images of a set by an explained detector."""
    path = place(home) / f"scores-{folder_of(home, set_name, method, seed).name}.npz"
    found = _kept(
        path, lambda: {"scores": scores_of(explained(home, set_name, method, seed), tested_set(set_name).test)}
    )
    return np.asarray(found["scores"])


def _made(home: Home, arm: Arm, chunk: Task) -> Arrays:
    def main() -> Made:
        return _made(home, BY_TITLE[MAIN], chunk)

    return _kept(_path(home, "made", arm, chunk), lambda: dict(made_by(home, arm, chunk, main)))


def _judged(home: Home, arm: Arm, chunk: Task) -> Arrays:
    def make() -> Arrays:
        made = _made(home, arm, chunk)["made"]
        flat, shape = np.ascontiguousarray(made.reshape(-1, *made.shape[2:])), made.shape[:2]
        own = scores_of(explained(home, chunk.set, chunk.method, chunk.seed), torch.from_numpy(flat))
        told = {f"judge {name}": judge(home, chunk.set, name).scores(flat).reshape(shape) for name in JUDGES}
        return {"own": own.reshape(shape), "features": features_of(flat).astype(np.float32).reshape(*shape, -1), **told}

    return _kept(_path(home, "judged", arm, chunk, _judges(home, chunk.set)), make)


def _judges(home: Home, set_name: str) -> list[str]:
    return [judge_folder(home, set_name, name).name for name in JUDGES]


@cache
def _code(of: str) -> str:
    """Of the code that decides what an arm makes; detectors have the digest of theirs in the names of their folders."""
    names = (*HERE, "detectors.py") if of in OF_CONTROLS else HERE
    here = {name: sha256_file(Path(__file__).with_name(name)) for name in names}
    return sha256_json({"searches": code_digest(*SEARCHES), "here": here})


def _path(home: Home, kind: str, arm: Arm, chunk: Task, judges: list[str] | None = None) -> Path:
    of = folder_of(home, chunk.set, chunk.method, chunk.seed).name
    key = sha256_json(
        {
            "of": of,
            "arm": arm.of,
            "settings": dict(arm.settings),
            "rows": list(chunk.rows),
            "code": _code(arm.of),
            "judges": judges,
        }
    )[:12]
    return place(home) / f"{kind}-{of}-{arm.of.replace(' ', '-')}-{key}.npz"


def _joined(parts: list[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _kept(path: Path, make: Callable[[], Arrays]) -> Arrays:
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez_compressed(partial, **make())  # type: ignore[arg-type]
        partial.replace(path)
    with np.load(path) as kept:
        return {name: kept[name] for name in kept.files}
