"""What would have to change: sparse counterfactuals of an anomaly score, by Auto-Frank-Wolfe in a ladder of l_p balls.

    max_delta  log sigmoid(normal_logit(x + delta))   s.t.  ||delta||_p <= eps,  x + delta in [0,1]^d,  delta = 0
               outside M

Source: Sparse visual counterfactual explanations (Boreiko et al., GCPR 2022, arXiv 2205.07972) for the search. What
differs, and why:

- the target is the calibrated P(normal) of a one-class score, and an image leaves the search as soon as it is reached;
- the objective looks at the image rounded to 8 bit (gradient straight through), so that what is stored is what was
  judged, and rounding can undo nothing;
- M, the direction mask, is the anomalous region: the hottest share of the detector's map and whatever of it lies above
  the detector's threshold, dilated; only where the ladder fails is it widened to the whole image, and the row says so
  (`mask_widened`);
- radii climb a ladder, each rung starting from the last one's answer, so that the smallest that works is used; the
  answer is then drawn back towards the image by bisection as far as the target allows;
- the search starts at the image itself with short steps and momentum instead of on the sphere with steps of .75
  (`random_start`, `first_step`, `momentum`): on small ELPV trials it reached more images in half the iterations.

A detector that is not robustly trained can be flipped by changes that mean nothing to a person: read the picture as
evidence about the detector first, about the product second. The one-class family has a setting `robust`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor

from xadflow.calibration import Calibration
from xadflow.detectors.base import Detector
from xadflow.explainers.base import Counterfactual, Explanation
from xadflow.explainers.settings import ExplainerSettings, SettledExplainer, Share, eight_bit
from xadflow.explainers.sparse.frank_wolfe import auto_frank_wolfe
from xadflow.explainers.sparse.oracle import linear_maximisation_oracle
from xadflow.images import as_float, on_levels, to_levels
from xadflow.metrics.explanation import change_inside, l1_l2_changed, lp_norm, top_share

__all__ = ["SparseExplainer", "SparseSettings", "linear_maximisation_oracle"]

REFERENCE_VALUES = 3 * 224 * 224  # radii are stated for this many; eps ~ d^{1/p} keeps the mean change equal
REFERENCE_P, LADDER = 1.5, (6.25, 12.5, 25.0, 50.0, 100.0, 200.0, 400.0, 800.0)


class SparseSettings(ExplainerSettings):
    """Settings of the sparse counterfactuals.

    `p` of the ball (1: few whole pixels, 1.5: sparse and smooth); `radii` of the ladder, as at 3x224x224 values, None:
    6.25 to 800, doubled each time, at p = 1.5, and the same mean change at another p; `rung_iterations` at each rung;
    `iterations` of the last attempt, where the ladder failed: at the top radius, with steps as short as on the first
    rung, in the whole image if `widen_mask`; `target_p_normal` to reach on the 8-bit image, or that of the median
    held-out normal where it is lower: a score that cannot fall below 0 may leave no image near .6; `first_step`,
    `momentum`: see auto_frank_wolfe; `heat_share`: hottest share of the map that is the heatmap's mask; `dilation` of
    the direction mask, share of the longer side; `shrink_steps` of the final bisection; `random_start` on the smallest
    ball's surface instead of at the image.
    """

    p: Annotated[float, Field(ge=1.0, le=16.0)] = 1.5
    radii: tuple[Annotated[float, Field(gt=0.0)], ...] | None = Field(None, min_length=1)
    iterations: Annotated[int, Field(ge=1)] = 75
    rung_iterations: Annotated[int, Field(ge=1)] = 20
    target_p_normal: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.6
    first_step: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.7
    heat_share: Share = 0.25
    dilation: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0625
    widen_mask: bool = True
    shrink_steps: Annotated[int, Field(ge=0, le=16)] = 6
    random_start: bool = False

    @field_validator("radii")
    @classmethod
    def _climb(cls, radii: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if radii is not None and list(radii) != sorted(set(radii)):
            raise ValueError("the radii of the ladder must grow")
        return radii

    def ladder(self, values: int) -> list[float]:
        """The radii for an image of so many values."""
        given = self.radii or [radius * REFERENCE_VALUES ** (1 / self.p - 1 / REFERENCE_P) for radius in LADDER]
        return [radius * (values / REFERENCE_VALUES) ** (1 / self.p) for radius in given]


@dataclass
class _Answers:
    """What the search has for each image so far; one row an image."""

    z: Tensor
    reached: Tensor
    eps: Tensor
    iterations: Tensor
    rungs: Tensor
    widened: Tensor
    target: float


class SparseExplainer(SettledExplainer[SparseSettings]):
    """One counterfactual an image. Raises BadSettings for settings it does not know.

    An image whose P(normal) is at the target already comes back unchanged; one that never gets there comes back as far
    as the search went, with `is_normal` as the detector says. The explanation's heatmap is the detector's map of the
    original, from which the masks were made.

    Metrics: reached (1: the target, on the 8-bit image), p_normal_before, p_normal_after (8-bit image), eps (radius of
    the last rung used, 0: none), lp_norm of the stored change, rungs and iterations used, mask_share (of the image that
    may change), mask_widened, rounding_cost (|score before - after rounding|), and, where the detector has a map and
    anything changed, change_inside (share of sum |d| inside the hottest `heat_share` of the original's map, undilated).
    """

    name = "sparse"
    code_version = "3"
    settings_kind = SparseSettings

    def explain(self, detector: Detector, images: Tensor) -> list[Explanation]:
        """One explanation an image. Raises BadInput: images of another shape, type or range."""
        original = eight_bit(detector, images)
        if len(original) == 0:
            return []
        x = as_float(original)
        with torch.no_grad():
            first = detector.score(x)
            before = _p_normal(detector, x)
        maps = None if first.map is None else np.asarray(first.map.float().cpu().numpy(), dtype=np.float32)
        masks = None if maps is None else np.stack([top_share(one, self.settings.heat_share) for one in maps])
        region = self._region(detector, first.map, masks, x)
        answers = self._shrunk(detector, x, before, self._climbed(detector, x, before, region))
        stored = to_levels(answers.z)
        with torch.no_grad():
            shown = as_float(stored)
            score = detector.score(shown).image.double().cpu().numpy()
            exact = detector.score(answers.z).image.double().cpu().numpy()
            after = _p_normal(detector, shown)
        p_values = detector.calibration.p_value(score)
        pixels, originals = stored.cpu().numpy(), original.cpu().numpy()
        share = (region | answers.widened.view(-1, 1, 1, 1)).float().mean(dim=(1, 2, 3))
        told = []
        for row in range(len(pixels)):
            size = l1_l2_changed(originals[row], pixels[row])
            metrics = {
                "reached": float(answers.reached[row]),
                "p_normal_before": float(before[row]),
                "p_normal_after": float(after[row]),
                "eps": float(answers.eps[row]),
                "lp_norm": lp_norm(originals[row], pixels[row], self.settings.p),
                "rungs": float(answers.rungs[row]),
                "iterations": float(answers.iterations[row]),
                "mask_share": float(share[row]),
                "mask_widened": float(answers.widened[row]),
                "rounding_cost": float(abs(score[row] - exact[row])),
            }
            if masks is not None and size.l1 > 0:
                metrics["change_inside"] = change_inside(originals[row], pixels[row], masks[row])
            counterfactual = Counterfactual(
                concept=0,
                image=pixels[row],
                score=float(score[row]),
                p_value=float(p_values[row]),
                is_normal=bool(score[row] <= detector.calibration.threshold),
                l1=size.l1,
                l2=size.l2,
                changed_fraction=size.changed_fraction,
            )
            heatmap = None if maps is None else maps[row]
            told.append(Explanation(heatmap=heatmap, counterfactuals=(counterfactual,), metrics=metrics))
        return told

    def _region(self, detector: Detector, maps: Tensor | None, masks: NDArray[np.bool_] | None, x: Tensor) -> Tensor:
        """Where the image may change, bool [B,1,H,W]: the heatmap's mask and all above the threshold, dilated."""
        batch, _, height, width = x.shape
        if maps is None or masks is None:
            return torch.ones((batch, 1, height, width), dtype=torch.bool, device=x.device)
        anomalous = torch.from_numpy(masks).to(x.device) | (maps > detector.calibration.threshold)
        return _widened(anomalous[:, None], round(self.settings.dilation * max(height, width)))

    def _climbed(self, detector: Detector, x: Tensor, before: Tensor, region: Tensor) -> _Answers:
        """The ladder; where its top fails, once more and longer, in the whole image if that is allowed."""
        s = self.settings
        count = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        target = min(s.target_p_normal, _p_of_median_normal(detector.calibration))
        answers = _Answers(
            z=x.clone(),
            reached=before >= target,
            eps=torch.zeros_like(before),
            iterations=count,
            rungs=count.clone(),
            widened=torch.zeros_like(before, dtype=torch.bool),
            target=target,
        )
        radii = s.ladder(x[0].numel())
        for radius in radii:
            self._search(detector, x, region, radius, s.rung_iterations, s.first_step, answers)
        if s.widen_mask:
            answers.widened = ~region.flatten(1).all(dim=1) & ~answers.reached
        last = region | answers.widened.view(-1, 1, 1, 1)
        patient = s.first_step * radii[0] / radii[-1]  # in pixel values as short as on the first rung
        self._search(detector, x, last, radii[-1], s.iterations, patient, answers)
        return answers

    def _search(
        self,
        detector: Detector,
        x: Tensor,
        region: Tensor,
        eps: float,
        iterations: int,
        first_step: float,
        answers: _Answers,
    ) -> None:
        """One rung for the images that are not there yet; its start is their best so far, which is feasible in it."""
        s = self.settings
        rows = (~answers.reached).nonzero().flatten()
        if rows.numel() == 0:
            return
        goal = math.log(answers.target)
        first = bool((answers.rungs[rows] == 0).all())
        found = auto_frank_wolfe(
            lambda z, _: F.logsigmoid(detector.normal_logit(_rounded(z))),
            x[rows],
            eps,
            s.p,
            iterations,
            s.seed,
            direction_mask=region[rows],
            stop=lambda values: values >= goal,
            start=None if s.random_start and first else answers.z[rows],
            first_step=first_step,
            momentum=s.momentum,
        )
        answers.z[rows], answers.reached[rows], answers.eps[rows] = found.images, found.stopped, eps
        answers.iterations[rows] += found.iterations
        answers.rungs[rows] += 1

    def _shrunk(self, detector: Detector, x: Tensor, before: Tensor, answers: _Answers) -> _Answers:
        """Draw reached answers back along the line to the image: the segment is inside ball, box and mask."""
        s = self.settings
        rows = (answers.reached & (before < answers.target)).nonzero().flatten()
        origin, far = x[rows], answers.z[rows]
        low = torch.zeros(len(rows), device=x.device)
        high = torch.ones_like(low)
        for _ in range(s.shrink_steps if rows.numel() else 0):
            middle = (low + high) / 2
            with torch.no_grad():
                there = _p_normal(detector, _rounded(_between(origin, far, middle))) >= answers.target
            high, low = torch.where(there, middle, high), torch.where(there, low, middle)
        answers.z[rows] = _between(origin, far, high)
        return answers


def _widened(region: Tensor, reach: int) -> Tensor:
    """Whether bool [...,H,W] holds anywhere within `reach` px down and across: sums along each axis, whatever the
    reach.
    """
    for axis in (-2, -1):
        side = region.shape[axis]
        summed = F.pad(region.transpose(axis, -1).cumsum(-1, dtype=torch.int32), (1, 0))
        at = torch.arange(side, device=region.device)
        first, last = (at - reach).clamp(min=0), (at + reach + 1).clamp(max=side)
        region = (summed[..., last] > summed[..., first]).transpose(axis, -1)
    return region


def _between(origin: Tensor, far: Tensor, share: Tensor) -> Tensor:
    return torch.where(share.view(-1, 1, 1, 1) < 1, origin + share.view(-1, 1, 1, 1) * (far - origin), far)


def _rounded(z: Tensor) -> Tensor:
    """z rounded to 8 bit, with the gradient of z."""
    return z + (on_levels(z.detach()) - z.detach())


def _p_of_median_normal(calibration: Calibration) -> float:
    """P(normal) of the median held-out normal; at least .5, as the threshold is no less than their median."""
    margin = calibration.threshold - float(np.median(calibration.normal_scores))
    return 1.0 / (1.0 + math.exp(-max(0.0, margin) / calibration.temperature))


def _p_normal(detector: Detector, images: Tensor) -> Tensor:
    return torch.sigmoid(detector.normal_logit(images).float())
