"""Which donor looks like an image where the image is fine, and how its pixels are brought to the image's brightness.

Donors are compared by weighted correlation: weights are high where the heat is low, so a donor is chosen for the part
of the image that will stay. Products that are not aligned are compared near the heat only, and at every shift as well
(cross-correlation by FFT, first at low resolution, then at full). What a shift uncovers is the donor's mirror image,
and a shift that brings it to the hot part is avoided.

Letters: B images, N donors, S symmetries, P donors an image, T side of a thumbnail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from xadflow.explainers.transplant.bank import DonorBank
from xadflow.explainers.transplant.masks import blurred, side_of
from xadflow.images import as_float, on_levels
from xadflow.settings.blocks import LARGE_PX

THUMBNAIL_PX = 32
_COMPARED_PX = 768  # a side of the part of a large image that is compared pixel by pixel
SHIFTED_DONORS = 48  # of a product that is not aligned: every shift of one is a donor of its own, and each costs 3 FFTs
MIRROR_PRICE = (
    0.5  # of correlation, where all of the heat would be filled with mirrored pixels: mirrored joints look odd
)
GAINS = (0.7, 1.4)  # contrast is a property of the product; beyond this the pixels would be made up
_FLAT = 1e-4  # deviation below which an image has no contrast to match
_TURNS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x,
    lambda x: x.flip(-1),
    lambda x: x.flip(-2),
    lambda x: x.flip((-2, -1)),
    lambda x: x.transpose(-2, -1),
    lambda x: x.transpose(-2, -1).flip(-1),
    lambda x: x.transpose(-2, -1).flip(-2),
    lambda x: x.transpose(-2, -1).flip((-2, -1)),
)
_TURNS_OF = {"none": 1, "flips": 4, "square": 8}


@dataclass(frozen=True)
class Matches:
    """P donors for each of B images: fitted pixels float32 [B,P,C,H,W] on 8-bit levels, and places in the bank int64
    [B,P].
    """

    pixels: Tensor
    places: Tensor


class Donors:
    """A bank made ready to be searched: thumbnails of every allowed copy; full pixels are turned when they
    are needed.
    """

    def __init__(self, bank: DonorBank, device: torch.device) -> None:
        self.bank = bank
        height, width = bank.images.shape[2:]
        turns = _TURNS_OF[bank.symmetries]
        self._turns = _TURNS[
            : turns if height == width else min(turns, 4)
        ]  # a quarter turn changes a rectangle's shape
        used = bank.images[: len(bank.images) if bank.aligned else SHIFTED_DONORS]
        grey = _thumbnail(as_float(used.to(device)))  # (N, T, T)
        self._thumbnails = torch.stack([turn(grey) for turn in self._turns], dim=1)  # (N, S, T, T)

    def nearest(self, x: Tensor, heat: Tensor, wanted: int) -> Matches:
        """At most `wanted` different donors for float images x [B,C,H,W]; `heat` [B,H,W] in [0,1] says what not to
        compare.
        """
        weights = (1.0 - heat).square() + 1e-3  # (B, H, W)
        if self.bank.aligned:
            places, turns = self._alike(x, weights, wanted)
            pixels = torch.stack([self._copies(own, its, x.device) for own, its in zip(places, turns, strict=True)])
        else:
            weights = weights * blurred(heat, 0.1 * side_of(*heat.shape[1:])) + 1e-6
            places, pixels = self._shifted(x, heat, weights, wanted)
        return Matches(_fitted(pixels, x, weights), places)

    def as_they_are(self, x: Tensor, heat: Tensor, wanted: int) -> Matches:
        """The nearest donors in their own pixels, not turned, shifted or fitted: images that the detector calls normal.

        For images that no fitted donor makes normal: then a region of all of it does.
        """
        places, _ = self._alike(x, (1.0 - heat).square() + 1e-3, wanted, turns=1)
        return Matches(as_float(self.bank.images[places.cpu()].to(x.device)), places)

    def _copies(self, places: Tensor, turns: Tensor, device: torch.device) -> Tensor:
        """Full pixels float [P,C,H,W] of donors in stated turns."""
        taken = as_float(self.bank.images[places.cpu()].to(device))
        return torch.stack([self._turns[int(turn)](one) for one, turn in zip(taken, turns.tolist(), strict=True)])

    def _alike(self, x: Tensor, weights: Tensor, wanted: int, turns: int | None = None) -> tuple[Tensor, Tensor]:
        """Places and turns int64 [B,P] of the donors of highest weighted correlation, each donor once, in its first
        `turns`.
        """
        centred, spread, w = _standardised(_thumbnail(x), _small(weights))
        bank = self._thumbnails[:, :turns].flatten(2)  # (N, S, T*T)
        flat_w, flat_x = w.flatten(1), (w * centred / spread).flatten(1)  # (B, T*T)
        mean = torch.einsum("bt,nst->bns", flat_w, bank)
        variance = torch.einsum("bt,nst->bns", flat_w, bank.square()) - mean.square()
        alike = torch.einsum("bt,nst->bns", flat_x, bank) / variance.clamp_min(_FLAT**2).sqrt()  # (B, N, S)
        alike = alike.masked_fill(self._same(x)[..., :turns], -torch.inf)
        best = alike.max(dim=2)
        places = best.values.topk(min(wanted, alike.shape[1]), dim=1).indices
        return places, best.indices.gather(1, places)

    def _same(self, x: Tensor) -> Tensor:
        """Where a copy is the image itself, bool [B,N,S]: a train normal that is explained takes nothing
        from itself.
        """
        apart = torch.cdist(_thumbnail(x).flatten(1), self._thumbnails.flatten(2).flatten(0, 1))
        same = (apart < 1e-4).view(len(x), *self._thumbnails.shape[:2])
        return same & ~same.flatten(1).all(dim=1).view(-1, 1, 1)

    def _shifted(self, x: Tensor, heat: Tensor, weights: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
        """Places [B,P] and full pixels [B,P,C,H,W] of the donors that fit best at their best shift, image by image."""
        height, width = x.shape[2:]
        scale_y, scale_x = height / THUMBNAIL_PX, width / THUMBNAIL_PX
        small_x, small_w, same = _thumbnail(x), _small(weights), self._same(x)
        mirrored = MIRROR_PRICE * _mirrored_heat(_small(heat.square()))  # (B, T+1, T+1)
        donors, turns = self._thumbnails.shape[:2]
        padded = _mirrored(self._thumbnails.flatten(0, 1))
        transforms = _transforms(padded)  # of the bank once, not once an image
        grey, all_places, all_pixels = x.mean(dim=1), [], []
        for row in range(len(x)):
            alike = _alike_at_shifts(small_x[row], small_w[row], transforms, padded.shape[1:])  # (N*S, T+1, T+1)
            alike = (alike - mirrored[row]).view(donors, turns, -1).masked_fill(same[row][..., None], -torch.inf)
            best = alike.flatten(1).max(dim=1)
            places = best.values.topk(min(wanted, donors)).indices
            turn, shift = best.indices[places] // alike.shape[2], best.indices[places] % alike.shape[2]
            side = THUMBNAIL_PX + 1
            coarse = torch.stack([shift // side, shift % side], dim=1)  # (P, 2), in thumbnail pixels
            copies = self._copies(places, turn, x.device)
            centre = (coarse * torch.tensor([scale_y, scale_x], device=x.device)).round().long()
            reach = (round(scale_y), round(scale_x))
            if height * width > LARGE_PX:
                at = _best_beside(copies, grey[row], weights[row], centre, reach)
            else:
                large = _mirrored(copies.mean(dim=1))
                fine = _alike_at_shifts(grey[row], weights[row], _transforms(large), large.shape[1:])  # (P, H+1, W+1)
                at = _best_near(fine, centre, reach)
            all_pixels.append(torch.stack([_moved(one, *to) for one, to in zip(copies, at.tolist(), strict=True)]))
            all_places.append(places)
        return torch.stack(all_places), torch.stack(all_pixels)


def _thumbnail(x: Tensor) -> Tensor:
    """Grey [N,T,T] of [N,C,H,W]."""
    return _small(x.mean(dim=1))


def _small(maps: Tensor) -> Tensor:
    """[N,T,T] of [N,H,W]."""
    return F.interpolate(maps[:, None], (THUMBNAIL_PX, THUMBNAIL_PX), mode="area")[:, 0]


def _standardised(grey: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images [B,H,W] less their weighted mean, their weighted deviation [B,1,1], and the weights, whose sum is 1."""
    w = weights / weights.sum(dim=(-2, -1), keepdim=True)
    centred = grey - (w * grey).sum(dim=(-2, -1), keepdim=True)
    spread = (w * centred.square()).sum(dim=(-2, -1), keepdim=True).sqrt().clamp_min(_FLAT)
    return centred, spread, w


