"""What a net says about scenes: the two parts of the score, classes, and the image score.

a(x) = ln P(d_out|x) - ln p_hat(x)      the constant ln Z drops out of ranks and thresholds
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from xadflow.detectors.dense_hybrid.losses import log_likelihood, log_outlier, precise
from xadflow.detectors.dense_hybrid.networks import SceneNet, enlarged
from xadflow.detectors.dense_hybrid.settings import Part, ScoreSettings

LN_P_OUT, MINUS_LN_P_HAT = "ln_p_out", "minus_ln_p_hat"
PARTS: dict[Part, tuple[str, ...]] = {
    "hybrid": (LN_P_OUT, MINUS_LN_P_HAT),
    "likelihood": (MINUS_LN_P_HAT,),
    "posterior": (LN_P_OUT,),
}


@dataclass(frozen=True)
class Reading:
    """Maps at the images' size: `class_logits` [B,K,H,W], and both parts [B,H,W] by name, higher is more anomalous."""

    class_logits: Tensor
    parts: dict[str, Tensor]

    def cues(self, part: Part) -> dict[str, Tensor]:
        """The parts that enter a score."""
        return {name: self.parts[name] for name in PARTS[part]}

    def map(self, part: Part) -> Tensor:
        """Their sum [B,H,W]."""
        return torch.stack(list(self.cues(part).values())).sum(dim=0)


def read(net: SceneNet, images: Tensor, *, exact: bool = True) -> Reading:
    """Of float images [B,C,H,W] in [0,1]; differentiable. Without `exact` the parts are made small and enlarged."""
    size = images.shape[2:]
    s, o = (precise(logits) for logits in net(images))
    large = enlarged(s, size)
    if exact:
        likelihood, outlier = log_likelihood(large), log_outlier(enlarged(o, size))
    else:
        both = enlarged(torch.stack([log_likelihood(s), log_outlier(o)], dim=1), size)
        likelihood, outlier = both.unbind(dim=1)
    return Reading(large, {LN_P_OUT: outlier, MINUS_LN_P_HAT: -likelihood})


def image_score(maps: Tensor, settings: ScoreSettings) -> Tensor:
    """Mean of the hottest share of each smoothed map [B,H,W], at least one pixel; [B]."""
    width = settings.smooth_px
    smooth = F.avg_pool2d(maps[:, None], width, 1, width // 2, count_include_pad=False).flatten(1)
    return smooth.topk(max(1, round(settings.hottest * smooth.shape[1])), dim=1).values.mean(dim=1)
