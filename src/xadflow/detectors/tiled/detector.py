"""A detector of large images: another one, of small images, looks at each window at full size.

The map is that of all windows without seams (see windows.py), and the image score is its highest heat. A detector's
own score of a window is made of coarse cells, in which a chip of 10 px is lost: on gravel of 2400 x 1600 px it ranked
images with chips at an AUROC of .54, the highest heat at 1.00. `decides: window` takes the own score all the same, as
for every inner detector without a map.

Threshold and temperature are fitted on whole held-out images that are scored in the same way: the highest of 400
windows of a normal image is much higher than that of one, and a threshold fitted on windows would flag every image.

What a window scores hangs on that window alone: windows go through the inner detector in batches of one size,
whatever was asked. So windows that an image shares with one that was scored before in the same thread are not scored
again. A counterfactual, which changes a small place of an image, costs a few windows instead of all, and every
explainer works on the whole image at full size, with nothing to know of windows. The gradient of the score is that of
the windows that show the hottest place, at most four.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from xadflow.calibration import Calibration, calibrate
from xadflow.defects.synthesisers import synthetic_rounds
from xadflow.detectors import saved
from xadflow.detectors.base import CARD, WEIGHTS, FitReport, FitRun, Scores, TrainingData, load_detector, traits
from xadflow.detectors.calibrated import FEWEST_CALIBRATION_DEFECTS, CalibratedDetector, check_training_data
from xadflow.detectors.tiled.settings import tiled_settings
from xadflow.detectors.tiled.windows import Windows, around
from xadflow.digests import sha256_file
from xadflow.errors import BadInput, BadWeights
from xadflow.training.devices import resolve_device
from xadflow.training.seeds import seeded

_INNER = "inner."  # before the names of the tensors of the inner detector
_REMEMBERED_BYTES = 2**28  # of images and maps a thread whose windows are kept; two images at least


@dataclass
class _Seen:
    """An image [C,H,W], the scores [n] of its windows, and their maps [n,h,w] once these were asked for."""

    image: Tensor
    scores: Tensor
    maps: Tensor | None
    asked: bool  # for maps: an inner detector may have none

    @property
    def size(self) -> int:
        """Bytes."""
        return 4 * (self.image.numel() + (0 if self.maps is None else self.maps.numel()))


class Tiled(CalibratedDetector):
    """The detector; contract of xadflow.detectors.base. Raises BadSettings for settings it does not know."""

    method = "tiled"

    def __init__(self, **settings: object) -> None:
        super().__init__()
        self.settings, self.inner = tiled_settings(settings)
        its = traits(self.inner)
        self.differentiable, self.learns_from_outliers = its.differentiable, its.learns_from_outliers
        self._memory = threading.local()

    @property
    def synthesiser(self) -> str:
        """What draws the defects that the inner detector learns from."""
        return traits(self.inner).synthesiser

    def anomaly_sources(self, data: TrainingData) -> tuple[str, ...]:
        """Those of the inner detector; known defects count where they have masks."""
        of_inner = traits(self.inner).anomaly_sources
        has_known = len(data.known) and data.known_masks is not None
        found = of_inner(data) if of_inner is not None else ()
        return tuple(one for one in found if one != "known" or has_known)

    @property
    def windows(self) -> Windows:
        """Those of the images it was fitted on. Raises BadWeights before fit."""
        return self._windows(*self.input_shape[1:])

    def to(self, device: str | torch.device) -> Self:
        """Move to a device, in place."""
        self._device = resolve_device(str(device))
        self.inner.to(self._device)
        self._memory = threading.local()
        return self

    def fit(self, data: TrainingData, run: FitRun) -> FitReport:
        """Fit the inner detector on a sample of windows, then threshold and temperature on whole images.

        A known defect is learned from by the window around the middle of its mask; without masks nobody knows which
        window shows it, and it is left out.

        Raises:
            TooFewNormals, BadInput: as the inner detector; said before any work.
            TrainingFailed: the loss or a score stopped being a number.
        """
        check_training_data(data, run.false_alarm_rate)
        if data.labels is not None:
            raise BadInput(
                "scenes with a class for each pixel are not looked at window by window here",
                seen=f"{len(data.classes)} classes",
                next_step="leave tile_px out of the data set in params.yaml",
            )
        started = time.monotonic()
        self._device = resolve_device(run.device)
        _, channels, height, width = data.normals.shape
        windows = self._windows(height, width)
        self._shape, self._calibration, self._memory = (channels, height, width), None, threading.local()
        report = self.inner.fit(self._cut(windows, data, run.seed), run)
        self._calibration = self.calibrated(data, run, 1)
        figures = {
            **report.figures,
            "windows": float(len(windows)),
            "calibration_error": self._calibration.calibration_error,
        }
        return dataclasses.replace(report, seconds=time.monotonic() - started, figures=figures)

    def calibrated(self, data: TrainingData, run: FitRun, batch_size: int) -> Calibration:
        """As the base, on whole images; a synthetic defect is drawn into one window of each held-out normal, for those
        that are drawn over a whole image grow with it.
        """
        if len(data.calibration_defects) >= FEWEST_CALIBRATION_DEFECTS:
            return super().calibrated(data, run, batch_size)
        generator = seeded(run.seed, "held-out synthetic")
        windows, normals, defects = self.windows, [], []
        for image in data.val_normals:
            number = int(torch.randint(len(windows), (1,), generator=generator))
            window = windows.cut(image, [number])
            drawn, _ = synthetic_rounds(window, self.synthesiser, 1, 1, window.device, generator)
            spoiled = image.clone()
            spoiled[(slice(None), *windows.places[number])] = drawn[0].to(image.dtype)
            normals.append(self._raw_scores(image[None], 1))
            defects.append(self._raw_scores(spoiled[None], 1))  # one window is new
        return calibrate(np.concatenate(normals), np.concatenate(defects), run.false_alarm_rate, "synthetic")

    def score(self, images: Tensor) -> Scores:
        """Raw scores [B], the highest heat, and maps [B,H,W] of float32 [B,C,H,W] in [0,1]; differentiable.

        Raises:
            BadInput: another shape or type than it was fitted on. BadWeights: before fit.
        """
        images = self.checked(images)
        if torch.is_grad_enabled() and images.requires_grad:
            maps = [self._differentiable_map(image) for image in images]
            every = [one for one in maps if one is not None]
            return Scores(self._decided(images), torch.stack(every) if len(every) == len(maps) else None)
        found = [self._scored(image, maps=True) for image in images]
        if not found:
            return Scores(images.new_zeros(0), images.new_zeros(0, *images.shape[2:]))
        whole = [self.windows.joined(one.maps) for one in found if one.maps is not None]
        if len(whole) != len(found):
            return Scores(torch.stack([one.scores.max() for one in found]), None)
        best = [heat.max() if self._by_map else one.scores.max() for heat, one in zip(whole, found, strict=True)]
        return Scores(torch.stack(best), torch.stack(whole))

    def image_score(self, images: Tensor) -> Tensor:
        """The image scores [B] alone."""
        images = self.checked(images)
        if torch.is_grad_enabled() and images.requires_grad:
            return self._decided(images)
        found = [self._of_image(self._scored(image, maps=self._by_map)) for image in images]
        return torch.stack(found) if found else images.new_zeros(0)

    def save(self, folder: Path) -> None:
        """Write detector.json and weights.safetensors, with those of the inner detector in them."""
        calibration = self.calibration
        with tempfile.TemporaryDirectory() as made:
            self.inner.save(Path(made))
            inner = json.loads((Path(made) / CARD).read_text(encoding="utf-8"))
            tensors = load_file(Path(made) / WEIGHTS)
        card = {
            "method": self.method,
            "settings": self.settings.model_dump(mode="json"),
            "input_shape": list(self.input_shape),
            "inner": inner,
        }
        saved.write_detector(folder, card, {_INNER + name: one for name, one in tensors.items()}, calibration)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote. Raises BadWeights when it is broken."""
        card, tensors, calibration = saved.read_detector(folder, cls.method)
        detector = cls(**{"decides": "window", **card["settings"]})  # as before there was a choice
        try:
            inner = dict(card["inner"])
            channels, height, width = (int(side) for side in card["input_shape"])
        except (KeyError, TypeError, ValueError) as err:
            raise BadWeights(
                "the folder holds no readable detector of large images",
                seen=f"{folder.name}: {type(err).__name__} {err}"[:200],
                next_step="register the model again by `xadflow retrain`",
            ) from err
        with tempfile.TemporaryDirectory() as made:
            place = Path(made)
            save_file({name.removeprefix(_INNER): one for name, one in tensors.items()}, place / WEIGHTS)
            inner["weights_sha256"] = sha256_file(place / WEIGHTS)  # the outer file was checked with all that is in it
            (place / CARD).write_text(json.dumps(inner), encoding="utf-8")
            detector.inner = load_detector(place)
        detector._shape, detector._calibration = (channels, height, width), calibration
        expected = (channels, *detector.windows.size)
        if traits(detector.inner).method != detector.settings.inner or detector.inner.input_shape != expected:
            raise BadWeights(
                "the inner detector is not one of these windows",
                seen=(traits(detector.inner).method, detector.inner.input_shape),
                next_step="register the model again by `xadflow retrain`",
            )
        return detector

    def _windows(self, height: int, width: int) -> Windows:
        return Windows(height, width, self.settings.tile_px, self.settings.overlap_px)

    def _cut(self, windows: Windows, data: TrainingData, seed: int) -> TrainingData:
        """What the inner detector learns from."""
        most = self.settings.max_tiles
        high, wide = windows.size
        none = torch.zeros(0, data.normals.shape[1], high, wide, dtype=torch.uint8)
        cut: list[Tensor] = []
        its: list[Tensor] = []
        for image, mask in zip(data.known, data.known_masks, strict=True) if data.known_masks is not None else ():
            top, left = around(mask, windows.size)
            cut.append(image[:, top : top + high, left : left + wide])
            its.append(mask[top : top + high, left : left + wide])
        return TrainingData(
            normals=_sampled(windows, data.normals, most, seed, "windows"),
            val_normals=_sampled(windows, data.val_normals, len(data.val_normals), seed, "held out"),
            known=torch.stack(cut) if cut else none,
            known_masks=torch.stack(its) if its else None,
            calibration_defects=none,
            outliers=_sampled(windows, data.outliers, most, seed, "outliers") if len(data.outliers) else none,
        )

    def _scored(self, image: Tensor, *, maps: bool) -> _Seen:
        """Scores of all windows of one image [C,H,W], and their maps where they are asked for."""
        windows, image = self.windows, image.detach()
        remembered: list[_Seen] = self._memory.__dict__.setdefault("seen", [])
        bases = [one for one in remembered if one.asked or not maps]
        differing = [(windows.changed(image, one.image), place) for place, one in enumerate(bases)]
        new, place = min(differing, key=lambda one: len(one[0]), default=(list(range(len(windows))), -1))
        if place >= 0 and 2 * len(new) <= len(windows):
            remembered.sort(key=lambda one: one is bases[place])  # what serves is kept longest
        if place >= 0 and not new:
            return bases[place]
        if place < 0 or 2 * len(new) > len(windows):
            new, place = list(range(len(windows))), -1
        scores, found = self._looked_at(image, new, maps=maps)
        if place >= 0:
            base = bases[place]
            whole, kept = base.scores.clone(), base.maps.clone() if maps and base.maps is not None else None
            whole[new] = scores
            if kept is not None and found is not None:
                kept[new] = found
            return _Seen(image, whole, kept, maps)
        seen = _Seen(image.clone(), scores, found, maps)
        remembered.append(seen)
        while len(remembered) > 2 and sum(one.size for one in remembered) > _REMEMBERED_BYTES:
            remembered.pop(0)
        return seen

    def _looked_at(self, image: Tensor, numbers: list[int], *, maps: bool) -> tuple[Tensor, Tensor | None]:
        """Scores and maps of some windows, in batches of one size: the last one is filled up with its own last."""
        size, scores, found = self.settings.batch_tiles, [], []
        with torch.no_grad():
            for start in range(0, len(numbers), size):
                some = numbers[start : start + size]
                batch = self.windows.cut(image, [*some, *[some[-1]] * (size - len(some))])
                told = self.inner.score(batch) if maps else Scores(_image_scores(self.inner, batch))
                scores.append(told.image[: len(some)])
                if told.map is not None:
                    found.append(told.map[: len(some)])
        return torch.cat(scores), torch.cat(found) if len(found) == len(scores) else None

    def _of_image(self, seen: _Seen) -> Tensor:
        """The score of an image whose windows were looked at."""
        return seen.scores.max() if seen.maps is None or not self._by_map else self.windows.joined(seen.maps).max()

    def _decided(self, images: Tensor) -> Tensor:
        """Image scores [B] with the gradient of the windows that decide each: those that show its hottest place."""
        scores = []
        for image in images:
            seen = self._scored(image, maps=self._by_map)
            if seen.maps is None or not self._by_map:
                place = self.windows.places[int(seen.scores.argmax())]
                scores.append(_image_scores(self.inner, image[(slice(None), *place)][None])[0])
                continue
            at = divmod(int(self.windows.joined(seen.maps).argmax()), image.shape[2])
            shown = self.windows.showing(*at)
            heat = self.inner.score(self.windows.cut(image, [one.number for one in shown])).map
            assert heat is not None  # it had one a moment ago
            scores.append(
                sum((one.share * heat[i, one.row, one.column] for i, one in enumerate(shown)), heat.new_zeros(()))
            )
        return torch.stack(scores) if scores else images.new_zeros(0)

    @property
    def _by_map(self) -> bool:
        return bool(self.settings.decides == "map")

    def _differentiable_map(self, image: Tensor) -> Tensor | None:
        """The map [H,W] of one image; what lies between is computed again on the way back, which bounds memory."""
        size, found = self.settings.batch_tiles, []

        def mapped(batch: Tensor) -> Tensor | None:
            return self.inner.score(batch).map

        for start in range(0, len(self.windows), size):
            numbers = list(range(start, min(start + size, len(self.windows))))
            one = checkpoint(mapped, self.windows.cut(image, numbers), use_reentrant=False)
            if one is None:
                return None
            found.append(one)
        return self.windows.joined(torch.cat(found))


def _image_scores(inner: object, batch: Tensor) -> Tensor:
    """Of an inner detector that has a way to them without its map, by that way."""
    if isinstance(inner, CalibratedDetector):
        return inner.image_score(batch)
    scores: Tensor = inner.score(batch).image  # type: ignore[attr-defined]
    return scores


def _sampled(windows: Windows, images: Tensor, most: int, seed: int, what: str) -> Tensor:
    """At most `most` windows uint8 [n,C,h,w] of all windows of all images; a seeded sample, in order."""
    total = len(images) * len(windows)
    chosen = torch.randperm(total, generator=seeded(seed, what))[:most].sort().values.tolist()
    return torch.stack([windows.cut(images[place // len(windows)], [place % len(windows)])[0] for place in chosen])
