"""Is a regenerated row the stored one? Compared value by value; pictures by their pixels, figures by their size.

Where the replay ran as the lineage says, everything must be exact. Where it could not (another number of threads,
another library, mates of a batch that are not known), sums are formed in another order: figures may then differ by
`ABSOLUTE` plus `RELATIVE` of their size, a p-value by one rank, and a stored map by one of its 255 levels.
Counterfactuals stay exact: a search that went another way found another image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from xadflow.errors import BadImage
from xadflow.evidence.tables import row_digest
from xadflow.images import decode_png

ABSOLUTE, RELATIVE = 1e-5, 1e-4
LEVELS = 1  # of a map's 255, by which rounding can move a pixel
SAME_PIXELS = "the same pixels, encoded otherwise"
_MAPS = ("heatmap", "original", "images[")  # pictures that follow from the input by arithmetic alone, without a search
_ABSENT = "absent"


@dataclass(frozen=True)
class Difference:
    """One value that differs: `column` is its place, e.g. counterfactuals[0].score; pictures are told in words.

    `size` is |stored - replayed| of figures, the largest of 8-bit levels of pictures, None of anything else; `within`
    says that the stated tolerance allows it.
    """

    column: str
    stored: Any
    replayed: Any
    size: float | None
    within: bool

    def __str__(self) -> str:
        by = "" if self.size is None else f", {self.size:.3g} apart"
        allowed = " (within tolerance)" if self.within else ""
        return f"{self.column}: stored {self.stored}, replayed {self.replayed}{by}{allowed}"


def differences(
    stored: Mapping[str, Any], replayed: Mapping[str, Any], *, tolerant: bool, rank: float
) -> tuple[Difference, ...]:
    """Every value of two rows of one table that is not the same; empty when their digests are equal.

    Args:
        tolerant: the conditions of the replay are not those of the lineage.
        rank: size of one step of a p-value.
    """
    before, after = dict(_leaves(stored)), dict(_leaves(replayed))
    found: list[Difference] = []
    digest = before.pop("row_digest", None)
    after.pop("row_digest", None)
    if digest is not None and digest != (own := row_digest(stored)):
        found.append(
            Difference("row_digest", f"{str(digest)[:16]}..", f"{own[:16]}.. of the row's own content", None, False)
        )
    for name in dict.fromkeys([*before, *after]):
        first, second = before.get(name, _ABSENT), after.get(name, _ABSENT)
        if isinstance(first, bytes) and isinstance(second, bytes):
            found += _of_pictures(name, first, second, tolerant)
        elif _is_number(first) and _is_number(second):
            found += _of_numbers(name, first, second, tolerant, rank)
        elif type(first) is not type(second) or first != second:
            found.append(Difference(name, _told(first), _told(second), None, False))
    return tuple(found)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(place, plain value) of everything in a row; a picture is its bytes, a metric is named by its name."""
    if isinstance(value, Mapping) and set(value) == {"bytes", "path"}:
        yield name, value["bytes"]
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and name == "metrics":
        for one in value:
            yield f"metrics.{one['name']}", one["value"]
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _leaves(inner, f"{name}[{place}]")
    else:
        yield name, value


def _of_numbers(name: str, first: float, second: float, tolerant: bool, rank: float) -> Iterator[Difference]:
    if first == second or (math.isnan(first) and math.isnan(second)):
        return
    size = abs(first - second)
    allowed = rank * (1 + 1e-9) if name.endswith("p_value") else ABSOLUTE + RELATIVE * abs(first)
    yield Difference(name, first, second, size, tolerant and isinstance(first, float) and size <= allowed)


def _of_pictures(name: str, first: bytes, second: bytes, tolerant: bool) -> Iterator[Difference]:
    if first == second:
        return
    try:
        before, after = decode_png(first), decode_png(second)
    except BadImage as err:
        yield Difference(name, f"{len(first)} bytes", f"{len(second)} bytes ({err.wrong})", None, False)
        return
    if before.shape != after.shape:
        yield Difference(name, f"shape {before.shape}", f"shape {after.shape}", None, False)
        return
    apart = np.abs(before.astype(np.int16) - after.astype(np.int16))
    most = int(apart.max())
    if most == 0:
        yield Difference(name, f"{len(first)} bytes", SAME_PIXELS, 0.0, True)
        return
    within = tolerant and name.startswith(_MAPS) and most <= LEVELS
    yield Difference(name, "a picture", f"{int((apart > 0).sum())} of {apart.size} values differ", float(most), within)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _told(value: Any) -> Any:
    if isinstance(value, bytes):
        return f"a picture of {len(value)} bytes"
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
