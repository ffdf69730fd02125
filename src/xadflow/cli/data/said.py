"""What the commands say of a data set: its images, what may be wrong with them, what was refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from xadflow.cli.printing import printable

if TYPE_CHECKING:
    from xadflow.datasets.sources import Refused
    from xadflow.settings import Home

MOST_LISTED = 40
"""Files of one reason that a list of the whole quarantine names."""
FIRST_LISTED = 3
"""Files of one reason that a command names where the quarantine is only a part of what it says."""
_MOST_SUSPECTED = 10


def summary(home: Home, name: str) -> str:
    """Counts a split and what is in quarantine, from validation.json."""
    found = json.loads((home.dataset(name) / "validation.json").read_text(encoding="utf-8"))
    lines = [f"{name}: {found['rows']} images, {found['masks']} masks, {len(found['rules'])} expectations hold"]
    lines += [f"  {split:<16} {count:>6}" for split, count in found["counts"].items() if count]
    lines += _suspicions(name, found)
    if found["quarantine"]:
        lines.append(f"  quarantine: {counted(found['quarantine'])} (`xadflow data manifest {name}` lists them)")
    return "\n".join(lines)


def _suspicions(name: str, found: Mapping[str, Any]) -> list[str]:
    """What may be wrong with the images and only a person can tell: near copies across splits, odd normals."""
    pairs, odd = found.get("near_copies", []), found.get("suspects", [])
    lines = []
    if pairs:
        lines.append(
            f"  warning: {len(pairs)} pairs in different splits look like copies of one picture; keep one of each"
        )
        lines += [
            f"    {printable(one['one'])} ({one['split']}) and {printable(one['other'])} ({one['other_split']}), "
            f"alike by {one['likeness']:.3f}"
            for one in pairs[:_MOST_SUSPECTED]
        ]
    if odd:
        lines.append(f"  warning: {len(odd)} train normals are unlike all others; see that they show no defect")
        lines += [
            f"    {printable(one['path'])}, {one['score']:.0f} from the others, usual {one['usual']:.0f}"
            for one in odd[:_MOST_SUSPECTED]
        ]
    if max(len(pairs), len(odd)) > _MOST_SUSPECTED:
        lines.append(f"    all of them: data/{name}/validation.json")
    return lines


def quarantined(name: str, refused: Sequence[Refused], most: int) -> list[str]:
    """How many files of each reason were refused, the first `most` of each with what was seen, and where all are.

    The last line says what to do. `refused` is ordered by reason.
    """
    if not refused:
        return []
    by_reason = {reason: list(rows) for reason, rows in groupby(refused, key=lambda row: row.reason)}
    shown = [row for rows in by_reason.values() for row in rows[:most]]
    reason = max(len(text) for text in by_reason)
    path = max(len(printable(row.path)) for row in shown)
    lines = [f"{name}: {len(refused)} files in quarantine"]
    for why, rows in by_reason.items():
        lines += [f"  {why:<{reason}}  {printable(row.path):<{path}}  {printable(row.detail)}" for row in rows[:most]]
        if len(rows) > most:
            lines.append(f"  {why:<{reason}}  and {len(rows) - most} more")
    if len(refused) > len(shown):
        lines.append(f"All of them: data/{name}/quarantine.parquet, and `xadflow data manifest {name}`")
    return [*lines, f"Next: mend or replace them where they come from, then run `dvc repro validate@{name}`", ""]


def counted(counts: Mapping[str, int]) -> str:
    """`2 link, 1 empty`."""
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())
