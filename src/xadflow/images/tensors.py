"""From pixels to a detector's input and back.

A detector's input is uint8 [C,H,W]; float32 in [0,1] is made from it by one division by 255, so that a stored 8-bit
PNG is exactly what the detector saw.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xadflow.images.decoding import decode_image
from xadflow.images.reading import ImageLimits, read_file

if TYPE_CHECKING:  # the methods of a tensor suffice: who only reads files does not wait for torch
    from torch import Tensor

VOID = 255  # in a map of class ids: a pixel that is nobody's, in no loss and no figure


def load_input(
    path: Path,
    size_px: tuple[int, int],
    channels: int,
    limits: ImageLimits | None = None,
    *,
    image_id: str | None = None,
) -> NDArray[np.uint8]:
    """Read, decode and resize one file to uint8 [C,H,W].

    Raises BadImage, also when the file cannot be read or, where `image_id` is given, has other bytes.
    """
    return to_input(decode_image(read_file(path, limits, image_id=image_id), limits), size_px, channels)


def to_input(pixels: NDArray[np.uint8], size_px: tuple[int, int], channels: int) -> NDArray[np.uint8]:
    """Resize decoded pixels to a detector's input uint8 [C,H,W]; antialiased bilinear, aspect not kept.

    `size_px` is (height, width); `channels` is 1 (grey, ITU-R 601 luma) or 3 (grey repeated).
    """
    image = Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")
    height, width = size_px
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    array = np.asarray(image, dtype=np.uint8)
    return np.ascontiguousarray(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))  # (C, H, W)


def mask_to_input(pixels: NDArray[np.uint8], size_px: tuple[int, int]) -> NDArray[np.bool_]:
    """Resize a mask that :func:`~xadflow.images.decoding.decode_mask` gave to bool [H,W], nearest neighbour."""
    grey = pixels if pixels.ndim == 2 else pixels.max(axis=2)
    return labels_to_input(np.asarray(grey > 0, dtype=np.uint8), size_px) > 0


def labels_to_input(pixels: NDArray[np.uint8], size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a map of class ids to uint8 [H,W], nearest neighbour, so that no id comes up that was not there."""
    height, width = size_px
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST))


def as_float(images: Tensor) -> Tensor:
    """uint8 [B,C,H,W] to float32 in [0,1]: the only way pixels become a detector's input."""
    return images.float() / 255.0


def on_levels(values: Tensor) -> Tensor:
    """Values in [0,1], each moved to the nearest of 256 levels: what is judged is what is stored."""
    return (values * 255).round() / 255


def to_levels(values: Tensor) -> Tensor:
    """Values in [0,1] as the uint8 that is stored; what lies outside is cut off."""
    return (values.clamp(0.0, 1.0) * 255).round().byte()
