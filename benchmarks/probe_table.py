"""The probe's results as a table, for docs/reference/benchmarks.md and docs/how-to/probe-for-shortcuts.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

HOW_TO = Path(__file__).parents[1] / "docs" / "how-to" / "probe-for-shortcuts.md"
BEGIN, END = "<!-- written by `make figures` from benchmarks/results/probe.json -->", "<!-- end of what is written -->"

TEXT = """\
`make bench-probe`. A watermark on a share of the anomalous training images, short trainings of a small network. *Heat*: share
of a marked test anomaly's heat inside the mark. *AUROC*: without marks, with the mark on that share of the test anomalies, and
with the mark on every test normal and on no anomaly. In parentheses the control, trained without any mark, on the same images.
Brackets: 95 % bootstrap over test images of the mean over seeds. Definitions: `src/xadflow/work/probe/verdict.py`; what it means:
[probe for shortcuts](../how-to/probe-for-shortcuts.md).
"""


def probe_section(figures: Mapping[str, Any]) -> str:
    """Text and table."""
    return f"{TEXT}\n{probe_table(figures)}"


def probe_table(figures: Mapping[str, Any]) -> str:
    """One line for each detector and rate."""
    titles = (
        "data set",
        "detector",
        "rate",
        "heat in the mark (control)",
        "AUROC, no mark (control)",
        "as planted (control)",
        "mark on the other side (control)",
        "alarm",
    )
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for name, one in figures.items():
        title = name.removesuffix(f": {one['detector']}")
        steps, seeds = one["settings"]["min_steps"], len(one["seeds"])
        for number, row in enumerate(one["rates"]):
            heat, auroc = row["heat"]["planted_side"], row["auroc"]
            cells = [
                f"{title}; {steps} steps, {seeds} seed{'s' if seeds > 1 else ''}; chance {row['heat']['chance']:.3f}"
                if number == 0
                else "",
                f"`{one['detector']}`" if number == 0 else "",
                f"{row['rate']:g}",
                f"{heat['share']:.3f} [{heat['low']:.3f}, {heat['high']:.3f}] ({heat['control']:.3f})",
                *(
                    f"{auroc[copy]['value']:.3f} [{auroc[copy]['low']:.3f}, {auroc[copy]['high']:.3f}] "
                    f"({auroc[copy]['control']:.3f})"
                    for copy in ("raw", "planted", "other_side")
                ),
                ", ".join(row["alarm"]) or "no",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def how_to_with(figures: Mapping[str, Any]) -> str:
    """The how-to page with its table as the results say."""
    before, rest = HOW_TO.read_text(encoding="utf-8").split(BEGIN)
    return f"{before}{BEGIN}\n\n{probe_table(figures)}\n{END}{rest.split(END)[1]}"
