"""The section `robust` of docs/reference/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

TEXT = """\
`make bench-robust`. {texture} with generated defects and exact masks (rung `{rung}`), 96 px. For each of the seeds {seeds} one
detector (`{method}`, network `{network}`, {steps} steps, {known} known defects and synthetic ones) is trained twice, plain and
with the setting `robust` (radii {normals} and {anomalies} at 3x32x32 values, {inner} inner steps), all else equal. Explained
are the test defects that both twins flag, by `sparse` without a direction mask. *Inside*: share of the change (sum of absolute
values) inside the exact mask; *chance*: the mask's share of the image, what a change anywhere would have. *Attacked*: every
test image moved against its label, within an l2 ball of {radius:.3f}. *l2*: size of the change on [0,1] values. The defects are
drawn: this says where a change goes, not that it looks like a repair.
"""
MOST_LOST = 0.03  # points of clean AUROC, of the method's page
NAMES = {
    "auroc": "AUROC",
    "auroc_attacked": "attacked",
    "explained": "explained",
    "flipped": "flipped",
    "inside": "inside",
    "chance": "chance",
    "l2": "l2",
}


def robust_section(figures: Mapping[str, Any]) -> str:
    """One row a twin with each seed, the difference and its interval, and whether the acceptance holds."""
    robust, detector = figures["robust"], figures["detector"]
    rows: Mapping[str, Mapping[str, Mapping[str, float]]] = figures["rows"]
    lines = [
        TEXT.format(
            texture=figures["texture"].capitalize(),
            rung=figures["rung"],
            seeds=", ".join(rows["plain"]),
            method=figures["method"],
            network=detector["network"],
            steps=detector["min_steps"],
            known=figures["known"],
            normals=robust["radius_normals"],
            anomalies=robust["radius_anomalies"],
            inner=robust["steps"],
            radius=figures["radius"],
        ),
        f"| twin | {' | '.join(NAMES.values())} |",
        "|---" * (len(NAMES) + 1) + "|",
    ]
    for twin, seeds in rows.items():
        cells = [_cell([one[name] for one in seeds.values()], name) for name in NAMES]
        lines.append(f"| {twin} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", verdict(figures), ""])


def verdict(figures: Mapping[str, Any]) -> str:
    """The acceptance, part by part."""
    plain, robust = ([one["auroc"] for one in figures["rows"][twin].values()] for twin in ("plain", "robust"))
    lost, apart = mean(plain) - mean(robust), figures["robust_minus_plain"]
    more = "**holds**" if apart["low"] > 0 else "**does not hold**"
    kept = "**holds**" if lost <= MOST_LOST else "**does not hold**"
    beyond = ", ".join(f"{twin} {_interval(one)}" for twin, one in figures["minus_chance"].items())
    return (
        f"Clean AUROC lost by robust training: {lost:+.3f} (at most {MOST_LOST}: {kept}). Share inside the mask, robust "
        f"minus plain on the same images: {_interval(apart)} (above 0: {more}). Share minus chance: {beyond}. 95 % "
        "intervals of a bootstrap over seeds and images."
    )


def _interval(one: Mapping[str, float]) -> str:
    return f"{one['value']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"


def _cell(values: list[float], name: str) -> str:
    spec = ".0f" if name == "explained" else ".2f" if name in ("flipped", "l2") else ".3f"
    return f"{mean(values):{spec}} ({', '.join(f'{value:{spec}}' for value in values)})"
