"""The one-class family, trained end to end: FCDD as published, HSC, DSVDD, Deep SAD, BCE with outliers, autoencoder.

Liznerski et al., ICLR 2021 (arXiv 2007.01760) and the works named in responses.py. One network an image size, one
training loop, one way to mix anomalies in; only loss, score and heatmap differ. The detector `fcdd` of fcdd.py is
FCDD's objective on a frozen pretrained trunk: it trains in seconds where these take minutes.

Train one: `xadflow retrain --dataset textures-brick --detector hsc`
"""

from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from xadflow.detectors import saved
from xadflow.detectors.base import FitReport, FitRun, Scores, TrainingData
from xadflow.detectors.calibrated import CalibratedDetector, check_training_data
from xadflow.detectors.one_class.exposure import Batch, Exposure, anomaly_sources, held_out
from xadflow.detectors.one_class.inputs import RobustSettings, as_it_serves, random_changes, worst_images
from xadflow.detectors.one_class.responses import (
    BinaryCrossEntropy,
    DeepSAD,
    DeepSVDD,
    DenseResponse,
    HypersphereClassifier,
    ReconstructionResponse,
    Response,
    VectorResponse,
)
from xadflow.detectors.one_class.settings import (
    CentredSettings,
    DenseSettings,
    FocalSettings,
    OneClassSettings,
    ReconstructionSettings,
    VectorSettings,
    one_class_settings,
)
from xadflow.images import as_float
from xadflow.networks.published import network_for
from xadflow.networks.weight_files import pretrain
from xadflow.training.devices import resolve_device
from xadflow.training.loop import CHECKPOINT_EVERY, run_stage
from xadflow.training.minimising import Schedule, minimising
from xadflow.training.progress import Progress
from xadflow.training.seeds import drawing_from, seeded
from xadflow.training.splitting import Network, Problem

_ONE_PASS = 256  # images scored at once while fitting

Kind = TypeVar("Kind", bound=OneClassSettings)


