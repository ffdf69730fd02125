"""FCDD: a detector whose low-resolution output is its own heatmap.

Liznerski et al., "Explainable Deep One-Class Classification", ICLR 2021 (arXiv 2007.01760), equations 2 and 3.
What differs from the paper, and why (figures: benchmarks/results/elpv.json):

- the trunk is a frozen packaged network (see backbones.py for names, licences and origin) whose features are computed
  once, so that training takes seconds; the paper trains or fine-tunes VGG11;
- the default head is an FCDD objective on a learned Mahalanobis head, not the scalar one (`head: scalar`);
- the image score is the mean of the hottest tenth of the cells; the paper's plain mean is `pool_share: 1.0`;
- synthetic anomalies are drawn defects; the paper's confetti is `synthesiser: confetti`;
- labelled known defects never stay in the test set (the published semi-supervised protocol leaves them there);
- heatmaps are upsampled with the border's missing heat restored (`upsampling: coverage`).

Train it: `xadflow retrain --dataset elpv --detector fcdd`
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Self

import torch
from torch import Generator, Tensor, nn

from xadflow.detectors import saved
from xadflow.detectors.backbones import Trunk, trunk_spec
from xadflow.detectors.base import FitReport, FitRun, Scores, TrainingData
from xadflow.detectors.calibrated import CalibratedDetector, check_training_data
from xadflow.detectors.fcdd_settings import FCDDSettings, fcdd_settings
from xadflow.detectors.feature_bank import BankBatch, FeatureBank, bank_batches, build_bank, drawn_rows, some_of
from xadflow.detectors.heads import HeatmapHead, Whitening, kept_channels
from xadflow.detectors.losses import image_level_loss, pixel_level_loss, pooled
from xadflow.detectors.splitting import Network, Problem
from xadflow.detectors.training import Schedule, Trained, train
from xadflow.detectors.upsampling import GaussianUpsampling
from xadflow.engine.devices import resolve_device
from xadflow.engine.progress import Progress
from xadflow.engine.seeds import seeded
from xadflow.errors import BadSettings, BadWeights

STATISTIC_FLOOR = 1e-6  # of the image statistic inside the anomaly term while training


class FCDD(CalibratedDetector):
    """The detector; contract of xadflow.detectors.base. Raises BadSettings for settings it does not know."""

    method, score_is = "fcdd", "radius"

    def __init__(self, **settings: object) -> None:
        super().__init__()
        self.settings: FCDDSettings = fcdd_settings(settings, self.method)
        self._fitted: Fitted | None = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images it was fitted on. Raises BadWeights before fit."""
        return self.fitted.input_shape

    def anomaly_sources(self, data: TrainingData) -> tuple[str, ...]:
        """What it trains against where the data have it: known and, unless switched off, synthetic anomalies."""
        return ("known", "synthetic") if self.settings.synthetic_rounds else ("known",)

    @property
    def fitted(self) -> Fitted:
        """Trunk, head and upsampling. Raises BadWeights before fit."""
        if self._fitted is None:
            raise self.not_fitted()
        return self._fitted

    def fit(self, data: TrainingData, run: FitRun) -> FitReport:
        """Features once, then the head, then threshold and temperature on the held-out normals.

        Raises:
            TooFewNormals: fewer held-out normals than the false-alarm rate needs; said before any work.
            BadInput: images of different shapes or types, too few normals, or flat ones alone.
            BadSettings: neither synthetic nor known defects to train against.
            TrainingFailed: the loss or a score stopped being a number.
        """
        s = self.settings
        check_training_data(data, run.false_alarm_rate)
        if s.synthetic_rounds == 0 and len(data.known) == 0:
            raise BadSettings("there is nothing anomalous to train against", seen="synthetic_rounds 0, no known defects",
                              next_step="set synthetic_rounds of the detector to 1 or more in params.yaml")  # fmt: skip
        started = time.monotonic()
        self._device = resolve_device(run.device)
        trunk = Trunk(s.trunk, s.stages).to(self._device)
        sample = _sampled(data, s.max_normals, seeded(run.seed, "sample"))
        batches = bank_batches(
            sample, normal_copies=s.normal_copies, known_copies=s.known_copies, rounds=s.synthetic_rounds,
            batch_size=s.batch_features,
        )  # fmt: skip
        progress = Progress(run, batches + s.steps(len(sample.normals)))
        bank = build_bank(
            trunk, sample, normal_copies=s.normal_copies, known_copies=s.known_copies, synthesiser=s.synthesiser,
            rounds=s.synthetic_rounds, batch_size=s.batch_features, device=self._device, done=progress.advance,
            generator=seeded(run.seed, "synthetic", device=self._device),
        )  # fmt: skip
        whitening = Whitening(trunk.channels, bank.grid, s.whitening, s.whitening_floor, s.shrinkage).to(self._device)
        whitening.fit(bank.normals)
        bank = bank.whitened(whitening)
        featured = time.monotonic()
        identity = saved.work_identity(self.method, s.model_dump(mode="json"), run.seed, data)
        _, channels, height, width = data.normals.shape
        outcome = self.fit_head(trunk, whitening, bank, (channels, height, width), run, identity, progress)
        trained = time.monotonic()
        self._calibration = self.calibrated(data, run, s.synthesiser, s.batch_features)
        ended = time.monotonic()
        figures = {"features_s": featured - started, "head_s": trained - featured, "calibration_s": ended - trained,
                   "calibration_error": self._calibration.calibration_error, "batch_parts": float(outcome.parts)}  # fmt: skip
        return FitReport(ended - started, outcome.steps, outcome.resumed_from, outcome.history, figures)

    def fit_head(
        self, trunk: Trunk, whitening: Whitening, bank: FeatureBank, input_shape: tuple[int, int, int], run: FitRun,
        identity: str, progress: Progress | None = None,
    ) -> Trained:  # fmt: skip
        """Train the response alone on a bank that was whitened before; threshold and temperature are not set.

        The second half of :meth:`fit`, open so that many heads can share one bank (benchmarks/elpv.py).
        """
        s = self.settings
        self._calibration, self._device = None, bank.normals.device
        fitted = Fitted(s, trunk, whitening, input_shape, seeded(run.seed, "head")).to(self._device)

        def draw(generator: Generator) -> BankBatch:
            batch = drawn_rows(bank, s, generator)
            count = sum(map(len, batch.values()))
            return BankBatch(batch, kept_channels(count, trunk.channels, s.dropout, generator))

        def cost(response: Network, batch: BankBatch, part: slice) -> Tensor:
            rows = batch.part(part)
            z = torch.cat([bank.group(name)[chosen] for name, chosen in rows.items()])  # (b, P, C)
            maps = torch.split(response(z.float(), batch.kept[part]), [len(chosen) for chosen in rows.values()])
            return torch.cat([self._loss(fitted, name, some, rows[name], bank)
                              for name, some in zip(rows, maps, strict=True)])  # fmt: skip

        schedule = Schedule(s.steps(len(bank.normals) // s.normal_copies), s.learning_rate, s.weight_decay)
        progress = progress or Progress(run, schedule.steps)
        problem = Problem(draw, cost)
        outcome = train(fitted.head.response, problem, schedule, run, identity, progress, self._device)
        self._fitted = fitted.requires_grad_(False)
        return outcome

    def _loss(self, fitted: Fitted, name: str, maps: Tensor, rows: Tensor, bank: FeatureBank) -> Tensor:
        """Loss of each of the low-resolution maps [B,P] of one group."""
        is_anomaly = torch.full((len(maps),), name != "normal", device=maps.device)
        s = self.settings
        if s.level == "image":
            return image_level_loss(pooled(maps, s.pool()), is_anomaly, STATISTIC_FLOOR)
        up = fitted.upsampling(fitted.on_grid(maps))  # (B, H, W)
        masks = {"synthetic": bank.synthetic_masks, "known": bank.known_masks}
        defect = masks[name][rows] if name in masks else torch.zeros_like(up, dtype=torch.bool)
        return pixel_level_loss(up, defect, s.defect_area, STATISTIC_FLOOR)

    def score(self, images: Tensor) -> Scores:
        """Raw scores [B] and maps [B,H,W] of float32 [B,C,H,W] in [0,1]; differentiable in `images`.

        The score is the pooled low-resolution map, not that of the upsampled one (FCDD, section 3).

        Raises:
            BadInput: another shape or type than it was fitted on. BadWeights: before fit.
        """
        fitted = self.fitted
        low = fitted.head(fitted.trunk.trunk_features(self.checked(images)))  # (B, P)
        return Scores(pooled(low, self.settings.pool()), fitted.upsampling(fitted.on_grid(low)))

    def to(self, device: str | torch.device) -> Self:
        """Move to a device, in place."""
        self._device = resolve_device(str(device))
        if self._fitted is not None:
            self._fitted = self._fitted.to(self._device)
        return self

    def save(self, folder: Path) -> None:
        """Write detector.json and weights.safetensors; the trunk's weights stay in their package, by hash."""
        fitted = self.fitted
        card = {
            "method": self.method, "settings": self.settings.model_dump(mode="json"),
            "input_shape": list(fitted.input_shape), "trunk_sha256": trunk_spec(self.settings.trunk).sha256,
        }  # fmt: skip
        saved.write_detector(folder, card, fitted.head.packed(), self.calibration)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote. Raises BadWeights when it is broken or its trunk is another one."""
        card, tensors, calibration = saved.read_detector(folder, cls.method)
        detector = cls(**card["settings"])
        expected = trunk_spec(detector.settings.trunk).sha256
        if card["trunk_sha256"] != expected:
            raise BadWeights("the detector was fitted on other trunk weights", seen=card["trunk_sha256"],
                             next_step="register the model again by `xadflow retrain`")  # fmt: skip
        channels, height, width = card["input_shape"]
        trunk = Trunk(detector.settings.trunk, detector.settings.stages)
        s = detector.settings
        grid = trunk.grid(height, width)
        whitening = Whitening(trunk.channels, grid, s.whitening, s.whitening_floor, s.shrinkage)
        fitted = Fitted(s, trunk, whitening, (channels, height, width), seeded(0, "head"))
        fitted.head.unpack(tensors)
        detector._fitted, detector._calibration = fitted.requires_grad_(False), calibration
        return detector


class Fitted(nn.Module):
    """Trunk, head and upsampling of one input shape."""

    def __init__(
        self, settings: FCDDSettings, trunk: Trunk, whitening: Whitening, input_shape: tuple[int, int, int],
        generator: Generator,
    ) -> None:  # fmt: skip
        super().__init__()
        self.input_shape, self.trunk = input_shape, trunk
        self.grid = trunk.grid(*input_shape[1:])
        self.head = HeatmapHead(settings, whitening, generator)
        sigma = settings.sigma_px or 0.75 * max(input_shape[1] / self.grid[0], input_shape[2] / self.grid[1])
        self.upsampling = GaussianUpsampling.over_grid(input_shape[1:], self.grid, sigma, settings.upsampling)

    def on_grid(self, cells: Tensor) -> Tensor:
        """[B,P] to [B,u,v]."""
        return cells.view(len(cells), *self.grid)


def _sampled(data: TrainingData, most: int, generator: Generator) -> TrainingData:
    if len(data.normals) <= most:
        return data
    return dataclasses.replace(data, normals=data.normals[some_of(len(data.normals), most, generator).sort().values])
