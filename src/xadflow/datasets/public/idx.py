"""The IDX files of MNIST and its relatives (LeCun et al., 1998): unsigned bytes behind a header of dimensions."""

from __future__ import annotations

import math
import struct

import numpy as np
from numpy.typing import NDArray

from xadflow.errors import BadInput

_UNSIGNED_BYTE = 0x08


def parse_idx(content: bytes, dimensions: int) -> NDArray[np.uint8]:
    """The array of an IDX file of unsigned bytes. Raises BadInput when the header and the content do not fit."""
    header = 4 + 4 * dimensions
    sizes = struct.unpack(f">{dimensions}I", content[4:header]) if len(content) >= header else ()
    if content[:4] != bytes([0, 0, _UNSIGNED_BYTE, dimensions]) or math.prod(sizes) != len(content) - header:
        raise BadInput(
            f"not an IDX file of {dimensions} dimensions",
            seen=f"{len(content)} bytes, {content[:4].hex()}",
            next_step="run `xadflow data fetch` again",
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(sizes)