class OneClass(CalibratedDetector, Generic[Kind]):
    """Base of the family; contract of xadflow.detectors.base. Raises BadSettings for settings it does not know."""

    kind: ClassVar[type[OneClassSettings]] = OneClassSettings
    learns_from_anomalies: ClassVar[bool] = True

    def __init__(self, **settings: object) -> None:
        super().__init__()
        self.settings: Kind = one_class_settings(self.kind, settings, self.method)  # type: ignore[assignment]
        self._response: Response | None = None

    @property
    def response(self) -> Response:
        """Preparation and network. Raises BadWeights before fit."""
        if self._response is None:
            raise self.not_fitted()
        return self._response

    def anomaly_sources(self, data: TrainingData) -> tuple[str, ...]:
        """What it trains against where the data have it, out of outliers, known and synthetic."""
        return (
            anomaly_sources(self.settings, data)
            if self.learns_from_anomalies and self.settings.anomaly_rate > 0
            else ()
        )

    @abstractmethod
    def build(self, network: str, shape: tuple[int, int, int]) -> Response:
        """An untrained response; its weights come from torch's global generator."""

    def start(self, response: Response, normals: Tensor) -> None:
        """What a method fixes on its untrained network, of the train normals uint8 [N,C,H,W]; nothing by default."""

    def fit(self, data: TrainingData, run: FitRun) -> FitReport:
        """Train, then threshold and temperature on the held-out normals.

        Raises:
            TooFewNormals: fewer held-out normals than the false-alarm rate needs; said before any work.
            BadInput: images of different shapes or types, too few normals, or flat ones alone.
            BadSettings: no anomalies to train against, for a method that needs them.
            DataUnavailable, BadWeights: the weights of a trunk are not there or do not fit; said before any work.
            TrainingFailed: the loss or a score stopped being a number.
        """
        s = self.settings
        check_training_data(data, run.false_alarm_rate)
        started = time.monotonic()
        self._device, self._calibration = resolve_device(run.device), None
        learned, checked = held_out(data, s, seeded(run.seed, "held out"))
        exposure = Exposure(learned, s, self._device, anomalies=self.learns_from_anomalies)
        channels, height, width = data.normals.shape[1:]
        self._shape = (channels, height, width)
        response = self._built(run.seed)
        weights = pretrain(response, s.trunk.weights if s.trunk else None)
        response.to(self._device)
        with torch.no_grad():
            response.prepare.fit(exposure.normals, _ONE_PASS)
            response.eval()
            self.start(response, exposure.normals)

        def cost(network: Network, batch: Batch, rows: slice) -> Tensor:
            some = batch[rows] if s.robust is None else _worst(response, batch[rows], s.robust)
            losses = response.losses(network(some.images), some)  # (b,)
            return losses if s.robust is None else s.robust.weigh(losses, some.is_anomaly)

        def draw(generator: torch.Generator) -> Batch:
            batch = exposure.batch(generator)
            return _with_start(batch, s.robust, generator) if s.robust and s.robust.random_start else batch

        checked_on = None
        if checked is not None:
            unseen = Exposure(checked, s, self._device, anomalies=self.learns_from_anomalies)
            checked_on = unseen.batch(seeded(run.seed, "check", device=self._device))
        steps = s.steps(len(learned.normals))
        schedule = Schedule(
            steps,
            s.learning_rate,
            s.weight_decay,
            optimiser=s.optimiser,
            curve=s.curve,
            decay=s.decay ** (s.batch_size / len(learned.normals)),
            checkpoint_every=CHECKPOINT_EVERY,
            patience=s.patience,
            compile=s.compile,
        )
        decides = {**s.model_dump(mode="json"), **({"pretrained": weights} if weights else {})}
        identity = saved.work_identity(self.method, decides, run.seed, data)
        response.train()
        problem = Problem(draw, cost)
        stage = minimising(response, problem, schedule, run.seed, self._device, checked_on)
        outcome = run_stage(stage, run.folder, identity, Progress(run, steps))
        self._response = response.requires_grad_(False).eval()
        trained = time.monotonic()
        self._calibration = self.calibrated(data, run, _ONE_PASS)
        ended = time.monotonic()
        figures = {
            "training_s": trained - started,
            "calibration_s": ended - trained,
            "calibration_error": self._calibration.calibration_error,
            "batch_parts": float(outcome.parts),
        }
        return FitReport(ended - started, outcome.steps, outcome.resumed_from, outcome.history, figures)

    def _built(self, seed: int) -> Response:
        shape = self.input_shape
        with drawing_from(seeded(seed, "network")):
            response = self.build(self.settings.network or network_for(*shape[1:]), shape)
        # See backbones.Trunk: batch normalisation's backward pass on contiguous activations can be wrong on a CPU.
        return response.to(memory_format=torch.channels_last)

    def score(self, images: Tensor) -> Scores:
        """Raw scores [B] and maps [B,H,W] of float32 [B,C,H,W] in [0,1]; the scores are differentiable in `images`.

        Raises:
            BadInput: another shape or type than it was fitted on. BadWeights: before fit.
        """
        inputs = self.checked(images)
        output = self.response(inputs)
        return Scores(self.response.image_score(output), self.response.heatmap(inputs, output))

    def image_score(self, images: Tensor) -> Tensor:
        """The image scores [B] alone."""
        return self.response.image_score(self.response(self.checked(images)))

    def save(self, folder: Path) -> None:
        """Write detector.json and weights.safetensors."""
        card = {
            "method": self.method,
            "settings": self.settings.model_dump(mode="json"),
            "input_shape": list(self.input_shape),
        }
        saved.write_detector(folder, card, self.response.state_dict(), self.calibration)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote. Raises BadWeights when it is broken."""
        card, tensors, calibration = saved.read_detector(folder, cls.method)
        detector = cls(**card["settings"])
        channels, height, width = card["input_shape"]
        detector._shape = (channels, height, width)
        response = detector._built(0)
        saved.check_tensors(response.state_dict(), tensors)
        response.load_state_dict(tensors, strict=True)
        detector._response, detector._calibration = response.requires_grad_(False).eval(), calibration
        return detector


def _with_start(batch: Batch, settings: RobustSettings, generator: torch.Generator) -> Batch:
    """The whole batch with where its search starts, so that parts of it start there too."""
    radii = settings.radii(batch.is_anomaly, batch.images[0].numel())
    return replace(batch, start=random_changes(batch.images, radii, generator))


def _worst(response: Response, batch: Batch, settings: RobustSettings) -> Batch:
    """The batch with its images moved to where they cost most, within the radii."""

    def losses(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):  # as the steps are, on a GPU
            return response.losses(response(images), batch)

    radii = settings.radii(batch.is_anomaly, batch.images[0].numel())
    with as_it_serves(response):
        return replace(batch, images=worst_images(losses, batch.images, radii, settings.steps, batch.start))


class ConvFCDD(OneClass[DenseSettings]):
    """FCDD as published: a fully convolutional network trained from the start; its output is the heatmap."""

    method, kind, score_is = "fcdd_conv", DenseSettings, "radius"

    def build(self, network: str, shape: tuple[int, int, int]) -> Response:
        """A dense response."""
        return DenseResponse(network, shape, self.settings)


class HSC(OneClass[VectorSettings]):
    """The hypersphere classifier."""

    method, kind, score_is = "hsc", VectorSettings, "radius"

    def build(self, network: str, shape: tuple[int, int, int]) -> Response:
        """A vector response."""
        return VectorResponse(network, shape, HypersphereClassifier(), self.settings, self.settings.outputs)


class DSVDD(OneClass[CentredSettings]):
    """Deep SVDD: normals alone, pulled to a centre that the untrained network gives; a network without biases."""

    method, kind, learns_from_anomalies = "dsvdd", CentredSettings, False

    def build(self, network: str, shape: tuple[int, int, int]) -> Response:
        """A vector response without biases."""
        response = VectorResponse(network, shape, nn.Identity(), self.settings, self.settings.outputs, bias=False)
        outputs = [layer.out_features for layer in response.modules() if isinstance(layer, nn.Linear)][-1]
        response.objective = DeepSVDD(outputs)
        return response

    def start(self, response: Response, normals: Tensor) -> None:
        """Fix the centre."""
        vectors = torch.cat([response(as_float(batch)) for batch in torch.split(normals, _ONE_PASS)])
        assert isinstance(response, VectorResponse)
        assert isinstance(response.objective, DeepSVDD)
        response.objective.set_centre(vectors)


class DeepSADDetector(OneClass[VectorSettings]):
    """Deep SAD: normals towards the origin, anomalies away from it."""

    method, kind = "deep_sad", VectorSettings

    def build(self, network: str, shape: tuple[int, int, int]) -> Response:
        """A vector response."""
        return VectorResponse(network, shape, DeepSAD(), self.settings, self.settings.outputs)


class BCE(OneClass[FocalSettings]):
    """A plain classifier of normals against anomalies, by logistic or focal loss."""

    method, kind, score_is = "bce", FocalSettings, "logit"

    def build(self, network: str, shape: tuple[int, int, int]) -> Response:
        """A vector response of one logit."""
        return VectorResponse(network, shape, BinaryCrossEntropy(self.settings.gamma), self.settings, 1)


class AE(OneClass[ReconstructionSettings]):
    """An autoencoder of the normals: what it cannot reconstruct is anomalous. The baseline of the family."""

    method, kind, learns_from_anomalies = "ae", ReconstructionSettings, False

    def build(self, network: str, shape: tuple[int, int, int]) -> Response:
        """A reconstruction response."""
        return ReconstructionResponse(network, shape, self.settings)
