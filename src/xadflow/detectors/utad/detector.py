"""UTAD: what an image should look like, in two steps, and how far it is from that.

Liu, Zhuang, Lu, "Unsupervised Two-Stage Anomaly Detection", 2021 (arXiv 2103.11671). IE-Net makes an impression without
defect or detail, Expert-Net adds global detail to it. Architectures and loss weights of `configuration: published` are
those of the released code, read and written anew; it holds no training loop, scores or results, so the rest is
reconstructed and named so in docs/decisions/0007-utad.md. What the default, `compact`, does otherwise, and why
(figures: benchmarks/results/utad.json):

- a network that fits minutes without a GPU, and a residual Expert-Net with known pairs in the place of MUNIT's;
- the encoder sees drawn defects that the target does not have ("robust impression");
- the map is the difference to the expert's reconstruction, plain and after a blur, and the image score is the map's
  alone; the released combination and the k-NN part are settings, and both parts of the score are reported whatever
  enters.

Train it: `xadflow retrain --dataset textures-brick --detector utad`
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from xadflow.detectors import saved
from xadflow.detectors.base import FitReport, FitRun, Reconstructions, Scores, TrainingData
from xadflow.detectors.calibrated import CalibratedDetector, check_training_data
from xadflow.detectors.utad.expert_net import Expert
from xadflow.detectors.utad.impression_net import Impression, ImpressionNet, stride_of
from xadflow.detectors.utad.maps import TERMS, Fitted
from xadflow.detectors.utad.settings import UtadSettings, utad_settings
from xadflow.detectors.utad.training import ExpertGame, ImpressionGame, build_expert
from xadflow.errors import BadInput, unknown_name
from xadflow.training.devices import resolve_device
from xadflow.training.loop import Trained, report_of, run_stage
from xadflow.training.progress import Progress
from xadflow.training.seeds import seeded

_ONE_PASS = 64  # images at once while calibrating


class Utad(CalibratedDetector):
    """The detector; contract of xadflow.detectors.base. Raises BadSettings for settings it does not know."""

    method = "utad"
    stages: ClassVar[tuple[str, ...]] = ("impression", "expert")

    def __init__(self, **settings: object) -> None:
        super().__init__()
        self.settings: UtadSettings = utad_settings(settings, self.method)
        self._fitted: Fitted | None = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images it was fitted on. Raises BadWeights before fit."""
        return self.fitted.shape

    @property
    def fitted(self) -> Fitted:
        """Networks, bank and statistics. Raises BadWeights before fit."""
        if self._fitted is None:
            raise self.not_fitted()
        return self._fitted

    @property
    def synthesiser(self) -> str:
        """That of stage 1, the only one that learns from defects."""
        return self.settings.impression.synthesiser

    def anomaly_sources(self, data: TrainingData) -> tuple[str, ...]:
        """What it trains against: drawn defects that the impression is to leave out, unless switched off."""
        return ("synthetic",) if self.settings.impression.corrupt else ()

    def fit(self, data: TrainingData, run: FitRun) -> FitReport:
        """Both stages, as far as they are missing, then the scale of each term, threshold and temperature.

        Raises:
            TooFewNormals: fewer held-out normals than the false-alarm rate needs; said before any work.
            BadInput: images of different shapes or types, too few normals, flat ones alone, sides that do not suit the
            stride. TrainingFailed: a loss or a score stopped being a number.
        """
        started = time.monotonic()
        impress, expert, outcomes = self._trained(self.stages[-1], data, run)
        assert expert is not None
        trained = time.monotonic()
        self._fitted = Fitted(self.settings, _shape(data.normals), impress, expert).to(self._device)
        self._fitted.learn(data.normals, data.val_normals, seeded(run.seed, "utad bank"))
        self._calibration = self.calibrated(data, run, _ONE_PASS)
        ended = time.monotonic()
        return report_of(
            outcomes,
            ended - started,
            {
                "training_s": trained - started,
                "calibration_s": ended - trained,
                "calibration_error": self._calibration.calibration_error,
            },
        )

    def take(self, other: Utad, data: TrainingData, seed: int) -> None:
        """The networks of another fitted one under these settings' map and score; scales are learned, no threshold is
        set.

        Open so that many maps can share one training (benchmarks/utad.py).
        """
        given = other.fitted
        self._device, self._calibration = given.bank.device, None
        self._fitted = Fitted(self.settings, given.shape, given.impress, given.expert).to(self._device)
        self._fitted.learn(data.normals, data.val_normals, seeded(seed, "utad bank"))

    def fit_stage(self, stage: str, data: TrainingData, run: FitRun) -> FitReport:
        """The stages up to this one, as far as they are missing. Raises as :meth:`fit`; UnknownName for
        another stage.
        """
        started = time.monotonic()
        _, _, outcomes = self._trained(stage, data, run)
        return report_of(outcomes, time.monotonic() - started, {})

    def _trained(
        self, last: str, data: TrainingData, run: FitRun
    ) -> tuple[ImpressionNet, Expert | None, tuple[Trained, ...]]:
        s = self.settings
        if last not in self.stages:
            raise unknown_name("no stage of that name", last, self.stages)
        check_training_data(data, run.false_alarm_rate)
        shape, count = _shape(data.normals), len(data.normals)
        stride_of(shape, s.impression)  # what does not fit is said before any work
        self._device, self._calibration, self._fitted = resolve_device(run.device), None, None
        normals = data.normals.to(self._device)
        of_impression = s.impression.model_dump(mode="json")
        parts = [("impression", s.impression.steps(count)), ("expert", s.expert.steps(count))]
        progress = Progress(run, sum(steps for _, steps in parts[: self.stages.index(last) + 1]))
        identity = saved.work_identity(f"{self.method} impression", of_impression, run.seed, data)
        first = ImpressionGame(shape, s.impression, normals, run.seed)
        outcome = run_stage(first.stage(s.sheets), run.folder, identity, progress)
        impress = first.players.net.requires_grad_(False).eval()
        if last == "impression":
            return impress, None, (outcome,)
        decides = {"impression": of_impression, "expert": s.expert.model_dump(mode="json")}
        identity = saved.work_identity(f"{self.method} expert", decides, run.seed, data)
        second = ExpertGame(shape, s.expert, impress, normals, run.seed)
        outcomes = (outcome, run_stage(second.stage(s.sheets), run.folder, identity, progress))
        return impress, second.players.expert.requires_grad_(False).eval(), outcomes

    def score(self, images: Tensor) -> Scores:
        """Raw scores [B] and maps [B,H,W] of float32 [B,C,H,W] in [0,1]; differentiable in `images`.

        Raises:
            BadInput: another shape or type than it was fitted on. BadWeights: before fit.
        """
        fitted, x = self.fitted, self.checked(images)
        seen: Impression = fitted.impress(x)
        e = fitted.combination.map(fitted.contributions(x, seen))
        weights = self.settings.score.model_dump()
        parts = [weights[name] * value for name, value in fitted.parts(seen, e).items() if weights[name]]
        return Scores(torch.stack(parts).sum(dim=0), e)

    def reconstructions(self, images: Tensor, samples: int) -> Reconstructions:
        """Of float32 [B,C,H,W] in [0,1]; see the protocol. Raises as :meth:`score`; BadInput for fewer than two
        samples.
        """
        if samples < 2:
            raise BadInput("a variance needs at least two samples", seen=samples, next_step="set samples to 2 or more")
        fitted, x = self.fitted, self.checked(images)
        seen: Impression = fitted.impress(x)
        views = fitted.views(x, seen, TERMS, samples)
        assert views.x_hats is not None
        assert views.m_hats is not None
        contributions = fitted.contributions(x, seen)
        e = fitted.combination.map(contributions)
        return Reconstructions(
            impression=seen.m,
            naive_mean=views.m_hat,
            naive_variance=views.m_hats.var(dim=1, correction=0).mean(dim=1),
            expert_mean=views.x_hat,
            expert_variance=views.x_hats.var(dim=1, correction=0).mean(dim=1),
            terms={name: value for name, value in fitted.measure.terms(views, TERMS).items()},
            contributions={name: value for name, value in contributions.items()},
            map=e,
            parts=fitted.parts(seen, e),
        )

    def save(self, folder: Path) -> None:
        """Write detector.json and weights.safetensors; a perceptual network's weights stay in their package."""
        card = {
            "method": self.method,
            "settings": self.settings.model_dump(mode="json"),
            "input_shape": list(self.input_shape),
            "normals_in_bank": len(self.fitted.bank),
        }
        saved.write_detector(folder, card, self.fitted.state_dict(), self.calibration)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote. Raises BadWeights when it is broken."""
        card, tensors, calibration = saved.read_detector(folder, cls.method)
        detector = cls(**card["settings"])
        channels, height, width = card["input_shape"]
        shape, s = (channels, height, width), detector.settings
        impress = ImpressionNet(shape, s.impression).to(memory_format=torch.channels_last)
        fitted = Fitted(s, shape, impress, build_expert(shape, s.expert), int(card["normals_in_bank"]))
        saved.check_tensors(fitted.state_dict(), tensors)
        fitted.load_state_dict(tensors, strict=True)
        detector._fitted, detector._calibration = fitted.requires_grad_(False).eval(), calibration
        return detector


def _shape(normals: Tensor) -> tuple[int, int, int]:
    channels, height, width = normals.shape[1:]
    return channels, height, width