def _mirrored(images: Tensor) -> Tensor:
    """[N,H,W] to [N,2H,2W], mirrored at each border (symmetric, so that a side of any length will do)."""
    height, width = images.shape[1:]
    rows, columns = (_mirror_places(side, images.device) for side in (height, width))
    return images[:, rows][:, :, columns]


def _mirror_places(side: int, device: torch.device) -> Tensor:
    at = torch.arange(2 * side, device=device) - side // 2
    return torch.where(at < 0, -1 - at, torch.where(at >= side, 2 * side - 1 - at, at))


def _mirrored_heat(heat: Tensor) -> Tensor:
    """Share of the heat [N,T,T] that a donor's mirrored part would fill at every shift, [N,T+1,T+1]."""
    side = heat.shape[1]
    real = torch.zeros(1, 2 * side, 2 * side, device=heat.device)
    real[:, side // 2 : side // 2 + side, side // 2 : side // 2 + side] = 1.0
    share = heat / heat.sum(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    wide = torch.fft.rfft2(share, s=(2 * side, 2 * side))
    covered: Tensor = torch.fft.irfft2(torch.fft.rfft2(real) * wide.conj(), s=(2 * side, 2 * side))
    return 1.0 - covered[:, : side + 1, : side + 1]


def _transforms(padded: Tensor) -> tuple[Tensor, Tensor]:
    """Spectra of images [M,2H,2W] and of their squares."""
    return torch.fft.rfft2(padded), torch.fft.rfft2(padded.square())


def _moved(image: Tensor, dy: int, dx: int) -> Tensor:
    """The part [C,H,W] of a mirrored image [C,H,W] that begins at row dy and column dx."""
    height, width = image.shape[1:]
    rows, columns = (_mirror_places(side, image.device) for side in (height, width))
    return image[:, rows[dy : dy + height]][:, :, columns[dx : dx + width]]


def _best_beside(copies: Tensor, grey: Tensor, weights: Tensor, centre: Tensor, reach: tuple[int, int]) -> Tensor:
    """As `_best_near` of all shifts of donors [P,C,H,W], for a large image [H,W]: it is compared where the weights are
    highest, a donor at a time, so that memory and time do not grow with the image.
    """
    height, width = grey.shape
    high, wide = min(_COMPARED_PX, height), min(_COMPARED_PX, width)
    middle = int(_small(weights[None]).argmax())
    top, left = (
        min(max(round((place + 0.5) * side / THUMBNAIL_PX) - length // 2, 0), side - length)
        for place, side, length in zip(divmod(middle, THUMBNAIL_PX), (height, width), (high, wide), strict=True)
    )
    own, its = grey[top : top + high, left : left + wide], weights[top : top + high, left : left + wide]
    rows, columns = (_mirror_places(side, grey.device) for side in (height, width))
    found = []
    for copy, (y, x) in zip(copies, centre.tolist(), strict=True):
        low_y, low_x = max(0, y - reach[0]), max(0, x - reach[1])
        shifts = (min(height, y + reach[0]) - low_y + 1, min(width, x + reach[1]) - low_x + 1)
        there = copy[:, rows[top + low_y :][: high + shifts[0] - 1]]
        there = there[:, :, columns[left + low_x :][: wide + shifts[1] - 1]].mean(dim=0)
        alike = _alike_at_shifts(own, its, _transforms(there[None]), there.shape, shifts)[0]
        place = int(alike.argmax())
        found.append([low_y + place // shifts[1], low_x + place % shifts[1]])
    return torch.tensor(found, device=grey.device)


def _alike_at_shifts(
    grey: Tensor,
    weights: Tensor,
    transforms: tuple[Tensor, Tensor],
    size: torch.Size,
    shifts: tuple[int, int] | None = None,
) -> Tensor:
    """Weighted correlation of one image [H,W] with M padded donors at every shift, [M,H+1,W+1] or as many as stated."""
    down, across = shifts or (grey.shape[0] + 1, grey.shape[1] + 1)
    centred, spread, w = _standardised(grey[None], weights[None])
    first, second = transforms

    def correlated(kernel: Tensor, spectrum: Tensor) -> Tensor:
        wide = torch.fft.rfft2(kernel, s=(int(size[0]), int(size[1])))
        found: Tensor = torch.fft.irfft2(spectrum * wide.conj(), s=(int(size[0]), int(size[1])))
        return found[:, :down, :across]

    mean = correlated(w[0], first)
    variance = correlated(w[0], second) - mean.square()
    return correlated((w * centred / spread)[0], first) / variance.clamp_min(_FLAT**2).sqrt()


def _best_near(alike: Tensor, centre: Tensor, reach: tuple[int, int]) -> Tensor:
    """The best shift int64 [P,2] of each of `alike` [P,H+1,W+1] within `reach` of `centre` [P,2]."""
    rows = torch.arange(alike.shape[1], device=alike.device).view(1, -1, 1)
    columns = torch.arange(alike.shape[2], device=alike.device).view(1, 1, -1)
    near = ((rows - centre[:, :1, None]).abs() <= reach[0]) & ((columns - centre[:, 1:, None]).abs() <= reach[1])
    place = alike.masked_fill(~near, -torch.inf).flatten(1).argmax(dim=1)
    return torch.stack([place // alike.shape[2], place % alike.shape[2]], dim=1)


def _fitted(pixels: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    """Donors [B,P,C,H,W] with the image's weighted mean, and its deviation as far as GAINS go; rounded to 8 bit."""
    w = weights[:, None]  # (B, 1, H, W), the same for every channel
    centred_x, spread_x, _ = _standardised(x, w)
    mean_x = x - centred_x
    centred, spread, _ = _standardised(pixels, w[:, None])
    gain = (spread_x[:, None] / spread).clamp(*GAINS)
    return on_levels((centred * gain + mean_x[:, None]).clamp(0.0, 1.0))
