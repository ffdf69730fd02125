"""The section `robust` of docs/reference/benchmarks.md."""

from __future__ import annotations

from statistics import mean

from benchmarks.tables import Figures, head, row, said

TEXT = """\
`make bench-robust`. {brick} with generated defects and exact masks (rung `{rung}`), 96 px. For each of the seeds {seeds} one
detector (`{method}`, network `{detector[network]}`, {detector[min_steps]} steps, {known} known defects and synthetic ones) is trained twice, plain and
with the setting `robust` (radii {robust[radius_normals]} and {robust[radius_anomalies]} at 3x32x32 values, {robust[steps]} inner steps), all else equal. Explained
are the test defects that both twins flag, by `sparse` without a direction mask. *Inside*: share of the change (sum of absolute
values) inside the exact mask; *chance*: the mask's share of the image, what a change anywhere would have. *Attacked*: every
test image moved against its label, within an l2 ball of {radius:.3f}. *l2*: size of the change on [0,1] values. The defects are
drawn: this says where a change goes, not that it looks like a repair.
"""
MOST_LOST = 0.03  # points of clean AUROC, of the method's page
HEAD = "| twin | AUROC | attacked | explained | flipped | inside | chance | l2 |"
ROW = "| {twin} | {auroc:.3f} | {auroc_attacked:.3f} | {explained:.0f} | {flipped:.2f} | {inside:.3f} | {chance:.3f} | {l2:.2f} |"
VERDICT = """\
Clean AUROC lost by robust training: {lost:+.3f} (at most {most}: {kept}). Share inside the mask, robust minus plain on the \
same images: {robust_minus_plain:+.3f} (above 0: {more}). Share minus chance: {beyond}. 95 % intervals of a bootstrap over \
seeds and images."""


class _WithEach(list[float]):
    """Mean of the seeds, in brackets each."""

    def __format__(self, spec: str) -> str:
        return f"{mean(self):{spec}} ({', '.join(format(value, spec) for value in self)})"


def robust_section(figures: Figures) -> str:
    """One row a twin with each seed, the difference and its interval, and whether the acceptance holds."""
    rows = figures["rows"]
    text = said(TEXT, figures, brick=figures["texture"].capitalize(), seeds=", ".join(rows["plain"]))
    lines = [text, *head(HEAD)]
    for twin, seeds in rows.items():
        each = list(seeds.values())
        lines.append(row(ROW, {name: _WithEach(one[name] for one in each) for name in each[0]}, twin=twin))
    return "\n".join([*lines, "", verdict(figures), ""])


def verdict(figures: Figures) -> str:
    """The acceptance, part by part."""
    plain, robust = ([one["auroc"] for one in figures["rows"][twin].values()] for twin in ("plain", "robust"))
    lost = mean(plain) - mean(robust)
    kept, more = (
        "**holds**" if met else "**does not hold**"
        for met in (lost <= MOST_LOST, figures["robust_minus_plain"]["low"] > 0)
    )
    beyond = ", ".join(
        said("{twin} {one:+.3f}", {}, twin=twin, one=one) for twin, one in figures["minus_chance"].items()
    )
    return said(VERDICT, figures, lost=lost, most=MOST_LOST, kept=kept, more=more, beyond=beyond)
