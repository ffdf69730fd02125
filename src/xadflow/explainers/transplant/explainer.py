"""Transplants: what normal images of the product show there, blended in, in the smallest region that makes it normal.

    min |M|   s.t.   score((1 - M) x + M d) <= t,        d a normal image of the product that looks like x outside M

At the end M takes in what is hot beside it, where the image stays as normal: a detector is often content with half a
defect. Nothing is trained and no gradient is needed: only `score`, and the map where there is one, so it works for
every detector from the first night on. Each of K alternatives takes its pixels from another donor and names it.

Kin, none of which explains an anomaly score: Goyal et al., ICML 2019 (arXiv 1904.07451), swap feature cells of another
image until a class changes; Vandenhende et al., ECCV 2022 (2203.12892), swap what is alike in meaning; Fong and
Vedaldi, ICCV 2017, and Chang et al., ICLR 2019 (1807.08024), look for the smallest region whose infilled content
changes a decision; Keane and Smyth, 2020, find that the nearest real neighbours make plausible counterfactuals. Ours
takes the content from real normal images, asks an anomaly score on the stored 8-bit image, and says how large the
region had to be.

    xadflow explain --dataset elpv --explainer transplant
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xadflow.detectors.base import Detector
from xadflow.errors import BadInput, NoDonors
from xadflow.explainers.base import Counterfactual, Explanation, ShownImage
from xadflow.explainers.settings import SettledExplainer, eight_bit
from xadflow.explainers.transplant.bank import DonorBank
from xadflow.explainers.transplant.donors import Donors, Matches
from xadflow.explainers.transplant.heat import heat_of
from xadflow.explainers.transplant.search import Found, Goal, RegionSearch, parts_of
from xadflow.explainers.transplant.settings import TransplantSettings
from xadflow.images import as_float, to_levels
from xadflow.metrics.explanation import l1_l2_changed

WHOLE_SHARE = 0.9  # a region larger than this is said to be the whole image


@dataclass(frozen=True)
class _Pairs:
    """Pairs of an image and a donor, flattened: pair r belongs to image `image[r]`, its donor is at `place[r]`."""

    image: Tensor
    place: Tensor
    donors: Tensor


class TransplantExplainer(SettledExplainer[TransplantSettings]):
    """At most K counterfactuals an image, smallest region first. Raises BadSettings for settings it does not know.

    It needs donors (:meth:`with_donors`). An image that is normal already comes back unchanged, without a donor. Fewer
    donors than K give fewer alternatives (`alternatives`), and so does a donor that does not make the image normal
    where another does. Where none does, `reached` is 0 and the attempts are returned, the least anomalous first. The
    explanation's heatmap is the heat that the search started from.

    Images: transplant.<k>.region, the donor's share of each pixel (0 to 1); transplant.part.<c>, the image with only
    the c-th connected part of the first region mended, where it has several.

    Metrics: reached (1: an alternative is normal), reached_target (and as normal as `target_share` asks), alternatives,
    region_share (of pixels where the donor prevails, first alternative), region_share.<k>, whole_image (1 where that is
    more than nine tenths), apart_min (least mean |difference| of two alternatives, [0,1] scale), likeness_max (largest
    cosine of two changes), part.<c>.score, part.<c>.is_normal, donors, donors_missing, heat_by_occlusion (1 where
    the detector has no map).
    """

    name = "transplant"
    code_version = "1"
    settings_kind = TransplantSettings

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        self._bank: DonorBank | None = None
        self._ready: dict[torch.device, Donors] = {}

    def with_donors(self, bank: DonorBank) -> Self:
        """The same explainer with a bank of donors."""
        other = copy.copy(self)
        other._bank, other._ready = bank, {}
        return other

    def explain(self, detector: Detector, images: Tensor) -> list[Explanation]:
        """One explanation an image.

        Raises:
            BadInput: images of another shape, type or range, or donors of another shape than the images.
            NoDonors: no bank was given, or none of its donors is left.
        """
        original = eight_bit(detector, images)
        bank = self._checked_bank(original)
        if len(original) == 0:
            return []
        x = as_float(original)
        with torch.no_grad():
            first = detector.score(x)
        calibration = detector.calibration
        goal = Goal(
            calibration.threshold,
            min(calibration.threshold, float(np.quantile(calibration.normal_scores, self.settings.target_share))),
        )
        rows = (first.image > goal.threshold).nonzero().flatten()
        told = [self._unchanged(original[row], float(first.image[row]), detector) for row in range(len(x))]
        if len(rows) == 0:
            return told
        donors = self._donors(bank, x.device)
        usual = None if bank.mean_map is None else bank.mean_map.to(x.device)
        some = x[rows]
        wanted = min(max(self.settings.candidates, self.settings.alternatives), len(bank.ids))
        heat, by_occlusion = heat_of(detector, some, first.map[rows] if first.map is not None else None, usual, donors)
        usual = usual if first.map is not None else None
        pairs = _paired(donors.nearest(some, heat, wanted))
        search = RegionSearch(detector, some[pairs.image], pairs.donors, heat[pairs.image], usual, goal, self.settings)
        found = search.grown()
        lost = _unreached(found, pairs, len(rows), goal)
        if len(lost):
            others = _paired(donors.as_they_are(some[lost], heat[lost], wanted), lost)
            swapped = torch.isin(pairs.image, lost).nonzero().flatten()  # as many, in the same order
            search.exchange(swapped, others.donors)
            pairs.place[swapped] = others.place
            found.put(swapped, search.grown(swapped))
        chosen = _chosen(found, pairs, len(rows), goal, self.settings.alternatives)
        picked = torch.cat(chosen)
        better = search.shrunk(found, picked) if self.settings.shrink_rounds else found.of(picked)
        found.put(picked, better)
        if self.settings.mask_steps:
            found.put(picked, search.optimised(found, picked))
        if self.settings.complete:
            found.put(picked, search.completed(found, picked))
        for number, row in enumerate(rows.tolist()):
            its = sorted(chosen[number].tolist(), key=lambda pair: _order(found, pair, goal))
            its = [pair for pair in its if float(found.scores[pair]) <= goal.threshold] or its
            told[row] = self._told(
                detector,
                original[row],
                heat[number],
                found,
                pairs,
                its,
                search,
                goal,
                {"heat_by_occlusion": float(by_occlusion)},
            )
        return told

    def _checked_bank(self, original: Tensor) -> DonorBank:
        bank = self._bank
        if bank is None or not bank.ids:
            gone = f"{bank.missing} donors are gone" if bank is not None else "none were given"
            raise NoDonors(
                "transplants need donors, normal images of the product to take pixels from",
                seen=gone,
                next_step="run `xadflow retrain`: it keeps donors with each detector version",
            )
        if bank.images.shape[1:] != original.shape[1:]:
            raise BadInput(
                "donors and images must have one shape",
                seen=(tuple(bank.images.shape[1:]), tuple(original.shape[1:])),
                next_step="register the model again by `xadflow retrain`",
            )
        return bank

    def _donors(self, bank: DonorBank, device: torch.device) -> Donors:
        if device not in self._ready:
            self._ready[device] = Donors(bank, device)
        return self._ready[device]

    def _unchanged(self, image: Tensor, score: float, detector: Detector) -> Explanation:
        calibration = detector.calibration
        same = Counterfactual(
            0,
            image.cpu().numpy(),
            score,
            float(calibration.p_value(np.array([score]))[0]),
            score <= calibration.threshold,
            0.0,
            0.0,
            0.0,
        )
        metrics = {
            "reached": 1.0,
            "reached_target": 1.0,
            "alternatives": 0.0,
            "region_share": 0.0,
            "whole_image": 0.0,
            **self._bank_metrics(),
        }
        return Explanation(counterfactuals=(same,), metrics=metrics)

    def _bank_metrics(self) -> dict[str, float]:
        assert self._bank is not None
        return {"donors": float(len(self._bank.ids)), "donors_missing": float(self._bank.missing)}

    def _told(
        self,
        detector: Detector,
        original: Tensor,
        heat: Tensor,
        found: Found,
        pairs: _Pairs,
        its: list[int],
        search: RegionSearch,
        goal: Goal,
        shared: dict[str, float],
    ) -> Explanation:
        """The explanation of one image from its pairs `its`, best first.

        Many parameters: what the search of the batch left, of which each image has its own part.
        """
        assert self._bank is not None
        before = original.cpu().numpy()
        alternatives, shown, shares = [], [], []
        scores = [float(found.scores[pair]) for pair in its]
        p_values = detector.calibration.p_value(np.array(scores))
        for concept, pair in enumerate(its):
            after = to_levels(found.images[pair]).cpu().numpy()
            size = l1_l2_changed(before, after)
            alternatives.append(
                Counterfactual(
                    concept=concept,
                    image=after,
                    score=scores[concept],
                    p_value=float(p_values[concept]),
                    is_normal=scores[concept] <= goal.threshold,
                    l1=size.l1,
                    l2=size.l2,
                    changed_fraction=size.changed_fraction,
                    donor_id=self._bank.ids[int(pairs.place[pair])],
                )
            )
            blend = found.blends[pair]
            shares.append(_share(blend))
            shown.append(ShownImage(f"transplant.{concept}.region", to_levels(blend).cpu().numpy(), 0.0, 1.0))
        parts, its_metrics = self._parts(found, its[0], search, goal)
        metrics = {
            "reached": float(scores[0] <= goal.threshold),
            "reached_target": float(scores[0] <= goal.target),
            "alternatives": float(len(its)),
            "region_share": shares[0],
            "whole_image": float(shares[0] > WHOLE_SHARE),
            **{f"region_share.{concept}": share for concept, share in enumerate(shares)},
            **_diversity(before, [one.image for one in alternatives]),
            **its_metrics,
            **self._bank_metrics(),
            **shared,
        }
        return Explanation(
            np.asarray(heat.float().cpu().numpy(), dtype=np.float32), tuple(alternatives), (*shown, *parts), metrics
        )

    def _parts(
        self, found: Found, pair: int, search: RegionSearch, goal: Goal
    ) -> tuple[list[ShownImage], dict[str, float]]:
        """The image with one connected part of a region mended at a time: which of several defects decides."""
        each = list(parts_of(found.cells[pair], self.settings.parts))
        if len(each) < 2:
            return [], {}
        tried, _ = search.attempt(torch.full((len(each),), pair, device=found.scores.device), torch.stack(each))
        shown = [
            ShownImage(f"transplant.part.{number}", to_levels(one).cpu().numpy(), 0.0, 1.0)
            for number, one in enumerate(tried.images)
        ]
        metrics = {"parts": float(len(each))}
        for number, score in enumerate(tried.scores.tolist()):
            metrics |= {f"part.{number}.score": score, f"part.{number}.is_normal": float(score <= goal.threshold)}
        return shown, metrics


def _paired(matches: Matches, images: Tensor | None = None) -> _Pairs:
    """Pairs of all matches; `images` numbers the images where they are some of more."""
    count, several = matches.places.shape
    numbers = torch.arange(count, device=matches.places.device) if images is None else images
    return _Pairs(numbers.repeat_interleave(several), matches.places.flatten().clone(), matches.pixels.flatten(0, 1))


def _unreached(found: Found, pairs: _Pairs, images: int, goal: Goal) -> Tensor:
    """Images that none of their pairs makes normal."""
    reached = torch.zeros(images, dtype=torch.bool, device=found.scores.device)
    reached[pairs.image[found.scores <= goal.threshold]] = True
    return (~reached).nonzero().flatten()


def _chosen(found: Found, pairs: _Pairs, images: int, goal: Goal, alternatives: int) -> list[Tensor]:
    """Pairs of each image that become its alternatives: the smallest region first, then those farthest from the ones
    chosen.

    A pair that is normal goes before any that is not; a larger region costs as much as a tenth of its share is far.
    """
    areas = found.cells.flatten(1).float().mean(dim=1)
    normal = found.scores <= goal.threshold
    worst = torch.where(normal, areas, 2.0 + found.scores - goal.threshold)  # not normal: the least anomalous
    picked = []
    for image in range(images):
        own = (pairs.image == image).nonzero().flatten()
        chosen = [int(own[worst[own].argmin()])]
        while len(chosen) < min(alternatives, len(own)):
            rest = [int(pair) for pair in own if int(pair) not in chosen]
            apart = torch.stack([(found.images[rest] - found.images[one]).abs().mean(dim=(1, 2, 3)) for one in chosen])
            value = apart.min(dim=0).values - 0.1 * areas[rest] - 10.0 * (~normal[rest]).float()
            chosen.append(rest[int(value.argmax())])
        picked.append(torch.tensor(chosen, device=found.scores.device))
    return picked


def _share(blend: Tensor) -> float:
    """Share of pixels where the donor prevails."""
    return float((blend >= 0.5).float().mean())


def _order(found: Found, pair: int, goal: Goal) -> tuple[bool, float, int]:
    """Normal ones by the size of their regions, then the others by their scores."""
    score = float(found.scores[pair])
    return score > goal.threshold, score if score > goal.threshold else _share(found.blends[pair]), pair


def _diversity(before: NDArray[np.uint8], images: list[NDArray[np.uint8]]) -> dict[str, float]:
    """How unlike the alternatives are, where there are several: least mean |difference|, largest cosine of
    two changes.
    """
    if len(images) < 2:
        return {}
    flat = np.stack([one.astype(np.float64).ravel() for one in images]) / 255
    edits = flat - before.astype(np.float64).ravel() / 255
    sizes = np.linalg.norm(edits, axis=1)
    first, second = np.triu_indices(len(images), 1)
    apart = np.abs(flat[first] - flat[second]).mean(axis=1)
    likeness = (edits[first] * edits[second]).sum(axis=1) / np.maximum(sizes[first] * sizes[second], 1e-12)
    return {"apart_min": float(apart.min()), "likeness_max": float(likeness.max())}
