"""From measured cells to rows of a results file: each seed's figures, and mean and spread over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any


def summed(figures: dict[str, Any]) -> dict[str, Any]:
    """With the figures that a table takes from the nested ones."""
    more = {
        "normality": figures["explained"]["normality"],
        "second_normality": figures["second"]["normality"],
        "l1_mean": mean(figures["l1"]),
    }
    return figures | more | ({"normals_l1_max": max(figures["normals_l1"])} if "normals_l1" in figures else {})


def summed_rows(found: Mapping[tuple[str, Any], Any], names: Sequence[str]) -> dict[str, Any]:
    """Of cells by the name of their row, which have a seed: rows with `seeds`, `steps`, `mean` and `sd`."""
    rows: dict[str, Any] = {}
    for (name, cell), one in found.items():
        row = rows.setdefault(name, {"seeds": {}, "steps": cell.steps})
        row["seeds"][str(cell.seed)] = summed(one["figures"])
    for row in rows.values():
        each = list(row["seeds"].values())
        row["mean"] = {name: mean(one[name] for one in each) for name in names}
        row["sd"] = {name: stdev(one[name] for one in each) for name in names} if len(each) > 1 else None
    return rows
