"""Images larger than memory, tile by tile, without seams.

A window around each tile is read, scored and cut back to the tile. All windows of an image are equally large and lie
inside it, and they begin at multiples of the net's stride, so that its grids are those of the whole image. With a
margin of at least the net's reach, a kept pixel sees in its window all that it sees in the whole image, whose borders
are also the outer windows' borders: the result is that of the whole image up to the order of sums, at every pixel.
Memory holds one window, what the net makes of it, and the result, which may be a memory map too.

Nets with global context have no reach. The pyramid of Ladder-DenseNet takes means over the image, so a window gives it
other means than the whole image does; so does the image mean of DeepLabV3+, which also aligns corners when it enlarges,
and thereby depends on the size of what it is given. There tiles only come near; how near, `make bench-dense-overhead`
measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xadflow.detectors.dense_hybrid.networks import SceneNet, enlarged
from xadflow.errors import BadInput
from xadflow.images import as_float
from xadflow.networks.receptive_fields import seeing_twin

LARGEST_PX = 1 << 12  # of the canvas on which a reach is looked for


class Window(NamedTuple):
    """Rows and columns that are read, and those that are kept of them, all in pixels of the image."""

    read: tuple[slice, slice]
    kept: tuple[slice, slice]

    @property
    def inside(self) -> tuple[slice, slice]:
        """Where the kept ones lie in what was read."""
        (rows, columns), (top, left) = self.kept, (part.start for part in self.read)
        return slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)


def score_tiled(
    predict: Callable[[Tensor], Tensor],
    image: NDArray[np.uint8] | Tensor,
    *,
    stride: int,
    margin_px: int,
    tile_px: int = 512,
    device: str | torch.device = "cpu",
    out: NDArray[np.float32] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """What `predict` gives for an image [C,H,W], float32 [H,W] or [M,H,W], in `out` where that is given.

    Args:
        predict: float32 [1,C,h,w] in [0,1] to [1,h,w] or [1,M,h,w], raw scores or logits at the resolution of its
            input.
        image: uint8, of numpy (a memory map is read window by window) or of torch. Sides that are no multiple of the
            stride are continued to one by their last row or column; the result is that of the image so continued, cut
            back.
        stride: of the net's coarsest grid, `SceneNet.stride`.
        margin_px: what is read around a tile, at least the reach of the net, see :func:`reach_px`; rounded up to the
            stride.
        tile_px: side of a tile, rounded up to the stride. Memory goes with (tile_px + 2 margin_px)^2.
        progress: called with how many tiles are done, of how many.

    Many parameters: it serves any net, so that what it must know of one is told by whoever calls.

    Raises:
        BadInput: an image, an `out` or a prediction of another shape or type.
    """
    if image.ndim != 3 or image.dtype not in (np.uint8, torch.uint8) or 0 in image.shape:
        raise BadInput(
            "an image in tiles is uint8 of shape (C, H, W)",
            seen=(str(image.dtype), tuple(image.shape)),
            next_step="give the pixels as they are stored; a memory map is read in pieces",
        )
    height, width = (int(side) for side in image.shape[1:])
    windows = list(windows_of(height, width, stride=stride, margin_px=margin_px, tile_px=tile_px))
    told = _predicted(predict, image, windows[0], device)
    shape = (*told.shape[1:-2], height, width)
    found = np.empty(shape, dtype=np.float32) if out is None else out
    if found.shape != shape or found.dtype != np.float32:
        raise BadInput(
            "the array for the result does not fit it",
            seen=(str(found.dtype), found.shape),
            next_step=f"give float32 of shape {shape}",
        )
    for done, window in enumerate(windows):
        told = told if done == 0 else _predicted(predict, image, window, device)
        kept = told[(0, ..., *window.inside)].float().cpu().numpy()
        room = found[(..., *window.kept)]  # ends with the image, which may have been continued
        room[...] = kept[..., : room.shape[-2], : room.shape[-1]]
        if progress is not None:
            progress(done + 1, len(windows))
    return found


def windows_of(height: int, width: int, *, stride: int, margin_px: int, tile_px: int) -> Iterator[Window]:
    """The windows of an image, row by row; the kept parts cover each pixel of the image, continued to the stride, once.

    Raises:
        BadInput: a stride or a tile below 1 px, or a margin below 0.
    """
    if min(stride, tile_px) < 1 or margin_px < 0:
        raise BadInput(
            "tiles have a side, and a margin that is not negative",
            seen=(stride, tile_px, margin_px),
            next_step="take the stride of the net and the margin that reach_px gives",
        )
    margin, tile = (-(-size // stride) * stride for size in (margin_px, tile_px))
    rows, columns = (list(_along(-(-side // stride) * stride, tile, margin)) for side in (height, width))
    for read_rows, kept_rows in rows:
        for read_columns, kept_columns in columns:
            yield Window((read_rows, read_columns), (kept_rows, kept_columns))


def reach_px(net: SceneNet) -> int | None:
    """How far from a pixel the farthest one lies that its maps, enlarged to the image, can depend on.

    None where the net has global context, or reaches further than a canvas of 4,096 px. Measured as in
    xadflow.networks.receptive_fields: weights do not count, and squeeze-and-excitation is not seen.
    """
    twin = seeing_twin(net)
    side = 8 * net.stride
    while side <= LARGEST_PX:
        middle = side // 2 // net.stride * net.stride
        pixels = list(range(middle, middle + net.stride))  # each place that a pixel can have in a cell
        for looked_at in (pixels[:1], pixels):  # one first: it mostly tells that the canvas is too small
            seen = _seen(twin, net, side, looked_at)
            if min(first for first, _ in seen) == 0 or max(last for _, last in seen) == side - 1:
                break
        else:
            return max(max(pixel - first, last - pixel) for pixel, (first, last) in zip(pixels, seen, strict=True))
        side *= 2
    return None


def _seen(twin: torch.nn.Module, net: SceneNet, side: int, pixels: list[int]) -> list[tuple[int, int]]:
    """First and last row that each of these rows of the enlarged maps sees on a canvas of `side` rows."""
    across = 2 * net.stride
    with torch.enable_grad():
        canvas = torch.ones(len(pixels), net.channels, side, across, dtype=torch.float64, requires_grad=True)
        maps = enlarged(torch.cat([part.sum(dim=1, keepdim=True) for part in twin(canvas)], dim=1), (side, across)).sum(
            dim=1
        )
        total = torch.stack([maps[place, pixel].sum() for place, pixel in enumerate(pixels)]).sum()
        (gradient,) = torch.autograd.grad(total, canvas)
    lit = (gradient > 0).any(dim=3).any(dim=1)  # (pixels, side)
    return [(int(rows.nonzero()[0]), int(rows.nonzero()[-1])) for rows in lit]


def _along(side: int, tile: int, margin: int) -> Iterator[tuple[slice, slice]]:
    """What is read and what is kept along an axis whose `side` is a multiple of the stride."""
    window = min(side, tile + 2 * margin)
    for start in range(0, side, tile):
        stop = min(start + tile, side)
        first = min(max(start - margin, 0), side - window)
        yield slice(first, first + window), slice(start, stop)


def _predicted(
    predict: Callable[[Tensor], Tensor], image: NDArray[np.uint8] | Tensor, window: Window, device: str | torch.device
) -> Tensor:
    with torch.no_grad():
        pixels = _read(image, window.read).to(device)
        told = predict(as_float(pixels[None]))
    if told.ndim not in (3, 4) or told.shape[0] != 1 or told.shape[-2:] != pixels.shape[1:]:
        raise BadInput(
            "a prediction in tiles has the resolution of its input",
            seen=tuple(told.shape),
            next_step=f"enlarge it to (1, {pixels.shape[1]}, {pixels.shape[2]})",
        )
    return told


def _read(image: NDArray[np.uint8] | Tensor, place: tuple[slice, slice]) -> Tensor:
    """uint8 [C,h,w], continued by the last row and column where the image ends before."""
    rows, columns = place
    part = image[:, rows, columns]
    pixels = part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))
    below, right = rows.stop - rows.start - pixels.shape[1], columns.stop - columns.start - pixels.shape[2]
    if below or right:
        pixels = torch.nn.functional.pad(pixels.float()[None], (0, right, 0, below), mode="replicate")[0].to(
            torch.uint8
        )
    return pixels
