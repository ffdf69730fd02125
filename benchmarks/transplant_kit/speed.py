"""How fast transplants are found, beside sparse counterfactuals, and what a larger bank costs in memory."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.transplant_kit.banks import bank_of
from benchmarks.transplant_kit.cells import task_of
from benchmarks.transplant_kit.detectors import explained
from benchmarks.transplant_kit.sets import ELPV, tested_set
from xadflow.detectors.base import Detector
from xadflow.explainers.base import Explainer
from xadflow.explainers.sparse.explainer import SparseExplainer
from xadflow.explainers.transplant import DonorBank, TransplantExplainer
from xadflow.images import as_float
from xadflow.training.lanes import portions, side_by_side

THREADS, IMAGES, ROUNDS, BATCH = 2, 64, 3, 32
BANKS = (64, 1024)
MEMORY_PX = 128


def speed_figures() -> dict[str, Any]:
    """Images a second of both explainers in turns on the same flagged ELPV cells, and peak memory by the size of the
    bank.

    Batches go side by side, each on one of the threads, as in a night (xadflow.training.lanes).
    """
    torch.set_num_threads(THREADS)
    before = os.getloadavg()[0]
    detector, task = explained(ELPV, "fcdd", 0), task_of(ELPV, "fcdd", 0)
    images = as_float(task.part(0, IMAGES).originals)
    arms: dict[str, Explainer] = {
        "transplant": TransplantExplainer().with_donors(bank_of(detector, tested_set(ELPV))),
        "sparse": SparseExplainer(),
    }
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for _ in range(ROUNDS):
        for name, explainer in arms.items():
            took[name].append(_timed(partial(_explained, explainer, detector, images)))
    memory = {str(size): _alone(size) for size in BANKS}
    return {
        "threads": THREADS,
        "images": len(images),
        "alternatives": 3,
        "rounds": ROUNDS,
        "px": int(images.shape[-1]),
        "load_average_before": before,
        "load_average_after": os.getloadavg()[0],
        "memory": memory,
        "arms": {
            name: {
                "images_per_second": len(images) / median(one for one, _ in each),
                "cpu_seconds_an_image": median(one for _, one in each) / len(images),
                "each_round": [len(images) / one for one, _ in each],
            }
            for name, each in took.items()
        },
    }


def _explained(explainer: Explainer, detector: Detector, images: Tensor) -> None:
    batches = portions(range(len(images)), BATCH, images.device)
    for _ in side_by_side(lambda batch: explainer.explain(detector, images[list(batch)]), batches, images.device):
        pass


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock and of CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def _alone(size: int) -> dict[str, float]:
    """What one process needs for a bank of so many donors; a process of its own, whose peak is its own."""
    told = subprocess.run([sys.executable, "-m", __name__, str(size)], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(told.stdout)
    return found


def _peak_of(size: int) -> dict[str, float]:
    """Peak memory in MB before and after eight images are explained with a bank of drawn pixels: its content costs
    nothing.
    """
    torch.set_num_threads(THREADS)
    detector, task = explained(ELPV, "fcdd", 0), task_of(ELPV, "fcdd", 0)
    images: Tensor = as_float(task.part(0, 8).originals)
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (size, 1, MEMORY_PX, MEMORY_PX), dtype=np.uint8))
    TransplantExplainer().with_donors(_bank(pixels[:2])).explain(
        detector, images
    )  # what a search needs whatever the bank
    before = _peak()
    TransplantExplainer().with_donors(_bank(pixels)).explain(detector, images)
    return {"peak_mb": _peak(), "peak_mb_with_two_donors": before}


def _bank(pixels: Tensor) -> DonorBank:
    return DonorBank(tuple(str(number) for number in range(len(pixels))), pixels, "flips", True)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    print(json.dumps(_peak_of(int(sys.argv[1]))))
