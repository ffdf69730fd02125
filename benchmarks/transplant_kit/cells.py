"""What is kept on the disk: what each arm made of each training's images, and what detector, judges and features say of
it.

A cell is at most CHUNK images of one arm and training. Its name holds the digests of everything that decides it, so a
change of a setting or of code makes it anew and nothing else; a run that was stopped goes on, and figures are of the
cells there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.kit.judging import features_of
from benchmarks.study import kept
from benchmarks.transplant_kit.arms import ALL, BY_TITLE, MAIN, Arm, Made, Task, made_by
from benchmarks.transplant_kit.detectors import JUDGES, STUDY, explained, folder_of, judge, scores_of
from benchmarks.transplant_kit.sets import tested_set

ORDER_SEED, CHUNK = 0, 50
Arrays = dict[str, NDArray[Any]]


def task_of(set_name: str, method: str, seed: int, most: int = ALL) -> Task:
    """A training with the anomalies of the test set that it flags, in an order that is the same for all trainings."""
    tested, detector = tested_set(set_name), explained(set_name, method, seed)
    anomalies = np.random.default_rng(ORDER_SEED).permutation(np.flatnonzero(tested.labels == 1))
    scores = scores_of_test(set_name, method, seed)
    flagged = anomalies[scores[anomalies] > detector.calibration.threshold]
    return Task(set_name, method, seed, tuple(int(row) for row in flagged[:most]))


def chunks(arm: Arm, task: Task) -> Iterator[Task]:
    """The images of a training that an arm is for, CHUNK at a time."""
    count = min(arm.most, len(task.rows))
    for start in range(0, count, CHUNK):
        yield task.part(start, min(start + CHUNK, count))


def finish(arm: Arm, chunk: Task) -> None:
    """Make and judge one cell where that was not done."""
    _made(arm, chunk)
    _judged(arm, chunk)


def iskept(arm: Arm, chunk: Task) -> bool:
    """Whether nothing has to be computed for a cell."""
    return _path("made", arm, chunk).is_file() and _path("judged", arm, chunk).is_file()


def kept_part(arm: Arm, task: Task) -> Task:
    """The first images of a training that an arm has been measured on."""
    count = 0
    for chunk in chunks(arm, task):
        if not iskept(arm, chunk):
            break
        count += len(chunk.rows)
    return task.part(0, count)


def made_of(arm: Arm, task: Task) -> Made:
    """What an arm made of the images of :func:`kept_part`."""
    return _joined([_made(arm, chunk) for chunk in chunks(arm, task)])


def judged_of(arm: Arm, task: Task) -> Arrays:
    """Of the same images: raw scores `own` [N,K], of each judge, and `features` [N,K,D] of the network for
    distances.
    """
    return _joined([_judged(arm, chunk) for chunk in chunks(arm, task)])


@cache
def judged_originals(set_name: str) -> Mapping[str, NDArray[Any]]:
    """Of all test images of a set: raw scores of each judge [N], and `features` [N,D]."""

    def make() -> Arrays:
        images = tested_set(set_name).test.numpy()
        scores = {f"judge {name}": judge(set_name, name).scores(images) for name in JUDGES}
        return {"features": features_of(images).astype(np.float32), **scores}

    found: Arrays = kept(STUDY.path(f"originals-{set_name}.npz"), make)
    return found


@cache
def scores_of_test(set_name: str, method: str, seed: int) -> NDArray[np.float64]:
    """Raw scores [N] of all test images of a set by an explained detector."""
    path = STUDY.path(f"scores-{folder_of(set_name, method, seed).name}.npz")
    found = kept(path, lambda: {"scores": scores_of(explained(set_name, method, seed), tested_set(set_name).test)})
    return np.asarray(found["scores"])


def _made(arm: Arm, chunk: Task) -> Arrays:
    def main() -> Made:
        return _made(BY_TITLE[MAIN], chunk)

    return kept(_path("made", arm, chunk), lambda: dict(made_by(arm, chunk, main)))


def _judged(arm: Arm, chunk: Task) -> Arrays:
    def make() -> Arrays:
        made = _made(arm, chunk)["made"]
        flat, shape = np.ascontiguousarray(made.reshape(-1, *made.shape[2:])), made.shape[:2]
        own = scores_of(explained(chunk.set, chunk.method, chunk.seed), torch.from_numpy(flat))
        told = {f"judge {name}": judge(chunk.set, name).scores(flat).reshape(shape) for name in JUDGES}
        return {"own": own.reshape(shape), "features": features_of(flat).astype(np.float32).reshape(*shape, -1), **told}

    return kept(_path("judged", arm, chunk), make)


def _path(kind: str, arm: Arm, chunk: Task) -> Path:
    of = folder_of(chunk.set, chunk.method, chunk.seed).name
    return STUDY.path(f"{kind}-{of}-{arm.of}.npz", settings=dict(arm.settings), rows=list(chunk.rows))


def _joined(parts: list[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
