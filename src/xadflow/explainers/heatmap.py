"""Where the anomaly is: the detector's own map, or the blurred size of its score's gradient where it has none.

The map is kept raw (float32, input resolution); nothing is clipped or scaled before it is stored.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import gaussian_filter
from torch import Tensor

from xadflow.detectors.base import Detector
from xadflow.explainers.base import Explanation
from xadflow.explainers.settings import ExplainerSettings, SettledExplainer, Share, eight_bit
from xadflow.images import as_float
from xadflow.metrics.explanation import area_above, concentration, peak


class HeatmapSettings(ExplainerSettings):
    """`blur`: sigma of the gradient map's blur as a share of the longer side; `level`: see `area_above`."""

    blur: Annotated[float, Field(ge=0.0, le=0.5)] = 0.03
    level: Share = 0.5


class HeatmapExplainer(SettledExplainer[HeatmapSettings]):
    """One heatmap an image, and how concentrated it is. Raises BadSettings for settings it does not know.

    Metrics: map_max, map_mean (raw), heat_in_top_1pct and heat_in_top_10pct (share of the heat held by the hottest
    pixels), peak_y and peak_x (pixels), area_above_level (share of pixels above `level` of the map's range), and
    from_gradient (1 where the detector has no map of its own).
    """

    name = "heatmap"
    code_version = "1"
    settings_kind = HeatmapSettings

    def explain(self, detector: Detector, images: Tensor) -> list[Explanation]:
        """One explanation an image. Raises BadInput: images of another shape, type or range."""
        x = as_float(eight_bit(detector, images))
        if len(x) == 0:
            return []
        with torch.no_grad():
            scores = detector.score(x)
        if scores.map is not None:
            maps = np.asarray(scores.map.float().cpu().numpy(), dtype=np.float32)
        else:
            maps = gradient_maps(detector, x, self.settings.blur)
        return [Explanation(heatmap=one, metrics=self._metrics(one, scores.map is None)) for one in maps]

    def _metrics(self, heatmap: NDArray[np.float32], from_gradient: bool) -> dict[str, float]:
        y, x = peak(heatmap)
        return {
            "map_max": float(heatmap.max()),
            "map_mean": float(heatmap.mean(dtype=np.float64)),
            "heat_in_top_1pct": concentration(heatmap, 0.01),
            "heat_in_top_10pct": concentration(heatmap, 0.1),
            "peak_y": float(y),
            "peak_x": float(x),
            "area_above_level": area_above(heatmap, self.settings.level),
            "from_gradient": float(from_gradient),
        }


def gradient_maps(detector: Detector, x: Tensor, blur: float) -> NDArray[np.float32]:
    """float32 [B,H,W]: |d score / d x| summed over channels, blurred by sigma = blur * longer side (edges reflected).

    Only the input's gradient is taken: the detector's weights get none.
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(detector.score(leaf).image.sum(), leaf)
    size = gradient.abs().sum(dim=1).cpu().numpy()  # (B, H, W)
    sigma = blur * max(size.shape[1:])
    return np.asarray(gaussian_filter(size, sigma=(0.0, sigma, sigma), mode="reflect"), dtype=np.float32)
