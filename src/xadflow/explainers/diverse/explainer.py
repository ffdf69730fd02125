"""What would have to change, several times: one trained generator gives K different images that the detector calls
normal.

Source: arXiv 2402.14469; see training.py. A generator is trained for one detector and is of use for no other: the saved
one names the detector's weights by sha256, and `explain` refuses another. Inference is one pass of all images with all
concepts; nothing is searched.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from xadflow.detectors.base import Detector
from xadflow.digests import sha256_file
from xadflow.errors import BadWeights
from xadflow.explainers.base import Counterfactual, Explanation
from xadflow.explainers.diverse.canvas import Canvas
from xadflow.explainers.diverse.game import Players
from xadflow.explainers.diverse.networks import Generator
from xadflow.explainers.diverse.places import place_mask
from xadflow.explainers.diverse.settings import DiverseSettings
from xadflow.explainers.diverse.training import TrainedGenerator, train_generator
from xadflow.explainers.settings import eight_bit
from xadflow.explainers.trained import CARD, Explained, GeneratorRun, Guidance, Wanted
from xadflow.images import as_float, to_levels
from xadflow.metrics.explanation import l1_l2_changed
from xadflow.settings.of_methods import validated

CODE_VERSION = "1"
FORMAT = 1
WEIGHTS = "generator.safetensors"
USUAL = "places.usual"  # beside the generator's own tensors, of `within: p_value`
_TRAIN = "train it again by `xadflow retrain`"


class DiverseExplainer:
    """K counterfactuals an image. Raises BadSettings for settings it does not know.

    Metrics: for each concept k its p_normal_k on the stored 8-bit image; p_normal_before; flipped (share of the
    concepts that are normal by the detector's threshold); apart_min (smallest mean |difference| between two of them, on
    the [0,1] scale, an image's values all counted); likeness_max (largest cosine between two edits; where there are
    two).
    """

    name = "diverse"

    def __init__(self, **settings: object) -> None:
        self.settings = validated(DiverseSettings, settings, f"explainer {self.name}")
        self._generator: Generator | None = None
        self._usual: Tensor | None = None
        self._within: str = self.settings.within
        self._explained: Explained | None = None
        self._digest = "untrained"
        self._device = torch.device("cpu")

    @property
    def version(self) -> str:
        """Code version, digest of the settings, first 8 hex digits of the generator's sha256."""
        return f"{self.settings.version(CODE_VERSION)}-{self._digest[:8]}"

    @property
    def seed(self) -> int:
        """Seed of the training; inference draws nothing."""
        return self.settings.seed

    @property
    def explained(self) -> Explained:
        """Whom it explains. Raises BadWeights before it is trained or loaded."""
        if self._explained is None:
            raise BadWeights("this explainer has no trained generator", seen=self.name, next_step=_TRAIN)
        return self._explained

    @property
    def wanted(self) -> Wanted | None:
        """What `fit` is to be given as guidance with these settings."""
        return self.settings.wanted

    def fit(
        self,
        detector: Detector,
        weights: str,
        normals: Tensor,
        anomalies: Tensor,
        run: GeneratorRun,
        guidance: Guidance | None = None,
    ) -> TrainedGenerator:
        """Train the generator for a detector whose weight file has the sha256 `weights`; see
        :func:`train_generator`.
        """
        trained = train_generator(detector, normals, anomalies, self.settings, run, guidance)
        self._take(trained.generator, Explained(weights, detector.input_shape), run.device, trained.usual)
        return trained

    def explain(self, detector: Detector, images: Tensor, weights: str | None = None) -> list[Explanation]:
        """One explanation an image; `weights` is the sha256 of the detector's weight file where the caller knows it.

        Raises:
            BadWeights: not trained, or trained for another detector.
            BadInput: images of another shape, type or range.
        """
        of = self.explained
        if tuple(detector.input_shape) != of.shape or (weights is not None and weights != of.weights):
            raise BadWeights(
                "the generator was trained for another detector",
                seen=(of.weights[:16], (weights or "")[:16]),
                next_step=_TRAIN,
            )
        original = eight_bit(detector, images)
        if len(original) == 0:
            return []
        made = self._made(original, self._mask(detector, original))
        stored = made.flatten(0, 1)
        with torch.no_grad():
            scores = detector.score(as_float(stored)).image.double().cpu().numpy()
            after = torch.sigmoid(detector.normal_logit(as_float(stored)).float()).cpu().numpy()
            before = torch.sigmoid(detector.normal_logit(as_float(original)).float()).cpu().numpy()
        shape = (len(original), self.settings.concepts)
        p_values = detector.calibration.p_value(scores).reshape(shape)
        return [
            self._told(detector.calibration.threshold, *row)
            for row in zip(
                original.cpu().numpy(),
                made.cpu().numpy(),
                scores.reshape(shape),
                p_values,
                after.reshape(shape),
                before,
                strict=True,
            )
        ]

    def _mask(self, detector: Detector, original: Tensor) -> Tensor | None:
        """[N*K,1,H,W], or None where the whole image may change."""
        mask = place_mask(self._within, detector, self._usual, as_float(original))
        return None if mask is None else mask.to(self._device).repeat_interleave(self.settings.concepts, dim=0)

    def anywhere(self) -> Self:
        """The same generator without its mask of places: what it changes where it may change everything; itself without
        one.
        """
        if self._within == "image":
            return self
        other = copy.copy(self)
        other._within = "image"
        return other

    @torch.no_grad()
    def _made(self, original: Tensor, mask: Tensor | None) -> Tensor:
        """uint8 [N,K,C,H,W]: every image by every concept, wanted anomaly probability 0."""
        assert self._generator is not None
        concepts = self.settings.concepts
        x = (as_float(original) * 2.0 - 1.0).to(self._device).repeat_interleave(concepts, dim=0)
        concept = torch.arange(concepts, device=x.device).repeat(len(original))
        canvas = Canvas(self.explained.shape, self.settings.size_px)
        made = canvas.painted(self._generator, x, torch.zeros(len(x), device=x.device), concept, mask)
        levels = to_levels((made + 1.0) / 2.0)
        return levels.reshape(len(original), concepts, *original.shape[1:]).to(original.device)

    def _told(
        self,
        threshold: float,
        original: NDArray[np.uint8],
        made: NDArray[np.uint8],
        scores: NDArray[np.float64],
        p_values: NDArray[np.float64],
        after: NDArray[np.float32],
        before: float,
    ) -> Explanation:
        found = []
        for concept, (image, score, p_value) in enumerate(zip(made, scores, p_values, strict=True)):
            size = l1_l2_changed(original, image)
            found.append(
                Counterfactual(
                    concept=concept,
                    image=image,
                    score=float(score),
                    p_value=float(p_value),
                    is_normal=bool(score <= threshold),
                    l1=size.l1,
                    l2=size.l2,
                    changed_fraction=size.changed_fraction,
                )
            )
        metrics = {"p_normal_before": float(before), "flipped": float(np.mean([one.is_normal for one in found]))}
        metrics |= {f"p_normal_{concept}": float(value) for concept, value in enumerate(after)}
        if len(made) > 1:
            metrics |= _between(original, made)
        return Explanation(counterfactuals=tuple(found), metrics=metrics)

    def to(self, device: str | torch.device) -> Self:
        """Move the generator, in place."""
        self._device = torch.device(device)
        if self._generator is not None:
            self._generator.to(self._device)
        return self

    def save(self, folder: Path) -> None:
        """Write explainer.json and generator.safetensors. Raises BadWeights before it is trained."""
        of = self.explained
        assert self._generator is not None
        folder.mkdir(parents=True, exist_ok=True)
        tensors = self._generator.state_dict() | ({} if self._usual is None else {USUAL: self._usual})
        stored = {name: value.cpu().contiguous() for name, value in tensors.items()}
        save_file(stored, folder / WEIGHTS, metadata={"xadflow": json.dumps({"format": FORMAT})})
        self._digest = sha256_file(folder / WEIGHTS)
        card = {
            "explainer": self.name,
            "format": FORMAT,
            "settings": self.settings.told(),
            "explains_weights": of.weights,
            "shape": list(of.shape),
            "weights_sha256": self._digest,
        }
        (folder / CARD).write_text(json.dumps(card, sort_keys=True, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote. Raises BadWeights."""
        try:
            card: Mapping[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
            digest = sha256_file(folder / WEIGHTS)
            if (card["explainer"], card["format"], card["weights_sha256"]) != (cls.name, FORMAT, digest):
                raise BadWeights(
                    "the folder holds no generator that its card was written with", seen=digest[:16], next_step=_TRAIN
                )
            with safe_open(folder / WEIGHTS, framework="pt", device="cpu") as stored:
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 not a mapping
            explainer = cls(**card["settings"])
            channels, height, width = map(int, card["shape"])
            generator = Players((channels, height, width), explainer.settings).average
            usual = tensors.pop(USUAL, None)
            if (usual is not None) != (explainer.settings.within == "p_value"):
                raise ValueError(
                    f"within is {explainer.settings.within}, {USUAL} {'missing' if usual is None else 'there'}"
                )
            generator.load_state_dict(tensors)
            of = Explained(str(card["explains_weights"]), (channels, height, width))
            explainer._take(generator, of, torch.device("cpu"), usual)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as err:
            raise BadWeights(
                "the folder holds no readable generator",
                seen=f"{folder.name}: {type(err).__name__} {err}"[:200],
                next_step=_TRAIN,
            ) from err
        explainer._digest = digest
        return explainer

    def _take(self, generator: Generator, of: Explained, device: torch.device, usual: Tensor | None) -> None:
        self._generator, self._explained, self._device = generator.eval().requires_grad_(False), of, device
        self._usual = usual


def _between(original: NDArray[np.uint8], made: NDArray[np.uint8]) -> dict[str, float]:
    """How far the counterfactuals of an image are from each other, and how alike their edits are."""
    values = made.reshape(len(made), -1).astype(np.float64) / 255.0
    edits = values - original.reshape(1, -1).astype(np.float64) / 255.0
    first, second = np.triu_indices(len(made), 1)
    found = {"apart_min": float(np.abs(values[first] - values[second]).mean(axis=1).min())}
    norms = np.linalg.norm(edits, axis=1)
    if norms.min() > 0:
        found["likeness_max"] = float(((edits[first] * edits[second]).sum(axis=1) / norms[first] / norms[second]).max())
    return found
