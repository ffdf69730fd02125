"""DenseHybrid: a segmenter whose logits also say how likely a pixel is, and a second head that says what is foreign.

Grcic, Bevandic, Segvic, "DenseHybrid: hybrid anomaly detection for dense open-set recognition", ECCV 2022 (arXiv
2207.02606); extension arXiv 2301.08555. The score of a pixel is a(x) = ln P(d_out|x) - ln p_hat(x), ln p_hat(x) being
the LSE of its class logits. Written anew from a description: the released code is GPL-2. What differs from it, and why:

- `compact`, the default: a net and a schedule for minutes on a CPU, and a likelihood term with a margin on both sides,
  because the published one has no lower bound and ran away;
- void does not teach d_in, the dataset head has a rate of its own, and batch normalisation is frozen while pastes are
shown;
- pastes are made in whole batches on the device, and the validation's are seeded.

More: docs/decisions/0008-dense-hybrid.md.

Train it: `xadflow retrain --dataset mosaic --detector dense_hybrid`
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from xadflow.detectors import saved
from xadflow.detectors.base import Cues, FitReport, FitRun, Scores, TrainingData
from xadflow.detectors.calibrated import CalibratedDetector, check_training_data
from xadflow.detectors.dense_hybrid.networks import SceneNet, build_net
from xadflow.detectors.dense_hybrid.reading import Reading, image_score, read
from xadflow.detectors.dense_hybrid.scenes import class_names, scenes_of
from xadflow.detectors.dense_hybrid.settings import DenseHybridSettings, dense_hybrid_settings
from xadflow.detectors.dense_hybrid.training import SceneTraining, closed_miou, closed_steps, new_net, paste_figures
from xadflow.errors import unknown_name
from xadflow.training.devices import resolve_device
from xadflow.training.loop import Trained, report_of, run_stage
from xadflow.training.progress import Progress

_ONE_PASS = 16  # images at once while calibrating


class DenseHybrid(CalibratedDetector):
    """The detector; contract of xadflow.detectors.base. Raises BadSettings for settings it does not know."""

    method = "dense_hybrid"
    stages: ClassVar[tuple[str, ...]] = ("closed", "hybrid")

    def __init__(self, **settings: object) -> None:
        super().__init__()
        self.settings: DenseHybridSettings = dense_hybrid_settings(settings, self.method)
        self._net: SceneNet | None = None
        self._classes: tuple[str, ...] = ()

    @property
    def net(self) -> SceneNet:
        """The trained net. Raises BadWeights before fit."""
        if self._net is None:
            raise self.not_fitted()
        return self._net

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the known classes, in the order of the class logits; none before fit."""
        return self._classes

    def anomaly_sources(self, data: TrainingData) -> tuple[str, ...]:
        """What it trains against: the negatives that are pasted."""
        return (self.settings.negatives,)

    def fit(self, data: TrainingData, run: FitRun) -> FitReport:
        """Both stages, as far as they are missing, then threshold and temperature.

        Raises:
            TooFewNormals: fewer held-out normals than the false-alarm rate needs; said before any work.
            BadInput: images of different shapes or types, or smaller than the net or the crop takes; labels that are
                missing, of another shape, of unknown classes, or all void.
            BadSettings: no negatives. UnknownName: no net of that name.
            DataUnavailable, BadWeights: the trunk's weights are not there or do not fit.
            TrainingFailed: a loss or a score stopped being a number.
        """
        started = time.monotonic()
        outcomes, figures = self._trained(self.stages[-1], data, run)
        trained = time.monotonic()
        self._calibration = self.calibrated(data, run, _ONE_PASS)
        ended = time.monotonic()
        return report_of(
            outcomes,
            ended - started,
            figures
            | {
                "training_s": trained - started,
                "calibration_s": ended - trained,
                "calibration_error": self._calibration.calibration_error,
            },
        )

    def fit_stage(self, stage: str, data: TrainingData, run: FitRun) -> FitReport:
        """The stages up to this one, as far as they are missing. Raises as :meth:`fit`; UnknownName for
        another stage.
        """
        started = time.monotonic()
        outcomes, figures = self._trained(stage, data, run)
        return report_of(outcomes, time.monotonic() - started, figures)

    def _trained(self, last: str, data: TrainingData, run: FitRun) -> tuple[list[Trained], dict[str, float]]:
        s = self.settings
        if last not in self.stages:
            raise unknown_name("no stage of that name", last, self.stages)
        check_training_data(data, run.false_alarm_rate)
        self._device, self._calibration, self._net = resolve_device(run.device), None, None
        scenes, shown = scenes_of(data, s, run.seed, self._device)
        names = class_names(data, s)
        channels, height, width = data.normals.shape[1:]
        net = new_net(s, len(names), channels, run.seed).to(self._device)
        with torch.no_grad():  # what the net cannot take is said before any work
            net.eval()(
                torch.zeros(1, channels, s.closed.crop_px or height, s.closed.crop_px or width, device=self._device)
            )
        steps = {"closed": closed_steps(net, s.closed, scenes), "hybrid": s.hybrid.steps(len(scenes.images))}
        progress = Progress(run, sum(steps[name] for name in self.stages[: self.stages.index(last) + 1]))
        decides = {
            "net": s.net,
            "classes": list(names),
            "precision": s.precision,
            "closed": s.closed.model_dump(mode="json"),
        }
        without = replace(data, outliers=data.outliers[:0])
        identity = saved.work_identity(f"{self.method} closed", decides, run.seed, without)
        training = SceneTraining(net, s, scenes, shown, run.seed)
        outcomes = [run_stage(training.closed(), run.folder, identity, progress)]
        net.requires_grad_(False).eval()
        figures = {"closed_miou": closed_miou(net, shown)}
        if last == "hybrid":
            decides |= {
                "hybrid": s.hybrid.model_dump(mode="json"),
                "paste": s.paste.model_dump(mode="json"),
                "negatives": [s.negatives, s.synthesiser],
            }
            identity = saved.work_identity(f"{self.method} hybrid", decides, run.seed, data)
            outcomes.append(run_stage(training.hybrid(), run.folder, identity, progress))
            net.requires_grad_(False).eval()
            figures = {
                "closed_miou_before": figures["closed_miou"],
                "closed_miou": closed_miou(net, shown),
                **paste_figures(net, shown, s, run.seed),
            }
        self._net, self._shape, self._classes = net, (channels, height, width), names
        return outcomes, figures

    def reading(self, images: Tensor) -> Reading:
        """Both parts and the class logits, whatever part the score is. Raises as :meth:`score`."""
        return read(self.net, self.checked(images), exact=self.settings.score.exact)

    def score(self, images: Tensor) -> Scores:
        """Raw scores [B] and maps [B,H,W] of float32 [B,C,H,W] in [0,1]; differentiable in `images`.

        Raises:
            BadInput: another shape or type than it was fitted on. BadWeights: before fit.
        """
        maps = self.reading(images).map(self.settings.score.part)
        return Scores(image_score(maps, self.settings.score), maps)

    def cues(self, images: Tensor) -> Cues:
        """`ln_p_out` and `minus_ln_p_hat`, as far as they enter the score, and the classes. Raises as :meth:`score`."""
        reading = self.reading(images)
        return Cues(reading.cues(self.settings.score.part), reading.class_logits.argmax(dim=1), self._classes)

    def class_logits(self, images: Tensor) -> Tensor:
        """[B,K,H,W] at the images' size, for figures of the closed set. Raises as :meth:`score`."""
        return self.reading(images).class_logits

    def save(self, folder: Path) -> None:
        """Write detector.json and weights.safetensors."""
        card = {
            "method": self.method,
            "settings": self.settings.model_dump(mode="json"),
            "input_shape": list(self.input_shape),
            "classes": list(self._classes),
        }
        saved.write_detector(folder, card, self.net.state_dict(), self.calibration)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote. Raises BadWeights when it is broken."""
        card, tensors, calibration = saved.read_detector(folder, cls.method)
        detector = cls(**card["settings"])
        channels, height, width = card["input_shape"]
        names = tuple(card["classes"])
        net = build_net(detector.settings.net, len(names), channels, pretrained=False)
        saved.check_tensors(net.state_dict(), tensors)
        net.load_state_dict(tensors, strict=True)
        detector._net, detector._shape, detector._classes = (
            net.requires_grad_(False).eval(),
            (channels, height, width),
            names,
        )
        detector._calibration = calibration
        return detector
