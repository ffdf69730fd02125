"""The one renderer of benchmarks' tables: a row is a template of Markdown, filled from figures.

A template names figures as `str.format` does, `| {seed} | {detector[auroc]:.3f} |`, and beyond that:

- a mapping with `low` and `high` and a `value` (or `mean`) is an interval: `0.93 [0.91, 0.95]`;
- a list is its values with " / " between them, with `!c` ", ", with `!p` in a cell each;
- a cell with a figure that was not measured stays blank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from string import Formatter
from typing import Any

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation: `0.93 ± 0.02`; in percent without the sign."""

    mean: float
    sd: float

    def __format__(self, spec: str) -> str:
        scale, spec = (100.0, f"{spec[:-1]}f") if spec.endswith("%") else (1.0, spec)
        return f"{scale * self.mean:{spec}} ± {scale * self.sd:{spec}}"


class _Filler(Formatter):
    def convert_field(self, value: Any, conversion: str | None) -> Any:
        between = {"c": ", ", "p": " | "}.get(conversion or "")
        return super().convert_field(value, conversion) if between is None else _Listed(value, between)  # type: ignore[arg-type]

    def format_field(self, value: Any, spec: str) -> str:
        if isinstance(value, _Listed):
            return value.between.join(self.format_field(one, spec) for one in value.values)
        if isinstance(value, Mapping):
            middle = value["value"] if "value" in value else value["mean"]
            return f"{middle:{spec}} [{value['low']:{spec}}, {value['high']:{spec}}]"
        if type(value) in (list, tuple):
            return " / ".join(self.format_field(one, spec) for one in value)
        return format(value, spec)


@dataclass(frozen=True)
class _Listed:
    values: Iterable[Any]
    between: str


_FILLER = _Filler()


def said(template: str, figures: Figures, **more: Any) -> str:
    """A text with its figures filled in; raises KeyError for one that is missing."""
    return _FILLER.vformat(template, (), {**figures, **more})


def row(template: str, figures: Figures, **more: Any) -> str:
    """One row; blank cells for what is missing."""
    return "|".join(_cell(cell, {**figures, **more}) for cell in template.split("|"))


def head(titles: str) -> list[str]:
    """`| a | b |` and the rule below it."""
    return [titles, "|---" * (titles.count("|") - 1) + "|"]


def table(titles: str, template: str, each: Iterable[Figures]) -> list[str]:
    """Head and one row of each."""
    return [*head(titles), *(row(template, one) for one in each)]


def seeds_and_means(
    titles: str, seed_row: str, mean_row: str, rows: Figures, ready: Callable[[Figures], Figures] = dict
) -> list[str]:
    """Of rows with `seeds`, `mean` and `sd`: a line a seed, and one of the means where there are several seeds."""
    lines = head(titles)
    for name, own in rows.items():
        lines += [row(seed_row, ready(one), name=name, seed=seed) for seed, one in own["seeds"].items()]
        if own["sd"] is not None:
            spreads = {figure: Spread(own["mean"][figure], own["sd"][figure]) for figure in own["sd"]}
            lines.append(row(mean_row, {**own, **spreads}, name=name))
    return lines


def beyond(rows: Figures, bounds: Callable[[Figures], Mapping[str, bool]]) -> Iterator[tuple[str, str, list[str]]]:
    """Row, seed and titles of the bounds that it misses, of those that miss any."""
    for name, own in rows.items():
        for seed, one in own["seeds"].items():
            if wrong := [title for title, missed in bounds(one).items() if missed]:
                yield name, seed, wrong


def named(rows: Figures) -> list[Figures]:
    """Rows by name as rows with a `name`."""
    return [{"name": name, **one} for name, one in rows.items()]


def averaged(each: Sequence[Any]) -> Any:
    """Of equal structures (of seeds) one: the means of their numbers, all else as in the first."""
    first = each[0]
    if isinstance(first, Mapping):
        return {key: averaged([one[key] for one in each]) for key in first if all(key in one for one in each)}
    if isinstance(first, list | tuple):
        return [averaged(values) for values in zip(*each, strict=False)]
    return mean(each) if isinstance(first, int | float) and not isinstance(first, bool) else first


def holds(low: float, high: float, no: str = "**is not shown**") -> str:
    """What a 95 % interval of a difference says of "more"."""
    return "holds" if low > 0 else "**the opposite holds**" if high < 0 else no


def value_range(values: Sequence[float], spec: str) -> str:
    """Least to largest, or the one that all are."""
    if not values:
        return "none"
    low, high = f"{min(values):{spec}}", f"{max(values):{spec}}"
    return low if low == high else f"{low} to {high}"


def _cell(template: str, figures: Figures) -> str:
    try:
        return _FILLER.vformat(template, (), figures)
    except (KeyError, IndexError):
        return "  " if template.strip() else template
