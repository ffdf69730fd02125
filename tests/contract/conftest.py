"""Every registered detector and explainer, with settings and images so small that it trains in about a second.

One of a third party is found by its entry point and tried with its own defaults, or with those of the command line:
`pytest tests/contract -k my-detector --settings '{"layers": 1}' --shape 3,64,64`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from skimage import data as bundled
from torch import Tensor

from xadflow.defects.drawn import synthetic_defects
from xadflow.detectors import Detector, FitRun, TrainingData, as_float, build_detector
from xadflow.detectors.base import WEIGHTS, detector_names
from xadflow.explainers import Explainer, build_explainer
from xadflow.explainers.base import explainer_names, takes_donors, why_unfit
from xadflow.explainers.trained import GeneratorRun, needs_training
from xadflow.explainers.transplant import DonorBank

SIDE = 32
_SHORT = {"network": "cnn28", "min_steps": 12, "epochs": 0.1, "batch_size": 8}
_STAGE = {"min_steps": 12, "batch_size": 2}
DETECTORS: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("ae", "bce", "deep_sad", "dsvdd", "fcdd_conv", "hsc"), _SHORT),
    "fcdd": {"stages": (2,), "min_steps": 12, "epochs": 0.1, "batch_normals": 8, "batch_synthetic": 8},
    "padim": {"stages": (2,)},
    "tiled": {"inner": "padim", "inner_settings": {"stages": (2,)}, "tile_px": 32, "overlap_px": 8, "max_tiles": 64},
    "utad": {"impression": {**_STAGE, "width": 2, "code": 4}, "expert": {**_STAGE, "width": 4}, "sheets": 0},
    "dense_hybrid": {"closed": _STAGE, "hybrid": _STAGE, "classes": "one", "negatives": "synthetic", "sheets": 0},
}
EXPLAINERS: Mapping[str, Mapping[str, Any]] = {
    "diverse": {"width": 8, "images": 4, "steps": 4, "concepts": 2},
    "reconstruction": {"samples": 2},
    "sparse": {"iterations": 8, "rung_iterations": 4},
    "transplant": {"alternatives": 2, "candidates": 3},
}
EXPLAINED = ("fcdd_conv", "utad", "dense_hybrid")  # an explainer is asked about the first of these that it suits


def pytest_addoption(parser: pytest.Parser) -> None:
    """Heard where this folder is named on the command line."""
    group = parser.getgroup("contract of detectors and explainers")
    group.addoption("--settings", type=json.loads, help="small settings of the one that is tried, as JSON")
    group.addoption("--shape", default=f"1,{SIDE},{SIDE}", help="C,H,W of the images it is tried with")


def pytest_collection_finish(session: pytest.Session) -> None:
    """A name that no test is about is most often a package that is not installed: say so, not `249 deselected`."""
    if not session.items and session.config.getoption("--settings", None) is not None:
        raise pytest.UsageError(
            f"no detector or explainer is registered under the name of -k {session.config.option.keyword!r}: is its "
            f"package installed into this .venv? Known: {', '.join([*detector_names(), *explainer_names()])}"
        )


@dataclass(frozen=True)
class Trial:
    """A detector with its settings, what it is trained on, and images uint8 [N,C,H,W] that it never saw."""

    name: str
    settings: Mapping[str, Any]
    data: TrainingData
    unseen: Tensor

    def new(self) -> Detector:
        return build_detector(self.name, **self.settings)

    def fit(self, folder: Path, kill_at: int | None = None) -> tuple[Detector, int]:
        """Trained on the CPU, and the step it went on from; KeyboardInterrupt at the step `kill_at`."""
        detector = self.new()

        def progress(done: int, total: int, figures: Mapping[str, float]) -> None:
            if kill_at is not None and done >= kill_at:
                raise KeyboardInterrupt

        report = detector.fit(self.data, FitRun(folder, 0, 0.1, "cpu", progress))
        return detector, report.resumed_from


def texture(count: int, seed: int, shape: tuple[int, int, int]) -> Tensor:
    """uint8 [count,C,H,W]: crops of a brick wall at half its size."""
    channels, height, width = shape
    wall = torch.from_numpy(bundled.brick()[::2, ::2].copy())
    generator = torch.Generator().manual_seed(seed)
    tops = torch.randint(wall.shape[0] - height, (count,), generator=generator).tolist()
    lefts = torch.randint(wall.shape[1] - width, (count,), generator=generator).tolist()
    crops = [wall[top : top + height, left : left + width] for top, left in zip(tops, lefts, strict=True)]
    return torch.stack(crops)[:, None].repeat(1, channels, 1, 1)


@functools.cache
def training_data(shape: tuple[int, int, int]) -> TrainingData:
    """24 train normals, 20 held-out ones, 6 known defects with masks."""
    known, masks = synthetic_defects(texture(6, 3, shape), torch.Generator().manual_seed(0))
    none = torch.zeros(0, *shape, dtype=torch.uint8)
    return TrainingData(texture(24, 1, shape), texture(20, 2, shape), known, masks, none)


@pytest.fixture(scope="session")
def trial(pytestconfig: pytest.Config) -> Callable[[str], Trial]:
    """The trial of a detector by its name."""

    def of(name: str) -> Trial:
        channels, height, width = map(int, pytestconfig.getoption("--shape", f"1,{SIDE},{SIDE}").split(","))
        shape = (channels, height, width)
        given = pytestconfig.getoption("--settings", None) if name not in DETECTORS else DETECTORS[name]
        unseen = torch.cat([texture(4, 7, shape), training_data(shape).known[:2]])
        return Trial(name, given or {}, training_data(shape), unseen)

    return of


@pytest.fixture(scope="session")
def fitted(
    trial: Callable[[str], Trial], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Detector, Path]]:
    """A detector by its name, trained once for all tests, and the folder it is saved in."""

    @functools.cache
    def of(name: str) -> tuple[Detector, Path]:
        folder = tmp_path_factory.mktemp(name)
        detector, _ = trial(name).fit(folder / "run")
        shutil.rmtree(folder / "run", ignore_errors=True)
        detector.save(folder / "saved")
        return detector, folder / "saved"

    return of


@dataclass(frozen=True)
class Asked:
    """An explainer that is ready to explain a detector, and images uint8 [N,C,H,W] for both."""

    explainer: Explainer
    detector: Detector
    method: str
    images: Tensor


@pytest.fixture(scope="session")
def asked(
    pytestconfig: pytest.Config,
    trial: Callable[[str], Trial],
    fitted: Callable[[str], tuple[Detector, Path]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Asked]:
    """An explainer by its name: given donors, trained, or as it is; made once for all tests."""

    @functools.cache
    def of(name: str) -> Asked:
        method = next(one for one in EXPLAINED if why_unfit(name, one) is None)
        given = pytestconfig.getoption("--settings", None) if name not in EXPLAINERS else EXPLAINERS[name]
        explainer: Any = build_explainer(name, **(given or {}))
        (detector, saved), data = fitted(method), trial(method).data
        if takes_donors(name):
            ids = tuple(hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in data.normals)
            explainer = explainer.with_donors(DonorBank(ids, data.normals, "none", True))
        if needs_training(name):
            run = GeneratorRun(tmp_path_factory.mktemp(name), 0, "work", torch.device("cpu"))
            weights = hashlib.sha256((saved / WEIGHTS).read_bytes()).hexdigest()
            explainer.fit(detector, weights, data.normals, data.known, run)
        return Asked(explainer, detector, method, trial(method).unseen[-3:])

    return of


def scores_of(detector: Detector, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Image scores and maps of uint8 images, without a gradient."""
    with torch.no_grad():
        told = detector.score(as_float(images))
    return told.image, told.map
