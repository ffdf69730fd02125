"""MNIST, Fashion-MNIST, CIFAR-10 and GTSRB as one-vs-rest: one class is normal, the test images of all others are
anomalous.

The protocol of Ruff et al. (ICML 2018) and of the FCDD paper: train on the published train images of one class, test
on all published test images. Raw files come by `xadflow data fetch mnist` (or another name); see fetching.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from xadflow.datasets.manifest import Split
from xadflow.datasets.public.reading import read_raw
from xadflow.datasets.public.sets import public_set
from xadflow.datasets.sources.base import Candidate, Options, Refused, read_options
from xadflow.errors import BadSettings
from xadflow.images import stored_png
from xadflow.settings import Home


class OneVsRestOptions(Options):
    """Which set, and which class is normal: its number or name, or `all` (for outlier exposure of another data set).

    `train` and `test_per_class` take the first so many images of the published order; None takes all.
    """

    set: Literal["mnist", "fashion-mnist", "cifar10", "gtsrb"]
    normal: int | str
    train: int | None = Field(default=None, ge=1)
    test_per_class: int | None = Field(default=None, ge=1)


class OneVsRest:
    """One class of a public set as a source."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self._options = read_options(OneVsRestOptions, name, options)
        self._public = public_set(self._options.set)
        classes = self._public.classes
        normal = str(self._options.normal)
        chosen = (
            range(len(classes))
            if normal == "all"
            else [number for number, title in enumerate(classes) if normal in (str(number), title)]
        )
        if not chosen:
            raise BadSettings(
                f"datasets.{name}.options.normal names no class",
                seen=self._options.normal,
                next_step=f"one of 0 to {len(classes) - 1}, {', '.join(classes)}, or all",
            )
        self._normal = frozenset(chosen)

    def raw_sets(self) -> tuple[str, ...]:
        """The set."""
        return (self._public.name,)

    def origin(self) -> str:
        """The set and the digest of the file that holds its train images."""
        digest = next(iter(self._public.digests.values()))
        return f"{self._public.name}, train images sha256 {digest[:16]}"

    def candidates(self) -> Iterator[Candidate | Refused]:
        """Train images of the normal class, then test images of every class, in the published order."""
        raw = read_raw(Home.find(), self._public.name)
        chosen = self._options
        train = np.flatnonzero(np.isin(raw.train_labels, list(self._normal)))[: chosen.train]
        for number in train:
            yield self._candidate(Split.TRAIN, int(number), raw.train[number], int(raw.train_labels[number]))
        for number in _first_of_each(raw.test_labels, chosen.test_per_class):
            yield self._candidate(Split.TEST, int(number), raw.test[number], int(raw.test_labels[number]))

    def _candidate(self, split: Split, number: int, pixels: NDArray[np.uint8], of_class: int) -> Candidate:
        title = self._public.classes[of_class]
        target = f"{split}/{title}/{number:05d}.png"
        normal = of_class in self._normal
        return Candidate(
            origin=target,
            target=target,
            content=stored_png(pixels),
            split=split,
            label=0 if normal else 1,
            category=title,
            defect=None if normal else title,
            source=self.origin(),
            licence=self._public.licence,
        )


def _first_of_each(labels: NDArray[np.uint8], most: int | None) -> NDArray[np.int64]:
    """Places of the first `most` of each label, ascending."""
    if most is None:
        return np.arange(len(labels))
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:most] for label in np.unique(labels)]))
