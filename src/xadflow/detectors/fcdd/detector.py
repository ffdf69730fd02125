"""FCDD: a detector whose low-resolution output is its own heatmap.

Liznerski et al., "Explainable Deep One-Class Classification", ICLR 2021 (arXiv 2007.01760), equations 2 and 3.
What differs from the paper, and why (figures: benchmarks/results/elpv.json):

- the trunk is a frozen packaged network (see networks/pretrained.py for names, licences and origin) whose features are
  computed once, so that training takes seconds; the paper trains or fine-tunes VGG11;
- the default head is an FCDD objective on a learned Mahalanobis head, not the scalar one (`head: scalar`);
- the image score is the mean of the hottest tenth of the cells; the paper's plain mean is `pool_share: 1.0`;
- synthetic anomalies are drawn defects; the paper's confetti is `synthesiser: confetti`;
- labelled known defects never stay in the test set (the published semi-supervised protocol leaves them there);
- heatmaps are upsampled with the border's missing heat restored (`upsampling: coverage`);
- with `map_stages`, as by default, the heatmap is not the map that is pooled to the score: the score's cells see nearly
  the whole image, so their map says whether, not where. A second head on finer stages, with whitening of its own and
  trained at pixel level (equation 3), gives the heatmap, and nothing of it enters the score. The two heads share trunk,
  normals and synthetic defects, no more: heat is where the finer stages are unusual, and that a region of it decides
  the score has to be tried, not assumed (docs/decisions/0010-finer-map.md).

Train it: `xadflow retrain --dataset elpv --detector fcdd`
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Self

import torch
from torch import Generator, Tensor

from xadflow.detectors import saved
from xadflow.detectors.base import FitReport, FitRun, Scores, TrainingData
from xadflow.detectors.calibrated import CalibratedDetector, check_training_data
from xadflow.detectors.fcdd.cell_maps import CellMap, new_whitening, response_problem
from xadflow.detectors.fcdd.feature_bank import FeatureBank, Wanted, bank_batches, build_banks, some_of
from xadflow.detectors.fcdd.heads import Whitening
from xadflow.detectors.fcdd.settings import FCDDSettings, fcdd_settings
from xadflow.detectors.losses import pooled
from xadflow.detectors.memory import Need
from xadflow.errors import BadSettings, BadWeights
from xadflow.networks.pretrained import Trunk, trunk_spec
from xadflow.training.devices import resolve_device
from xadflow.training.loop import Trained, run_stage
from xadflow.training.minimising import Schedule, minimising
from xadflow.training.progress import Progress
from xadflow.training.seeds import seeded

_OF_MAP = "map."  # before the names of the tensors of the heatmap's own head


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
            raise BadSettings(
                "there is nothing anomalous to train against",
                seen="synthetic_rounds 0, no known defects",
                next_step="set synthetic_rounds of the detector to 1 or more in params.yaml",
            )
        started = time.monotonic()
        self._device = resolve_device(run.device)
        trunk = Trunk(s.trunk, s.all_stages).to(self._device)
        most = _need(s, tuple(data.normals.shape[2:]), len(data.known))
        sample = _sampled(
            data,
            most.normals(min(len(data.normals), s.max_normals), run.memory_mb, data.normals.shape[1:]),
            seeded(run.seed, "sample"),
        )
        batches = bank_batches(
            sample,
            normal_copies=s.normal_copies,
            known_copies=s.known_copies,
            rounds=s.synthetic_rounds,
            batch_size=s.batch_features,
        )
        wanted = _wanted(s, len(sample.normals), seeded(run.seed, "map sample"))
        counts = [int(one.normals.sum()) for one in wanted]
        progress = Progress(run, batches + sum(map(s.steps, counts)))
        banks = build_banks(
            trunk,
            sample,
            wanted,
            normal_copies=s.normal_copies,
            known_copies=s.known_copies,
            synthesiser=s.synthesiser,
            rounds=s.synthetic_rounds,
            batch_size=s.batch_features,
            device=self._device,
            done=progress.advance,
            generator=seeded(run.seed, "synthetic", device=self._device),
        )
        _, channels, height, width = data.normals.shape
        shape = (channels, height, width)
        whitening = new_whitening(s, trunk, shape).to(self._device)
        whitening.fit(banks[0].normals)
        banks[0] = banks[0].whitened(whitening)
        featured = time.monotonic()
        identity = saved.work_identity(self.method, s.model_dump(mode="json"), run.seed, data)
        outcome = self.fit_head(trunk, whitening, banks.pop(0), shape, run, identity, progress)
        if banks:
            outcome = self._with_map(outcome, banks.pop(), data.known_masks is not None, run, identity, progress)
        trained = time.monotonic()
        self._calibration = self.calibrated(data, run, s.batch_features)
        ended = time.monotonic()
        figures = {
            "features_s": featured - started,
            "head_s": trained - featured,
            "calibration_s": ended - trained,
            "calibration_error": self._calibration.calibration_error,
            "batch_parts": float(outcome.parts),
        }
        return FitReport(ended - started, outcome.steps, outcome.resumed_from, outcome.history, figures)

    def fit_head(
        self,
        trunk: Trunk,
        whitening: Whitening,
        bank: FeatureBank,
        input_shape: tuple[int, int, int],
        run: FitRun,
        identity: str,
        progress: Progress | None = None,
    ) -> Trained:
        """Train the score's response alone on a bank that was whitened before; threshold and temperature are not set.

        Part of :meth:`fit`, open so that many heads can share one bank (benchmarks/elpv.py); the heatmap is then the
        score's own.
        """
        s = self.settings
        self._calibration, self._device = None, bank.normals.device
        fitted = Fitted(s, trunk, whitening, input_shape, seeded(run.seed, "head")).to(self._device)
        outcome = _trained(s, fitted, bank, run, identity, progress)
        self._fitted = fitted.requires_grad_(False)
        return outcome

    def _with_map(
        self, outcome: Trained, bank: FeatureBank, has_masks: bool, run: FitRun, identity: str, progress: Progress
    ) -> Trained:
        """Train the heatmap's own head too; what both trainings did, the second one's figures after the first's."""
        s, fitted = self.settings.of_map(), self.fitted
        if not has_masks:  # "somewhere in this image" teaches nothing about where
            bank = dataclasses.replace(bank, known=bank.known[:0], known_masks=bank.known_masks[:0])
        whitening = new_whitening(s, fitted.trunk, fitted.input_shape).to(self._device)
        whitening.fit(bank.normals)
        bank = bank.whitened(whitening)
        finer = CellMap(s, fitted.trunk, whitening, fitted.input_shape, seeded(run.seed, "map head")).to(self._device)
        if len(bank.synthetic) + len(bank.known) == 0:  # it stays as it starts: the Mahalanobis distance of each cell
            progress.advance(units=s.steps(len(bank.normals) // s.normal_copies))
        else:
            second = _trained(s, finer, bank, dataclasses.replace(run, folder=run.folder / "map"), identity, progress)
            later = tuple((outcome.steps + step, f"map {name}", value) for step, name, value in second.history)
            outcome = Trained(
                outcome.resumed_from + second.resumed_from,
                outcome.steps + second.steps,
                outcome.history + later,
                max(outcome.parts, second.parts),
            )
        fitted.finer = finer.requires_grad_(False)
        return outcome

    def score(self, images: Tensor) -> Scores:
        """Raw scores [B] and maps [B,H,W] of float32 [B,C,H,W] in [0,1]; differentiable in `images`.

        The score is the pooled low-resolution map of `stages`, not that of the upsampled one (FCDD, section 3); the map
        is that of `map_stages` where there are some, and then the score is no pooling of it.

        Raises:
            BadInput: another shape or type than it was fitted on. BadWeights: before fit.
        """
        fitted = self.fitted
        found = fitted.trunk.stage_features(self.checked(images))
        low = fitted.cells(fitted.trunk, found)  # (B, P)
        heat = (
            fitted.pixels(low) if fitted.finer is None else fitted.finer.pixels(fitted.finer.cells(fitted.trunk, found))
        )
        return Scores(pooled(low, self.settings.pool()), heat)

    def image_score(self, images: Tensor) -> Tensor:
        """The image scores [B] alone, without the heatmap."""
        fitted = self.fitted
        low = fitted.cells(fitted.trunk, fitted.trunk.stage_features(self.checked(images)))
        return pooled(low, self.settings.pool())

    def save(self, folder: Path) -> None:
        """Write detector.json and weights.safetensors; the trunk's weights stay in their package, by hash."""
        fitted = self.fitted
        card = {
            "method": self.method,
            "settings": self.settings.model_dump(mode="json"),
            "input_shape": list(fitted.input_shape),
            "trunk_sha256": trunk_spec(self.settings.trunk).sha256,
        }
        finer = {} if fitted.finer is None else fitted.finer.head.packed()
        tensors = {**fitted.head.packed(), **{_OF_MAP + name: value for name, value in finer.items()}}
        saved.write_detector(folder, card, tensors, self.calibration)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote. Raises BadWeights when it is broken or its trunk is another one.

        Settings without `map_stages` are from before there was a second map: the heatmap is the score's, as it was.
        """
        card, tensors, calibration = saved.read_detector(folder, cls.method)
        detector = cls(**{"map_stages": (), **card["settings"]})
        expected = trunk_spec(detector.settings.trunk).sha256
        if card["trunk_sha256"] != expected:
            raise BadWeights(
                "the detector was fitted on other trunk weights",
                seen=card["trunk_sha256"],
                next_step="register the model again by `xadflow retrain`",
            )
        channels, height, width = card["input_shape"]
        s, shape = detector.settings, (channels, height, width)
        trunk = Trunk(s.trunk, s.all_stages)
        fitted = Fitted(s, trunk, new_whitening(s, trunk, shape), shape, seeded(0, "head"))
        of_map = {name.removeprefix(_OF_MAP): tensors.pop(name) for name in list(tensors) if name.startswith(_OF_MAP)}
        fitted.head.unpack(tensors)
        if s.map_stages:
            fitted.finer = CellMap(
                s.of_map(), trunk, new_whitening(s.of_map(), trunk, shape), shape, seeded(0, "map head")
            )
            fitted.finer.head.unpack(of_map)
        detector._fitted, detector._calibration = fitted.requires_grad_(False), calibration
        return detector


class Fitted(CellMap):
    """Trunk, the map of the score, and, once it is trained, a finer one for the heatmap; of one input shape."""

    def __init__(
        self,
        settings: FCDDSettings,
        trunk: Trunk,
        whitening: Whitening,
        input_shape: tuple[int, int, int],
        generator: Generator,
    ) -> None:
        super().__init__(settings, trunk, whitening, input_shape, generator)
        self.input_shape, self.trunk = input_shape, trunk
        self.finer: CellMap | None = None


def _trained(
    s: FCDDSettings, cell_map: CellMap, bank: FeatureBank, run: FitRun, identity: str, progress: Progress | None
) -> Trained:
    schedule = Schedule(s.steps(len(bank.normals) // s.normal_copies), s.learning_rate, s.weight_decay)
    problem = response_problem(s, cell_map, bank)
    stage = minimising(cell_map.head.response, problem, schedule, run.seed, bank.normals.device)
    return run_stage(stage, run.folder, identity, progress or Progress(run, schedule.steps))


def _wanted(s: FCDDSettings, normals: int, generator: Generator) -> list[Wanted]:
    """The bank of the score's head, of all the normals, and that of the heatmap's own."""
    wanted = [Wanted(s.stages, torch.ones(normals, dtype=torch.bool))]
    if s.map_stages:
        kept = torch.zeros(normals, dtype=torch.bool)
        kept[some_of(normals, s.map_normals, generator)] = True
        wanted.append(Wanted(s.map_stages, kept))
    return wanted


def _need(s: FCDDSettings, size: tuple[int, ...], known: int) -> Need:
    """Features in half precision, twice for a moment, of normals, drawn and known defects; both heads' whitening."""
    spec, each, fixed = trunk_spec(s.trunk), 0, 0
    for stages in (s.stages, s.map_stages or ()):
        if stages:
            (rows, columns), channels = spec.grid(stages, *size), spec.width(stages)
            each += 4 * channels * rows * columns
            fixed += 4 * rows * columns * channels**2 if s.whitening == "location" else 0
    return Need(each * (s.normal_copies + s.synthetic_rounds), fixed + each * s.known_copies * known)


def _sampled(data: TrainingData, most: int, generator: Generator) -> TrainingData:
    if len(data.normals) <= most:
        return data
    return dataclasses.replace(data, normals=data.normals[some_of(len(data.normals), most, generator).sort().values])
