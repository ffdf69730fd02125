"""The smallest region whose content has to be replaced: grown where it is still hot, then made smaller again and
completed.

Each pair of an image and a donor has a region of its own; all pairs are scored together. A region starts at the hottest
cells. The detector's map of each attempt says what is hot now, so the next rung adds those cells: a seam or a defect
that only shows once its neighbour is gone is reached without a mask that covers everything as hot as it. A detector
without a map has its regions grown in the order of the heat that was measured before. What a detector is content with
is often a part of the defect only, so at the end a region takes in the rest of what was hot in the image itself.

Letters: R pairs, u x v cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from xadflow.detectors.base import Detector
from xadflow.explainers.transplant.masks import blend_of, blended, completed, grid_of, hottest, to_cells
from xadflow.explainers.transplant.settings import TransplantSettings
from xadflow.settings.blocks import LARGE_PX

PAIRS_AT_ONCE = 64  # images in one pass of the detector
_STEP_OF_SHRINKING = 0.25  # share of a region's cells that an attempt takes out
MASK_RATE, MASK_SMOOTHNESS, MASK_PRESSURE = (
    0.3,
    0.3,
    3.0,
)  # of the gradient steps: Adam's rate, weights of variation and score


@dataclass(frozen=True)
class Goal:
    """Raw scores that count: at most `threshold` is normal; `target`, no higher, is where the search would
    like to end.
    """

    threshold: float
    target: float


@dataclass
class Found:
    """One attempt a pair: `cells` bool [R,u,v] replaced, 8-bit `images` float [R,C,H,W], raw `scores` [R], `blends`
    [R,H,W].
    """

    cells: Tensor
    images: Tensor
    scores: Tensor
    blends: Tensor

    def put(self, rows: Tensor, other: Found) -> None:
        """Replace some pairs by those of another, in its order."""
        self.cells[rows], self.images[rows] = other.cells, other.images
        self.scores[rows], self.blends[rows] = other.scores, other.blends

    def of(self, rows: Tensor) -> Found:
        """Some pairs."""
        return Found(self.cells[rows], self.images[rows], self.scores[rows], self.blends[rows])


class RegionSearch:
    """Regions of one batch: x and donors float [R,C,H,W] on 8-bit levels, heat [R,H,W] of x; `passes` counts images
    scored.
    """

    def __init__(
        self,
        detector: Detector,
        x: Tensor,
        donors: Tensor,
        heat: Tensor,
        usual: Tensor | None,
        goal: Goal,
        settings: TransplantSettings,
    ) -> None:
        self._detector, self._x, self._donors, self._usual = detector, x, donors, usual
        self._goal, self._settings = goal, settings
        self._size = (int(x.shape[2]), int(x.shape[3]))
        self._grid = grid_of(*self._size)
        self._heat = to_cells(heat, self._grid)  # (R, u, v)
        self.passes = 0

    def attempt(self, rows: Tensor, cells: Tensor) -> tuple[Found, Tensor | None]:
        """What becomes of pairs with these cells replaced, and the heat of that [R,u,v] where the detector
        has a map.
        """
        s = self._settings
        parts, heats = [], []
        for some, its in zip(torch.split(rows, PAIRS_AT_ONCE), torch.split(cells, PAIRS_AT_ONCE), strict=True):
            blends = blend_of(its, self._size, s.dilation, s.feather)
            images = blended(self._x[some], self._donors[some], blends)
            with torch.no_grad():
                told = self._detector.score(images)
            parts.append(Found(its, images, told.image, blends))
            if told.map is not None:
                heats.append(to_cells(told.map if self._usual is None else told.map - self._usual, self._grid))
        self.passes += len(rows)
        each = [[getattr(part, name) for part in parts] for name in ("cells", "images", "scores", "blends")]
        return Found(*map(_joined, each)), _joined(heats) if heats else None

    def exchange(self, rows: Tensor, donors: Tensor) -> None:
        """Other donors [.,C,H,W] for some pairs."""
        self._donors[rows] = donors

    def grown(self, some: Tensor | None = None) -> Found:
        """The first rung of each pair at its target; else its first that is normal; else its best. Of some pairs, or of
        all.
        """
        every = torch.arange(len(self._x), device=self._x.device) if some is None else some
        heat = self._heat[every]
        cells = torch.zeros_like(heat, dtype=torch.bool)
        found: Found | None = None
        for share in self._rungs():
            at = torch.arange(len(every), device=heat.device)
            if found is not None:
                at = at[found.scores > self._goal.target]
            if len(at) == 0 or (found is not None and self._is_enough(found, share)):
                break
            cells[at] = hottest(heat[at].masked_fill(cells[at], torch.inf), share)
            tried, now = self.attempt(every[at], cells[at])
            if found is None:
                found = tried
            else:
                before, after = found.scores[at], tried.scores
                better = (after <= self._goal.target) | ((before > self._goal.threshold) & (after < before))
                found.put(at[better], tried.of(better.nonzero().flatten()))
            if now is not None:
                heat[at] = now
        assert found is not None  # there is at least one rung
        return found

    def _is_enough(self, found: Found, share: float) -> bool:
        """Of a large image, whether a pair is normal before larger regions are tried: each costs as much as the image,
        and pairs that are not normal are left out where another is.
        """
        is_large = self._size[0] * self._size[1] > LARGE_PX
        return is_large and share >= self._settings.rungs[0] and bool((found.scores <= self._goal.threshold).any())

    def _rungs(self) -> tuple[float, ...]:
        """Shares of the cells, growing; of a large image from one cell on."""
        rungs, cells = self._settings.rungs, self._grid[0] * self._grid[1]
        if self._size[0] * self._size[1] <= LARGE_PX:
            return rungs
        few = (2**power / cells for power in range(cells.bit_length()))
        return (*(share for share in few if share < rungs[0]), *rungs)

    def shrunk(self, found: Found, rows: Tensor) -> Found:
        """Regions of some pairs without the coolest cells that they can do without; only as normal as they
        were stays.
        """
        kept = found.of(rows)
        step = torch.full((len(rows),), _STEP_OF_SHRINKING, device=rows.device)
        limit = self._limit(kept)
        for _ in range(self._settings.shrink_rounds):
            sizes = kept.cells.flatten(1).sum(dim=1)
            active = ((kept.scores <= limit) & (sizes > 1)).nonzero().flatten()
            if len(active) == 0:
                break
            fewer = _without_coolest(kept.cells[active], self._heat[rows[active]], step[active])
            tried, _ = self.attempt(rows[active], fewer)
            good = tried.scores <= limit[active]
            kept.put(active[good], tried.of(good.nonzero().flatten()))
            step[active[~good]] /= 2
        return kept

    def optimised(self, found: Found, rows: Tensor) -> Found:
        """Regions of some pairs by gradient steps on one logit a cell: least area and border that is still at the
        target.

        min mean(m) + .3 TV(m) + 3 max(0, score - target) / |target - score of the image|, from the region found before
        (Fong and Vedaldi, ICCV 2017). The answer is cut at a half, judged on 8 bit, and taken only where it is smaller
        and as normal.
        """
        kept = found.of(rows)
        limit = self._limit(kept)
        for part in torch.split(torch.arange(len(rows), device=rows.device), PAIRS_AT_ONCE):
            cells = self._descended(kept.cells[part], rows[part], limit[part])
            some = cells.flatten(1).any(dim=1) & (kept.scores[part] <= limit[part])
            if not bool(some.any()):
                continue
            tried, _ = self.attempt(rows[part][some], cells[some])
            smaller = tried.cells.flatten(1).sum(dim=1) < kept.cells[part][some].flatten(1).sum(dim=1)
            good = (tried.scores <= limit[part][some]) & smaller
            kept.put(part[some][good], tried.of(good.nonzero().flatten()))
        return kept

    def completed(self, found: Found, rows: Tensor) -> Found:
        """Regions of some pairs with all of the defect that the heat of the image shows; only as normal as they were
        stays.

        Joined cells of at least a share `complete` of the region's highest heat; where that is not as normal, those
        above the middle between that share and all of it; else none.
        """
        kept = found.of(rows)
        limit, share = self._limit(kept), self._settings.complete
        left = (kept.scores <= limit).nonzero().flatten()
        for cut in (share, (1 + share) / 2):
            cells = completed(kept.cells[left], self._heat[rows[left]], cut)
            more = (cells & ~kept.cells[left]).flatten(1).any(dim=1)
            left, cells = left[more], cells[more]
            if len(left) == 0:
                break
            tried, _ = self.attempt(rows[left], cells)
            good = tried.scores <= limit[left]
            kept.put(left[good], tried.of(good.nonzero().flatten()))
            left = left[~good]
        return kept

    def _limit(self, found: Found) -> Tensor:
        """What the scores [R] of regions that are changed further must not exceed: the target, where they are there."""
        return torch.where(found.scores <= self._goal.target, self._goal.target, self._goal.threshold)

    def _descended(self, cells: Tensor, rows: Tensor, limit: Tensor) -> Tensor:
        s, x, donors = self._settings, self._x[rows], self._donors[rows]
        with torch.no_grad():
            scale = (self._detector.score(x).image - limit).abs().clamp_min(1e-6)
        logits = torch.where(cells, 2.0, -2.0).requires_grad_(True)
        adam = torch.optim.Adam([logits], lr=MASK_RATE)
        best, smallest = cells.clone(), cells.flatten(1).float().mean(dim=1)
        for _ in range(s.mask_steps):
            with torch.enable_grad():
                mask = torch.sigmoid(logits)
                blend = blend_of(mask, self._size, 0.0, s.feather)
                score = self._detector.score(x + blend[:, None] * (donors - x)).image
                over = F.relu(score - limit) / scale
                loss = mask.mean(dim=(1, 2)) + MASK_SMOOTHNESS * _variation(mask) + MASK_PRESSURE * over
                (logits.grad,) = torch.autograd.grad(loss.sum(), logits)
            with torch.no_grad():
                hard = logits > 0
                area = hard.flatten(1).float().mean(dim=1)
                better = (over == 0) & (area < smallest)
                best[better], smallest[better] = hard[better], area[better]
            adam.step()
        self.passes += 3 * s.mask_steps * len(rows)  # a backward pass costs about two forward ones
        return best


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _variation(mask: Tensor) -> Tensor:
    """Mean |difference| [R] of neighbouring cells of masks [R,u,v], down and across."""
    down, across = mask[:, 1:] - mask[:, :-1], mask[..., 1:] - mask[..., :-1]
    return down.abs().mean(dim=(1, 2)) + across.abs().mean(dim=(1, 2))


def _without_coolest(cells: Tensor, heat: Tensor, step: Tensor) -> Tensor:
    """`cells` [R,u,v] less a share `step` [R] of them, those of least heat, at least one."""
    flat, warmth = cells.flatten(1), heat.flatten(1).masked_fill(~cells.flatten(1), torch.inf)
    drop = (flat.sum(dim=1) * step).round().clamp_min(1)
    rank = warmth.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return (flat & (rank >= drop[:, None])).view_as(cells)


def parts_of(cells: Tensor, most: int, least: float = 0.1) -> Iterator[Tensor]:
    """Connected parts bool [u,v] of one region, largest first, each at least a share `least` of it; none for a single
    one.
    """
    from scipy.ndimage import label

    numbered, count = label(cells.cpu().numpy(), structure=[[1, 1, 1]] * 3)
    if count < 2:
        return
    each = torch.from_numpy(numbered).to(cells.device)
    sizes = sorted(((int((each == one).sum()), -one) for one in range(1, count + 1)), reverse=True)
    for size, negative in sizes[:most]:
        if size >= least * int(cells.sum()):
            yield each == -negative
