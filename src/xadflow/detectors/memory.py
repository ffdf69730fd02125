"""How many normal images a detector may learn from at once, and which sizes are too large for one look."""

from __future__ import annotations

from dataclasses import dataclass

from xadflow.errors import BadInput

_MIB = 2**20
FEWEST = 16  # normals that are worth a training: below, the image itself is too large


@dataclass(frozen=True)
class Need:
    """Bytes that a training holds: of each normal image, and whatever their number."""

    each: int
    fixed: int

    def normals(self, most: int, memory_mb: int, shape: tuple[int, ...]) -> int:
        """Of `most` normal images (C, H, W) as many as `memory_mb` holds.

        Raises BadInput where not even 16 of them fit.
        """
        fitting = (memory_mb * _MIB - self.fixed) // max(1, self.each)
        if fitting >= min(most, FEWEST):
            return int(min(most, fitting))
        needed = (self.fixed + min(most, FEWEST) * self.each) // _MIB + 1
        raise BadInput(
            f"looking at images of {shape[1]} x {shape[2]} px as a whole takes {needed} MB of features",
            seen=f"retrain.memory_mb {memory_mb}",
            next_step="set tile_px: 128 of the data set in params.yaml, which looks window by window; "
            "or lower size_px; or raise retrain.memory_mb",
        )
