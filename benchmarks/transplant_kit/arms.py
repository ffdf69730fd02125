"""What is compared: the ways in which the flagged anomalies of a set are made normal, one file an arm and training.

Every arm gives the same arrays, so that one function judges all of them:

    made    uint8 [N,K,C,H,W], the stored images; an alternative that is missing repeats the first
    blends  uint8 [N,K,H,W], the donor's share of each pixel; 255 everywhere for arms that work on the whole image
    heat    float16 [N,H,W] where the search started from, zeros without
    donors  [N,K] ids, empty for arms without
    passes  [N] images that the detector scored for one, NaN where that is not counted
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.kit.baselines import reconstructed
from benchmarks.transplant_kit.banks import bank_of
from benchmarks.transplant_kit.detectors import BlackBox, autoencoder, explained, halved, untrained
from benchmarks.transplant_kit.measures import elsewhere
from benchmarks.transplant_kit.sets import tested_set
from xadflow.detectors.base import Detector
from xadflow.explainers.base import Explainer, Explanation
from xadflow.explainers.sparse.explainer import SparseExplainer
from xadflow.explainers.transplant import DonorBank, TransplantExplainer, TransplantSettings
from xadflow.explainers.transplant.donors import Donors
from xadflow.images import as_float

Pixels = NDArray[np.uint8]
Made = Mapping[str, NDArray[Any]]
BATCH = 32
MAIN = "transplant"
MORE_DONORS = 8  # than the search tried: the heat is kept in half precision, so near ties may change places
CURVE = (0.95, 0.7, 0.5)  # of target_share, beside its default


@dataclass(frozen=True)
class Arm:
    """One row; `most` images of a training are made by it, and `of` says how: see :func:`made_by`."""

    title: str
    of: str
    most: int
    settings: Mapping[str, Any] = field(default_factory=dict)


ALL = 200
ARMS = (
    Arm(MAIN, "transplant", ALL),
    Arm("nearest normal, whole image", "nearest", ALL),
    Arm("random region of the same area, same donor", "elsewhere", ALL),
    Arm("sparse", "sparse", 60),
    Arm("autoencoder", "autoencoder", ALL),
    Arm("transplant for a detector of drawn weights", "untrained", 60),
    *(Arm(f"transplant, target {share}", "transplant", 100, {"target_share": share}) for share in CURVE),
    Arm("transplant, donors from the judges' normals", "not apart", 100),
    Arm("transplant, 40 gradient steps on the mask", "transplant", 20, {"mask_steps": 40}),
    Arm("transplant, black box: neither map nor gradient", "black box", 40),
)
BY_TITLE = {arm.title: arm for arm in ARMS}


@dataclass(frozen=True)
class Task:
    """Which training is explained, on which images (rows of the test set)."""

    set: str
    method: str
    seed: int
    rows: tuple[int, ...]

    @property
    def originals(self) -> Tensor:
        """uint8 [N,C,H,W]."""
        return tested_set(self.set).test[list(self.rows)]

    def part(self, start: int, stop: int) -> Task:
        """The same with some of the images."""
        return Task(self.set, self.method, self.seed, self.rows[start:stop])


def made_by(arm: Arm, task: Task, main: Callable[[], Made]) -> Made:
    """The arrays of one arm; `main` gives those of MAIN for the same images."""
    images, detector = task.originals, explained(task.set, task.method, task.seed)
    if arm.of == "sparse":
        return _told(SparseExplainer(**arm.settings), detector, images)
    if arm.of == "nearest":
        return _nearest(task)
    if arm.of == "autoencoder":
        network, small = autoencoder(task.set)
        shown = reconstructed(
            network, (halved(images) if small else images).numpy(), tuple(images.shape[2:]) if small else None
        )  # type: ignore[arg-type]
        return _whole(shown, [[""] for _ in task.rows])
    if arm.of == "elsewhere":
        return _elsewhere(task, main())
    if arm.of in ("untrained", "black box"):
        asked = untrained(task.set, task.seed) if arm.of == "untrained" else cast(Detector, BlackBox(detector))
        return _told(TransplantExplainer().with_donors(bank_of(asked, tested_set(task.set))), asked, images)
    bank = _bank(task.set, task.method, task.seed, of_judges=arm.of == "not apart")
    return _told(TransplantExplainer(**arm.settings).with_donors(bank), detector, images)


def _nearest(task: Task) -> Made:
    """The donor most like the whole image, at its brightness and contrast: what a transplant of everything is."""
    bank = _bank(task.set, task.method, task.seed)
    x, donors = as_float(task.originals), Donors(bank, torch.device("cpu"))
    matches = [donors.nearest(part, torch.zeros(len(part), *part.shape[2:]), 1) for part in x.split(BATCH)]
    pixels = torch.cat([one.pixels for one in matches])
    return _whole(_eight_bit(pixels), [[bank.ids[int(place)]] for one in matches for place in one.places])


def _elsewhere(task: Task, kept: Made) -> Made:
    """The main arm's donors, blended in by its masks at a random place; an image without fitted donors has them as they
    are.
    """
    bank, x = _bank(task.set, task.method, task.seed), as_float(task.originals)
    donors, rng = Donors(bank, torch.device("cpu")), np.random.default_rng([7, task.seed, *task.rows[:1]])
    made, blends = kept["made"].copy(), np.zeros_like(kept["blends"])
    for start in range(0, len(x), BATCH):
        part = x[start : start + BATCH]
        heat = torch.from_numpy(kept["heat"][start : start + BATCH].astype(np.float32))
        matches = donors.nearest(part, heat, min(MORE_DONORS, len(bank.ids)))
        for row in range(len(part)):
            ids = [bank.ids[int(place)] for place in matches.places[row]]
            for k, donor in enumerate(kept["donors"][start + row]):
                whole = as_float(bank.images[bank.ids.index(donor)])
                pixels = matches.pixels[row, ids.index(donor)] if donor in ids else whole
                blend = elsewhere(kept["blends"][start + row, k], rng)
                share = torch.from_numpy(blend).float() / 255
                mixed = part[row] + share * (pixels - part[row])
                made[start + row, k], blends[start + row, k] = _eight_bit(mixed), blend
    return {**kept, "made": made, "blends": blends, "passes": np.full(len(x), np.nan)}


@cache
def _bank(set_name: str, method: str, seed: int, *, of_judges: bool = False) -> DonorBank:
    return bank_of(explained(set_name, method, seed), tested_set(set_name), of_judges=of_judges)


def _told(explainer: Explainer, detector: Detector, images: Tensor) -> Made:
    told = [one for part in images.split(BATCH) for one in explainer.explain(detector, as_float(part))]
    several = 1 if isinstance(explainer, SparseExplainer) else TransplantSettings().alternatives
    return {
        "made": np.stack([_filled([one.image for one in told_one.counterfactuals], several) for told_one in told]),
        "blends": np.stack([_filled(_blends(one), several) for one in told]),
        "heat": np.stack([_heat(one) for one in told]),
        "donors": np.array([_named([cf.donor_id or "" for cf in one.counterfactuals], several) for one in told]),
        "passes": np.array([one.metrics.get("passes", np.nan) for one in told]),
    }


def _blends(told: Explanation) -> list[Pixels]:
    """Of a transplant its regions; of an image that was left alone nothing; of another explainer everything."""
    size = told.counterfactuals[0].image.shape[1:]
    regions = [one.image for one in told.images if one.name.endswith(".region")]
    return regions or [np.full(size, 0 if "donors" in told.metrics else 255, np.uint8)]


def _heat(told: Explanation) -> NDArray[np.float16]:
    size = told.counterfactuals[0].image.shape[1:]
    return np.zeros(size, np.float16) if told.heatmap is None else told.heatmap.astype(np.float16)


def _filled(images: list[Pixels], several: int) -> Pixels:
    return np.stack([images[k] if k < len(images) else images[0] for k in range(several)])


def _named(ids: list[str], several: int) -> list[str]:
    return [ids[k] if k < len(ids) else ids[0] for k in range(several)]


def _whole(made: Pixels, donors: list[list[str]]) -> Made:
    """Arrays of an arm that has one alternative and changes the whole image; made [N,1,C,H,W]."""
    count, _, _, height, width = made.shape
    return {
        "made": made,
        "blends": np.full((count, 1, height, width), 255, np.uint8),
        "donors": np.array(donors),
        "heat": np.zeros((count, height, width), np.float16),
        "passes": np.full(count, np.nan),
    }


def _eight_bit(values: Tensor) -> Pixels:
    return np.asarray((values * 255.0).round().clamp(0, 255).to(torch.uint8).numpy())
