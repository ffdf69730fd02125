"""What a net says about scenes: the two parts of the score, classes, and the image score.

a(x) = ln P(d_out|x) - ln p_hat(x)      the constant ln Z drops out of ranks and thresholds

The losses of both stages, over maps at the labels' resolution.

    L_cls = mean_in CE(s, y)                in: labelled pixels that are not pasted; void counts nowhere
    L_x   = mean_out LSE(s)                 out: pasted pixels; or a form of it with bounds, see HybridSettings.energy
    L_d   = CE(o, 1[pasted])                mean over all pixels (code), or apart (paper, Eq. 15)
    L     = L_cls + beta L_x + dataset L_d  in the code beta = .03 and dataset = 10 beta

Z cancels: of E_in ln p_hat, CE has the inliers' part already, as LSE >= s_y. The code also adds a detached mean logit
to L_x, which changes the printed value and no gradient: left out. A mean over no pixel is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from xadflow.detectors.base import VOID
from xadflow.detectors.dense_hybrid.networks import SceneNet, enlarged
from xadflow.detectors.dense_hybrid.settings import HybridSettings, Part, ScoreSettings

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


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values where the mask is; 0 where it is nowhere, with a gradient of 0."""
    kept = torch.where(mask, values, values.new_zeros(()))
    return kept.sum() / mask.sum().clamp_min(1)


def precise(logits: Tensor) -> Tensor:
    """At least float32: sums of exponentials lose too much in half precision."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def log_likelihood(class_logits: Tensor) -> Tensor:
    """ln p_hat(x) = LSE_y s_y, up to the constant ln Z: [B,H,W] of [B,K,H,W]."""
    return torch.logsumexp(precise(class_logits), dim=1)


def log_outlier(dataset_logits: Tensor) -> Tensor:
    """ln P(d_out|x) = logsigmoid(o_1 - o_0), finite however sure the head is: [B,H,W] of [B,2,H,W]."""
    o = precise(dataset_logits)
    return F.logsigmoid(o[:, 1] - o[:, 0])


def closed_loss(class_logits: Tensor, labels: Tensor) -> Tensor:
    """L_cls of logits [B,K,H,W] and labels int64 [B,H,W], VOID where a pixel counts for nothing."""
    costs = F.cross_entropy(precise(class_logits), labels, ignore_index=VOID, reduction="none")
    return masked_mean(costs, labels != VOID)


def hybrid_terms(
    class_logits: Tensor, dataset_logits: Tensor, labels: Tensor, pasted: Tensor, settings: HybridSettings
) -> dict[str, Tensor]:
    """The terms, unweighted, and `lse_in` and `lse_out`, means of LSE that are only told; see :func:`weighted`.

    Logits [B,K,H,W] and [B,2,H,W]; labels int64 [B,H,W], VOID also where something is pasted; pasted bool [B,H,W].
    """
    inside = (labels != VOID) & ~pasted
    lse, d_out = log_likelihood(class_logits), log_outlier(dataset_logits)
    d_in = log_outlier(dataset_logits.flip(1))
    energy = masked_mean(_energy(lse, settings), pasted)
    if settings.energy == "two_sided":
        energy = energy + masked_mean((settings.margin_in - lse).clamp_min(0).square(), inside)
    terms = {"classes": closed_loss(class_logits, torch.where(pasted, VOID, labels)), "energy": energy}
    if settings.form == "paper":
        terms |= {"dataset_in": masked_mean(-d_in, inside), "dataset_out": masked_mean(-d_out, pasted)}
    elif settings.balanced:
        others = inside if settings.ignore_void else ~pasted
        terms["dataset"] = (masked_mean(-d_in, others) + masked_mean(-d_out, pasted)) / 2
    else:
        counted = inside | pasted if settings.ignore_void else torch.ones_like(pasted)
        terms["dataset"] = masked_mean(-torch.where(pasted, d_out, d_in), counted)
    told = {"lse_in": masked_mean(lse, inside).detach(), "lse_out": masked_mean(lse, pasted).detach()}
    return terms | told


def weighted(terms: dict[str, Tensor], settings: HybridSettings) -> Tensor:
    """The loss of :func:`hybrid_terms`."""
    weights = {
        "classes": 1.0,
        "energy": settings.beta,
        "dataset": settings.dataset,
        "dataset_in": settings.dataset,
        "dataset_out": settings.beta,
    }
    return torch.stack([weights[name] * value for name, value in terms.items() if name in weights]).sum()


def _energy(lse: Tensor, settings: HybridSettings) -> Tensor:
    if settings.energy == "raw":
        return lse
    if settings.energy == "softplus":
        return F.softplus(lse)
    return (lse - settings.margin_out).clamp_min(0).square()
