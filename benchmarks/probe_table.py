"""The probe's results as a table, for docs/reference/benchmarks.md and docs/how-to/probe-for-shortcuts.md."""

from __future__ import annotations

from pathlib import Path

from benchmarks.tables import Figures, head, row

HOW_TO = Path(__file__).parents[1] / "docs" / "how-to" / "probe-for-shortcuts.md"
BEGIN, END = "<!-- written by `make figures` from benchmarks/results/probe.json -->", "<!-- end of what is written -->"

TEXT = """\
`make bench-probe`. A watermark on a share of the anomalous training images, short trainings of a small network. *Heat*: share
of a marked test anomaly's heat inside the mark. *AUROC*: without marks, with the mark on that share of the test anomalies, and
with the mark on every test normal and on no anomaly. In parentheses the control, trained without any mark, on the same images.
Brackets: 95 % bootstrap over test images of the mean over seeds. Definitions: `xadflow.work.probe.verdict`; what it means:
[probe for shortcuts](../how-to/probe-for-shortcuts.md).
"""


HEAD = """\
| data set | detector | rate | heat in the mark (control) | AUROC, no mark (control) | as planted (control) | \
mark on the other side (control) | alarm |"""
ROW = """\
| {of} | {by} | {rate:g} | {heat[share]:.3f} [{heat[low]:.3f}, {heat[high]:.3f}] ({heat[control]:.3f}) | {auroc[raw]:.3f} \
({auroc[raw][control]:.3f}) | {auroc[planted]:.3f} ({auroc[planted][control]:.3f}) | {auroc[other_side]:.3f} \
({auroc[other_side][control]:.3f}) | {alarms} |"""


def probe_section(figures: Figures) -> str:
    """Text and table."""
    return f"{TEXT}\n{probe_table(figures)}"


def probe_table(figures: Figures) -> str:
    """One line for each detector and rate."""
    lines = head(HEAD)
    for name, one in figures.items():
        steps, seeds = one["settings"]["min_steps"], len(one["seeds"])
        title = f"{name.removesuffix(': ' + one['detector'])}; {steps} steps, {seeds} seed{'s' if seeds > 1 else ''}"
        for number, of in enumerate(one["rates"]):
            told = {"of": f"{title}; chance {of['heat']['chance']:.3f}", "by": f"`{one['detector']}`"}
            told = told if number == 0 else {"of": "", "by": ""}
            alarms = ", ".join(of["alarm"]) or "no"
            lines.append(row(ROW, {**of, "heat": of["heat"]["planted_side"]}, **told, alarms=alarms))
    return "\n".join(lines) + "\n"


def how_to_with(figures: Figures) -> str:
    """The how-to page with its table as the results say."""
    before, rest = HOW_TO.read_text(encoding="utf-8").split(BEGIN)
    return f"{before}{BEGIN}\n\n{probe_table(figures)}\n{END}{rest.split(END)[1]}"
