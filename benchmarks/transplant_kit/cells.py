"""What is kept on the disk: what each arm made of each training's images, and what detector, judges and features say of it.

A cell's name holds the digests of everything that decides it, so a change of a setting or of code makes it anew and nothing
else; a run that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from xadflow.detectors.base import Detector
from xadflow.digests import sha256_file, sha256_json
from xadflow.lineage import code_digest
from xadflow.settings import Home

SEARCHES = ("explainers/transplant", "explainers/sparse.py", "explainers/frank_wolfe.py", "explainers/oracle.py")
HERE = ("sets.py", "arms.py", "banks.py", "detectors.py")
ORDER_SEED = 0
Arrays = dict[str, NDArray[Any]]


def task_of(home: Home, set_name: str, method: str, seed: int, most: int = ALL) -> Task:
    """A training with the anomalies of the test set that it flags, in an order that is the same for all trainings."""
    tested, detector = tested_set(set_name), explained(home, set_name, method, seed)
    anomalies = np.random.default_rng(ORDER_SEED).permutation(np.flatnonzero(tested.labels == 1))
    scores = _scores(home, set_name, method, seed)
    flagged = anomalies[scores[anomalies] > detector.calibration.threshold]
    return Task(set_name, method, seed, tuple(int(row) for row in flagged[:most]))


def made_cell(home: Home, arm: Arm, task: Task) -> Made:
    """What an arm made of a training's images."""
    few = task.first(arm.most)

    def main() -> Made:
        return made_cell(home, BY_TITLE[MAIN], few if few.rows == task.rows else task.first(BY_TITLE[MAIN].most))

    return _kept(_path(home, "made", arm, few), lambda: dict(made_by(home, arm, few, main)))


def judged_cell(home: Home, arm: Arm, task: Task) -> Arrays:
    """Of an arm's images: raw scores `own` [N,K] and of each judge, and `features` [N*K,D] of the network for distances."""
    few = task.first(arm.most)

    def make() -> Arrays:
        made = made_cell(home, arm, task)["made"]
        flat = np.ascontiguousarray(made.reshape(-1, *made.shape[2:]))
        shape = made.shape[:2]
        own = scores_of(explained(home, task.set, task.method, task.seed), torch.from_numpy(flat))
        told = {f"judge {name}": judge(home, task.set, name).scores(flat).reshape(shape) for name in JUDGES}
        return {"own": own.reshape(shape), "features": features_of(flat).astype(np.float32), **told}

    judges = [judge_folder(home, task.set, name).name for name in JUDGES]
    return _kept(_path(home, "judged", arm, few, judges), make)


@cache
def judged_originals(home: Home, set_name: str) -> Mapping[str, NDArray[Any]]:
    """Of all test images of a set: raw scores of each judge [N], and `features` [N,D]."""
    def make() -> Arrays:
        images = tested_set(set_name).test.numpy()
        told = {f"judge {name}": judge(home, set_name, name).scores(images) for name in JUDGES}
        return {"features": features_of(images).astype(np.float32), **told}

    judges = [judge_folder(home, set_name, name).name for name in JUDGES]
    key = sha256_json({"judges": judges, "sets": sha256_file(Path(__file__).with_name("sets.py"))})[:12]
    return _kept(place(home) / f"originals-{set_name.replace(' ', '-')}-{key}.npz", make)


def is_kept(home: Home, arm: Arm, task: Task) -> bool:
    """Whether nothing has to be computed for the figures of an arm."""
    judges = [judge_folder(home, task.set, name).name for name in JUDGES]
    few = task.first(arm.most)
    return _path(home, "judged", arm, few, judges).is_file() and _path(home, "made", arm, few).is_file()


def kept_file(path: Path, make: Callable[[], Arrays]) -> Arrays:
    """The arrays in a file, made where it is not there."""
    return _kept(path, make)


@cache
def _scores(home: Home, set_name: str, method: str, seed: int) -> NDArray[np.float64]:
    """Of all test images by the explained detector."""
    detector: Detector = explained(home, set_name, method, seed)
    path = place(home) / f"scores-{folder_of(home, set_name, method, seed).name}.npz"
    return np.asarray(_kept(path, lambda: {"scores": scores_of(detector, tested_set(set_name).test)})["scores"])


def scores_of_test(home: Home, task: Task) -> NDArray[np.float64]:
    """Raw scores [N] of all test images by the explained detector."""
    return _scores(home, task.set, task.method, task.seed)


@cache
def _code() -> str:
    here = {name: sha256_file(Path(__file__).with_name(name)) for name in HERE}
    return sha256_json({"searches": code_digest(*SEARCHES), "here": here})


def _path(home: Home, kind: str, arm: Arm, few: Task, judges: list[str] | None = None) -> Path:
    of = folder_of(home, few.set, few.method, few.seed).name
    key = sha256_json({"of": of, "arm": arm.of, "settings": dict(arm.settings), "rows": list(few.rows), "code": _code(),
                       "judges": judges})[:12]  # fmt: skip
    return place(home) / f"{kind}-{of}-{arm.of.replace(' ', '-')}-{key}.npz"


def _kept(path: Path, make: Callable[[], Arrays]) -> Arrays:
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez_compressed(partial, **make())  # type: ignore[arg-type]
        partial.replace(path)
    with np.load(path) as kept:
        return {name: kept[name] for name in kept.files}
