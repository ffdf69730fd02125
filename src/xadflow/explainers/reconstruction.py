"""What an image should look like: the detector's own reconstructions, step by step, and how the score follows from
them.

For detectors that offer `reconstructions` (xadflow.detectors.base.Reconstructing; `utad` does). Every picture is stored
with the numbers that give its raw values back; one more, `sheet`, shows all of them with their names. The expert
reconstruction is the image's normal twin, so it is also told as a counterfactual and measured like any other: it was
not searched for, and whether the detector calls it normal is a finding, not a promise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from xadflow.detectors.base import Detector, Reconstructing, Reconstructions
from xadflow.errors import BadInput
from xadflow.explainers.base import Counterfactual, Explanation, ShownImage
from xadflow.explainers.settings import ExplainerSettings, SettledExplainer, Share, eight_bit
from xadflow.images import as_float, quantise_map, to_levels, to_picture
from xadflow.metrics.explanation import change_inside, l1_l2_changed, top_share
from xadflow.pictures.tile_sheet import Tile, tile_sheet

COLUMNS = 4
TITLES: Mapping[str, str] = {
    "original": "input x",
    "impression": "impression m",
    "expert_mean": "expert x^",
    "counterfactual_change": "|x - x^|",
    "expert_variance": "variance of x^",
    "naive_mean": "naive m^",
    "naive_variance": "variance of m^",
    "map": "final map",
}


class ReconstructionSettings(ExplainerSettings):
    """Settings of the reconstructions.

    `samples` of detail codes behind means and variances; `heat_share`: hottest share of the map that is its mask;
    `sheet`: one more picture that shows all the others, some hundred kilobytes a row.
    """

    samples: Annotated[int, Field(ge=2, le=64)] = 10
    heat_share: Share = 0.25
    sheet: bool = True


class ReconstructionExplainer(SettledExplainer[ReconstructionSettings]):
    """Reconstructions of one image, and what each term of the map adds to its score. Raises BadSettings.

    Images: impression, expert_mean, expert_variance, naive_mean, naive_variance, term.<name> (raw), map, sheet.
    The heatmap is the detector's map. Counterfactual 0 is the expert reconstruction on 8 bits.

    Metrics: part.<name> (of the image score, before it is weighted), top.<term> and mean.<term> (what a term adds to
    the map, where the map is hottest and on average), fidelity_m and fidelity_x_hat (mean |difference| to the image),
    variance_x_hat and variance_m_hat (mean), score_before, and where anything changed change_inside (share of the
    counterfactual's change inside the map's hottest `heat_share`).
    """

    name = "reconstruction"
    requires: ClassVar[type] = Reconstructing
    code_version = "1"
    settings_kind = ReconstructionSettings

    def explain(self, detector: Detector, images: Tensor) -> list[Explanation]:
        """One explanation an image. Raises BadInput: another shape, type or range; a detector without
        reconstructions.
        """
        if not isinstance(detector, Reconstructing):
            raise BadInput(
                "the explainer reconstruction needs a detector that reconstructs",
                seen=type(detector).__name__,
                next_step="explain a utad detector, or leave out --explainer reconstruction",
            )
        original = eight_bit(detector, images)
        if len(original) == 0:
            return []
        x = as_float(original)
        with torch.no_grad():
            told = detector.reconstructions(x, self.settings.samples)
            before = detector.score(x).image.double().cpu().numpy()
            twins = to_levels(told.expert_mean)
            after = detector.score(as_float(twins)).image.double().cpu().numpy()
        p_values = detector.calibration.p_value(after)
        pixels, originals = twins.cpu().numpy(), original.cpu().numpy()
        found = []
        for row in range(len(pixels)):
            size = l1_l2_changed(originals[row], pixels[row])
            twin = Counterfactual(
                concept=0,
                image=pixels[row],
                score=float(after[row]),
                p_value=float(p_values[row]),
                is_normal=bool(after[row] <= detector.calibration.threshold),
                l1=size.l1,
                l2=size.l2,
                changed_fraction=size.changed_fraction,
            )
            heatmap = _raw(told.map[row])
            metrics = {**self._metrics(told, x, row), "score_before": float(before[row])}
            if size.l1 > 0:
                mask = top_share(heatmap, self.settings.heat_share)
                metrics["change_inside"] = change_inside(originals[row], pixels[row], mask)
            pictures = {name: _raw(value) for name, value in _pictures(told, row).items()}
            shown = [ShownImage(name, *quantise_map(value)) for name, value in pictures.items()]
            if self.settings.sheet:
                sheet = _sheet(originals[row], pictures, before[row], detector.calibration.threshold, twin)
                shown.append(ShownImage("sheet", sheet, 0.0, 1.0))
            found.append(Explanation(heatmap, (twin,), tuple(shown), metrics))
        return found

    def _metrics(self, told: Reconstructions, x: Tensor, row: int) -> dict[str, float]:
        metrics = {f"part.{name}": float(value[row]) for name, value in told.parts.items()}
        peak = int(told.map[row].argmax())
        for name, value in told.contributions.items():
            metrics[f"top.{name}"] = float(value[row].flatten()[peak])
            metrics[f"mean.{name}"] = float(value[row].mean())
        return metrics | {
            "fidelity_m": float((told.impression[row] - x[row]).abs().mean()),
            "fidelity_x_hat": float((told.expert_mean[row] - x[row]).abs().mean()),
            "variance_x_hat": float(told.expert_variance[row].mean()),
            "variance_m_hat": float(told.naive_variance[row].mean()),
        }


def _pictures(told: Reconstructions, row: int) -> dict[str, Tensor]:
    """Images [C,H,W] and maps [H,W] of one image, by name, in the order they are shown."""
    return {
        "impression": told.impression[row],
        "expert_mean": told.expert_mean[row],
        "expert_variance": told.expert_variance[row],
        "naive_mean": told.naive_mean[row],
        "naive_variance": told.naive_variance[row],
        **{f"term.{name}": value[row] for name, value in told.terms.items() if not name.startswith("var-")},
        "map": told.map[row],
    }


def _raw(values: Tensor) -> NDArray[np.float32]:
    return np.asarray(values.float().cpu().numpy(), dtype=np.float32)


def _sheet(
    original: NDArray[np.uint8],
    pictures: Mapping[str, NDArray[np.float32]],
    score: float,
    threshold: float,
    twin: Counterfactual,
) -> NDArray[np.uint8]:
    """All of it in one picture uint8 [3,H,W]; maps from black (their least) to yellow (their greatest value, noted
    below).
    """
    change = np.abs(original.astype(np.float32) - twin.image).mean(axis=0) / 255.0
    tiles = [
        Tile(TITLES["original"], original, f"score {score:.3g}, limit {threshold:.3g}"),
        Tile(TITLES["impression"], to_picture(pictures["impression"])),
        Tile(TITLES["expert_mean"], twin.image, f"score {twin.score:.3g}, p {twin.p_value:.2g}"),
        _map_tile(TITLES["map"], pictures["map"]),
        Tile(TITLES["naive_mean"], to_picture(pictures["naive_mean"])),
        _map_tile(TITLES["naive_variance"], pictures["naive_variance"]),
        _map_tile(TITLES["expert_variance"], pictures["expert_variance"]),
        _map_tile(TITLES["counterfactual_change"], change),
    ]
    terms = {name.removeprefix("term."): raw for name, raw in pictures.items() if name.startswith("term.")}
    tiles += [_map_tile(_readable(name), raw) for name, raw in terms.items()]
    return tile_sheet(tiles, COLUMNS)


def _readable(term: str) -> str:
    """`low-x_hat` to "blurred x | x^", `x-m_hat` to "x | m^"."""
    text = f"x | {term.removeprefix('low-')}, blurred" if term.startswith("low-") else term.replace("-", " | ")
    return text.replace("_hat", "^")


def _map_tile(name: str, raw: NDArray[np.float32]) -> Tile:
    low, high = float(raw.min()), float(raw.max())
    return Tile(name, raw, f"{0.0 if abs(low) < 1e-3 * abs(high) else low:.2g} to {high:.2g}")
