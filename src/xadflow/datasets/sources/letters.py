"""Drawn letters as a data set that only serves as outliers for digits, grey or coloured: `judged: false`.

See letters.py of data. Nothing is fetched: the fonts come with Matplotlib.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from pydantic import Field

from xadflow.datasets.manifest import Split
from xadflow.datasets.public.colours import COLOURS, painted
from xadflow.datasets.public.letters import letters
from xadflow.datasets.sources.base import Candidate, Options, Refused, read_options
from xadflow.errors import DataUnavailable
from xadflow.images import stored_png

LICENCE = "drawn here; DejaVu, STIX and Computer Modern fonts, all free, come with Matplotlib"


class LettersOptions(Options):
    """How many letters, their side in pixels, and whether each is in one of the seven colours of Coloured-MNIST."""

    count: int = Field(default=6000, ge=1)
    side_px: int = Field(default=28, ge=8, le=84)
    coloured: bool = False
    seed: int = Field(default=0, ge=0)


class Letters:
    """Letters as a source of outliers; all are train images, of which the manifest takes what it needs for other
    splits.
    """

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self._options = read_options(LettersOptions, name, options)

    def raw_sets(self) -> tuple[str, ...]:
        """None: the fonts are installed."""
        return ()

    def origin(self) -> str:
        """The versions of the fonts and of what draws them. Raises DataUnavailable when one is missing."""
        try:
            return f"letters, fonts of matplotlib=={version('matplotlib')} drawn by pillow=={version('pillow')}"
        except PackageNotFoundError as err:
            raise DataUnavailable(
                "the fonts are not installed", seen=f"no package {err.name}", next_step="run `make setup`"
            ) from err

    def candidates(self) -> Iterator[Candidate | Refused]:
        """Letter after letter."""
        chosen, source = self._options, self.origin()
        colours = np.random.default_rng(chosen.seed).choice(list(COLOURS), chosen.count).tolist()
        for number, picture in enumerate(letters(chosen.count, chosen.side_px, chosen.seed)):
            category = f"letter-{colours[number]}" if chosen.coloured else "letter"
            target = f"{Split.TRAIN}/{category}/{number:05d}.png"
            pixels = painted(picture, colours[number]) if chosen.coloured else picture
            yield Candidate(
                origin=target,
                target=target,
                content=stored_png(pixels),
                split=Split.TRAIN,
                label=0,
                category=category,
                defect=None,
                source=source,
                licence=LICENCE,
            )
