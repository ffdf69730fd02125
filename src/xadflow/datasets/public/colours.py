"""The seven colours of Coloured-MNIST: bright strokes on black.

Source: Liznerski et al., "Reimagining Anomalies", arXiv 2402.14469, whose colours these are; grey is half of white.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "grey": (128, 128, 128),
}


def painted(strokes: NDArray[np.uint8], colour: str) -> NDArray[np.uint8]:
    """Strokes uint8 [H,W] in one of COLOURS, uint8 [H,W,3]: a stroke's brightness times the colour, rounded."""
    product = strokes[..., None].astype(np.uint16) * np.array(COLOURS[colour], np.uint16)  # (H, W, 3)
    return ((product + 127) // 255).astype(np.uint8)
