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
from xadflow.settings import Home

Pixels = NDArray[np.uint8]
Made = Mapping[str, NDArray[Any]]
BATCH = 32
MAIN = "transplant"
MORE_DONORS = 8  # than the search tried: the heat is kept in half precision, so near ties may change places
CURVE = (0.95, 0.7, 0.5)  # of target_share, beside its default


@dataclass(frozen=True)
class Arm:
    """One row; `most` images of a training are made by it, and `of` says how: see :data:`_MAKERS`."""

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


def made_by(home: Home, arm: Arm, task: Task, main: Callable[[], Made]) -> Made:
    """The arrays of one arm; `main` gives those of MAIN for the same images."""
    return _MAKERS[arm.of](home, arm, task, main)


def _transplanted(home: Home, arm: Arm, task: Task, main: Callable[[], Made]) -> Made:
    return _told(_searching(home, task, arm), _detector(home, task), task.originals)


def _not_apart(home: Home, arm: Arm, task: Task, main: Callable[[], Made]) -> Made:
    return _told(_searching(home, task, arm, of_judges=True), _detector(home, task), task.originals)


def _untrained(home: Home, arm: Arm, task: Task, main: Callable[[], Made]) -> Made:
    detector = untrained(task.set, task.seed)
    explainer = TransplantExplainer().with_donors(bank_of(detector, tested_set(task.set)))
    return _told(explainer, detector, task.originals)


def _black_box(home: Home, arm: Arm, task: Task, main: Callable[[], Made]) -> Made:
    box = cast(Detector, BlackBox(_detector(home, task)))
    return _told(TransplantExplainer().with_donors(bank_of(box, tested_set(task.set))), box, task.originals)


def _sparse(home: Home, arm: Arm, task: Task, main: Callable[[], Made]) -> Made:
    return _told(SparseExplainer(**arm.settings), _detector(home, task), task.originals)


def _nearest(home: Home, arm: Arm, task: Task, main: Callable[[], Made]) -> Made:
    """The donor most like the whole image, at its brightness and contrast: what a transplant of everything is."""
    x, donors = as_float(task.originals), _ready(home, task)
    matches = [donors.nearest(part, torch.zeros(len(part), *part.shape[2:]), 1) for part in x.split(BATCH)]
    pixels = torch.cat([one.pixels for one in matches])
    bank = _bank(home, task.set, task.method, task.seed)
    return _whole(_eight_bit(pixels), [[bank.ids[int(place)]] for one in matches for place in one.places])


def _projected(home: Home, arm: Arm, task: Task, main: Callable[[], Made]) -> Made:
    """What an autoencoder of normals makes of the image; on large images at half the side, enlarged again."""
    detector, small = autoencoder(home, task.set)
    response: Any = detector
    prepare, network = response.response.prepare, response.response.network
    images = halved(task.originals) if small else task.originals
    with torch.no_grad():
        black, white = (prepare(torch.full((1, *images.shape[1:]), value)) for value in (0.0, 1.0))
        made = torch.cat([network(prepare(as_float(part))) for part in images.split(BATCH)])
        shown = (made - black) / (white - black)  # the preparation is a scale and a shift of each channel
        if small:
            shown = torch.nn.functional.interpolate(
                shown, task.originals.shape[2:], mode="bilinear", align_corners=False
            )
    return _whole(_eight_bit(shown)[:, None], [[""] for _ in task.rows])


def _elsewhere(home: Home, arm: Arm, task: Task, main: Callable[[], Made]) -> Made:
    """The main arm's donors, blended in by its masks at a random place; an image without fitted donors has them as they
    are.
    """
    kept, donors, rng = main(), _ready(home, task), np.random.default_rng([7, task.seed, *task.rows[:1]])
    bank, x = _bank(home, task.set, task.method, task.seed), as_float(task.originals)
    made, blends = kept["made"].copy(), np.zeros_like(kept["blends"])
    for start in range(0, len(x), BATCH):
        part = x[start : start + BATCH]
        heat = torch.from_numpy(kept["heat"][start : start + BATCH].astype(np.float32))
        matches = donors.nearest(part, heat, min(MORE_DONORS, len(bank.ids)))
        for row in range(len(part)):
            ids = [bank.ids[int(place)] for place in matches.places[row]]
            for k, donor in enumerate(kept["donors"][start + row]):
                pixels = (
                    matches.pixels[row, ids.index(donor)]
                    if donor in ids
                    else as_float(bank.images[bank.ids.index(donor)])
                )
                blend = elsewhere(kept["blends"][start + row, k], rng)
                share = torch.from_numpy(blend).float() / 255
                mixed = part[row] + share * (pixels - part[row])
                made[start + row, k], blends[start + row, k] = _eight_bit(mixed), blend
    return {**kept, "made": made, "blends": blends, "passes": np.full(len(x), np.nan)}


_MAKERS: Mapping[str, Callable[[Home, Arm, Task, Callable[[], Made]], Made]] = {
    "transplant": _transplanted,
    "not apart": _not_apart,
    "untrained": _untrained,
    "black box": _black_box,
    "sparse": _sparse,
    "nearest": _nearest,
    "autoencoder": _projected,
    "elsewhere": _elsewhere,
}


def _detector(home: Home, task: Task) -> Detector:
    return explained(home, task.set, task.method, task.seed)


@cache
def _bank(home: Home, set_name: str, method: str, seed: int, of_judges: bool = False) -> DonorBank:
    return bank_of(explained(home, set_name, method, seed), tested_set(set_name), of_judges=of_judges)


def _ready(home: Home, task: Task) -> Donors:
    return Donors(_bank(home, task.set, task.method, task.seed), torch.device("cpu"))


def _searching(home: Home, task: Task, arm: Arm, of_judges: bool = False) -> Explainer:
    explainer = TransplantExplainer(**arm.settings)
    return explainer.with_donors(_bank(home, task.set, task.method, task.seed, of_judges))


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
