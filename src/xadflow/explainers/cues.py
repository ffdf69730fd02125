"""What makes a place of a scene anomalous: the cues of the detector's map, and the known class that it sees there.

For detectors that offer `cues` (xadflow.detectors.base.Cued; `dense_hybrid` does). The map is a sum of cues, and raw
scores have no zero of their own: a constant may be added to each cue without changing any ranking. So the share of a
cue is that of what lifts the hottest region above the image's mean, which no constant changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xadflow.detectors.base import Cued, Cues, Detector
from xadflow.errors import BadInput
from xadflow.explainers.base import Explanation, ShownImage
from xadflow.explainers.settings import ExplainerSettings, SettledExplainer, Share, eight_bit
from xadflow.images import as_float, quantise_map
from xadflow.metrics.explanation import top_share
from xadflow.pictures.class_colours import Named, class_legend, coloured_classes
from xadflow.pictures.tile_sheet import Tile, tile_sheet

COLUMNS = 3
LEGEND_PX = 260  # width of the picture `legend`


class CuesSettings(ExplainerSettings):
    """Settings of the cues.

    `heat_share`: hottest share of the map that is called the hottest region; `sheet`: one more picture that shows all
    the others, some hundred kilobytes a row.
    """

    heat_share: Share = 0.05
    sheet: bool = True


class CuesExplainer(SettledExplainer[CuesSettings]):
    """The cues of one image's map, and the known classes under it. Raises BadSettings.

    Images: classes (the likeliest known class of each pixel, anomalous or not, in colour), legend (its colours by name,
    share of the image), cue.<name> (raw), sheet. The heatmap is the detector's map, which is the sum of the cues.

    Metrics: hot.<cue> and mean.<cue> (mean in the hottest region and of the image, raw), share.<cue> (of what lifts the
    hottest region above the image's mean; they sum to 1, one may be below 0; left out where the map is flat),
    hot_class.<name> (share of the hottest region with that class; those that are there), peak_class (number of the
    class under the hottest pixel), score_before.
    """

    name = "cues"
    requires: ClassVar[type] = Cued
    code_version = "1"
    settings_kind = CuesSettings

    def explain(self, detector: Detector, images: Tensor) -> list[Explanation]:
        """One explanation an image. Raises BadInput: another shape, type or range; a detector without cues."""
        if not isinstance(detector, Cued):
            raise BadInput(
                "the explainer cues needs a detector of scenes whose map has cues",
                seen=type(detector).__name__,
                next_step="explain a dense_hybrid detector, or leave out --explainer cues",
            )
        original = eight_bit(detector, images)
        if len(original) == 0:
            return []
        x = as_float(original)
        with torch.no_grad():
            told = detector.cues(x)
            scores = detector.score(x).image.double().cpu().numpy()
        return [
            self._told(
                original[row].cpu().numpy(),
                _cues_of(told, row),
                told.classes[row].cpu().numpy(),
                told.names,
                float(scores[row]),
                detector.calibration.threshold,
            )
            for row in range(len(x))
        ]

    def _told(
        self,
        original: NDArray[np.uint8],
        cues: Mapping[str, NDArray[np.float32]],
        classes: NDArray[Any],
        names: tuple[str, ...],
        score: float,
        threshold: float,
    ) -> Explanation:
        heatmap = np.asarray(sum(cues.values()), dtype=np.float32)
        hot = top_share(heatmap, self.settings.heat_share)
        under = _classes_in(hot, classes, names)
        metrics = {
            **_shares(cues, heatmap, hot),
            **{f"hot_class.{name}": share for name, share in under.items()},
            "peak_class": float(classes.flat[int(heatmap.argmax())]),
            "score_before": score,
        }
        lines = _lines(classes, names)
        picture = coloured_classes(classes)
        shown = [
            ShownImage("classes", picture, 0.0, 1.0),
            ShownImage("legend", class_legend(lines, LEGEND_PX), 0.0, 1.0),
        ]
        shown += [ShownImage(f"cue.{name}", *quantise_map(raw)) for name, raw in cues.items()]
        if self.settings.sheet:
            tiles = [
                Tile("input", original, f"score {score:.3g}, limit {threshold:.3g}"),
                Tile("known class", picture, f"hottest: {max(under, key=lambda name: under[name])}"),
                _map_tile("map", heatmap),
                *(_map_tile(name, raw, metrics.get(f"share.{name}")) for name, raw in cues.items()),
            ]
            shown.append(ShownImage("sheet", _with_legend(tile_sheet(tiles, COLUMNS), lines), 0.0, 1.0))
        return Explanation(heatmap=heatmap, images=tuple(shown), metrics=metrics)


def _cues_of(told: Cues, row: int) -> dict[str, NDArray[np.float32]]:
    return {name: np.asarray(value[row].float().cpu().numpy(), dtype=np.float32) for name, value in told.maps.items()}


def _shares(
    cues: Mapping[str, NDArray[np.float32]], heatmap: NDArray[np.float32], hot: NDArray[np.bool_]
) -> dict[str, float]:
    """Summed in float64, as shares are differences of near numbers."""
    inside = {name: float(raw[hot].mean(dtype=np.float64)) for name, raw in cues.items()}
    mean = {name: float(raw.mean(dtype=np.float64)) for name, raw in cues.items()}
    found = {f"hot.{name}": inside[name] for name in cues} | {f"mean.{name}": mean[name] for name in cues}
    lift = sum(inside.values()) - sum(mean.values())
    if float(heatmap.max()) > float(heatmap.min()) and lift > 0.0:
        found |= {f"share.{name}": (inside[name] - mean[name]) / lift for name in cues}
    return found


def _classes_in(hot: NDArray[np.bool_], classes: NDArray[Any], names: tuple[str, ...]) -> dict[str, float]:
    numbers, counts = np.unique(classes[hot], return_counts=True)
    return {names[int(number)]: float(count / hot.sum()) for number, count in zip(numbers, counts, strict=True)}


def _lines(classes: NDArray[Any], names: tuple[str, ...]) -> list[Named]:
    """Of the classes that are there, the commonest first."""
    numbers, counts = np.unique(classes, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [Named(int(numbers[at]), names[int(numbers[at])], f"{counts[at] / classes.size:.1%}") for at in order]


def _with_legend(sheet: NDArray[np.uint8], lines: list[Named]) -> NDArray[np.uint8]:
    return np.concatenate([sheet, class_legend(lines, sheet.shape[2])], axis=1)


def _map_tile(name: str, raw: NDArray[np.float32], share: float | None = None) -> Tile:
    limits = f"{float(raw.min()):.2g} to {float(raw.max()):.2g}"
    return Tile(name, raw, limits if share is None else f"{share:.0%} of it, {limits}")
