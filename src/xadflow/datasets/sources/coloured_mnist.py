"""Coloured-MNIST: digits in seven colours, where colour or digit makes an image normal; and its digits recoloured.

Source: Liznerski et al., arXiv 2402.14469: normal is one colour with any digit, or the digit one in any colour. There
are two ways from an anomaly to a normal image, which a counterfactual can take: another colour, or another digit. Raw
files come by `xadflow data fetch mnist`.

An image's category is its digit and colour, `7-red`: what is normal by definition can be read from the manifest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from xadflow.datasets.manifest import Split
from xadflow.datasets.public.colours import COLOURS, painted
from xadflow.datasets.public.reading import read_raw
from xadflow.datasets.public.sets import public_set
from xadflow.datasets.sources.base import Candidate, Options, Refused, read_options
from xadflow.errors import BadSettings
from xadflow.images import stored_png
from xadflow.settings import Home

_SET = "mnist"
_PARTS = (Split.TRAIN, Split.TEST)


class ColouredMnistOptions(Options):
    """`normal`: colours and digits; an image is normal that has one of them, e.g. [cyan, 1].

    `train` counts train images, equally many for each of `normal`: digits in any colour, colours on any digit. `test`
    takes the first so many test images of the published order, each in one colour that the seed fixes. None takes all
    (in training: as many as the rarest of `normal` allows).

    `recoloured` makes outliers for the same data set without it: train digits of any class, each in another colour than
    the normal ones, all of them labelled normal. Whoever knows that only the colour is to be changed nearly knows the
    anomalies: with [cyan, 1], 89 of 100 are true anomalies, the others are ones. Say so beside a figure.
    """

    normal: tuple[int | str, ...]
    train: int | None = Field(default=None, ge=1)
    test: int | None = Field(default=None, ge=1)
    recoloured: bool = False
    seed: int = Field(default=0, ge=0)


class ColouredMnist:
    """Coloured digits as a source."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self._name = name
        self._options = read_options(ColouredMnistOptions, name, options)
        normal, classes = [str(one) for one in self._options.normal], public_set(_SET).classes
        unknown = [one for one in normal if one not in (*COLOURS, *classes)]
        if unknown or not normal:
            raise BadSettings(
                f"datasets.{name}.options.normal names no colour or digit",
                seen=unknown,
                next_step=f"some of {', '.join(COLOURS)}, and of 0 to 9",
            )
        self._colours = tuple(one for one in COLOURS if one in normal)
        self._digits = tuple(number for number, title in enumerate(classes) if title in normal)
        if self._options.recoloured and not 0 < len(self._colours) < len(COLOURS):
            raise BadSettings(
                f"datasets.{name}.options.recoloured needs a normal colour, and one that is not",
                seen=list(normal),
                next_step="name a colour under `normal`",
            )

    def raw_sets(self) -> tuple[str, ...]:
        """MNIST."""
        return (_SET,)

    def origin(self) -> str:
        """The digest of the file that holds MNIST's train images."""
        digest = next(iter(public_set(_SET).digests.values()))
        return f"{_SET} in colours, train images sha256 {digest[:16]}"

    def candidates(self) -> Iterator[Candidate | Refused]:
        """Train images, then test images; MNIST's own parts are kept apart."""
        raw = read_raw(Home.find(), _SET)
        chosen = self._options
        if chosen.recoloured:
            train = self._drawn(Split.TRAIN, len(raw.train))[: chosen.train]
        else:
            train = self._normals(raw.train_labels)
        yield from self._each(Split.TRAIN, raw.train, raw.train_labels, train)
        yield from self._each(
            Split.TEST, raw.test, raw.test_labels, self._drawn(Split.TEST, len(raw.test))[: chosen.test]
        )

    def _rng(self, split: Split) -> np.random.Generator:
        return np.random.default_rng([self._options.seed, _PARTS.index(split)])

    def _drawn(self, split: Split, count: int) -> list[tuple[int, str]]:
        """Number and colour of all images of a part: any colour, or any but the normal ones.

        Drawn before `train` and `test` cut, so that they change no image.
        """
        colours = [one for one in COLOURS if not (self._options.recoloured and one in self._colours)]
        return list(enumerate(self._rng(split).choice(colours, count).tolist()))

    def _normals(self, labels: NDArray[np.uint8]) -> list[tuple[int, str]]:
        """Number and colour of train images, as many for each digit and colour of `normal`; no image twice."""
        kinds = len(self._digits) + len(self._colours)
        most = min(len(labels) // kinds, *(int((labels == digit).sum()) for digit in self._digits), len(labels))
        wanted = kinds * most if self._options.train is None else self._options.train
        shares = [len(share) for share in np.array_split(np.arange(wanted), kinds)]
        if max(shares) > most:
            raise BadSettings(
                f"datasets.{self._name}.options.train asks for more images than there are",
                seen=wanted,
                next_step=f"ask for at most {kinds * most}",
            )
        rng = self._rng(Split.TRAIN)
        order, colours = rng.permutation(len(labels)), rng.choice(list(COLOURS), len(labels)).tolist()
        found: list[tuple[int, str]] = []
        taken = np.zeros(len(labels), np.bool_)
        for digit, share in zip(self._digits, shares, strict=False):
            numbers = order[labels[order] == digit][:share]
            found += [(int(number), colours[number]) for number in numbers]
            taken[numbers] = True
        for colour, share in zip(self._colours, shares[len(self._digits) :], strict=True):
            numbers = order[~taken[order]][:share]
            found += [(int(number), colour) for number in numbers]
            taken[numbers] = True
        return found

    def _each(
        self, split: Split, strokes: NDArray[np.uint8], labels: NDArray[np.uint8], chosen: list[tuple[int, str]]
    ) -> Iterator[Candidate]:
        licence = public_set(_SET).licence
        for number, colour in chosen:
            digit = int(labels[number])
            normal = self._options.recoloured or colour in self._colours or digit in self._digits
            title = f"{digit}-{colour}"
            target = f"{split}/{title}/{number:05d}.png"
            yield Candidate(
                origin=target,
                target=target,
                content=stored_png(painted(strokes[number], colour)),
                split=split,
                label=0 if normal else 1,
                category=title,
                defect=None if normal else title,
                source=self.origin(),
                licence=licence,
            )
