"""The section `dense` of docs/reference/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

TEXT = """\
`make bench-dense`. {train:,} training scenes of {side} px, {negatives} negatives, {test} test scenes in two towns, {share:.1%}
of their pixels anomalous: GENERATED from real textures, garments, game textures and photographs (data set `mosaic`), so no
figure compares with one on StreetHazards or Fishyscapes. Detector `dense_hybrid`, light net, seeds {seeds}: {wall:.0f} s for
both stages ({cpu:.0f} s of CPU time), one thread. All scores are read off the same net; *before* is after the closed-set stage,
when it is a plain segmenter. *AP*, *AUROC*, *FPR95*: all pixels of the set pooled. *open-mIoU*: threshold at TPR > 95 % fitted
on the other town; *gap*: closed mIoU minus open-mIoU. Means of the seeds, each beside; every figure is known to within
{bound:.0e} (histograms). Cues that know nothing reach an AP of {floors}.
"""
ORDER = ("hybrid", "likelihood", "posterior", "max-logit", "max-softmax", "entropy")
NAMES = {
    "average_precision": "AP",
    "auroc": "AUROC",
    "fpr_at_95_tpr": "FPR95",
    "open_miou": "open-mIoU",
    "closed_miou": "closed mIoU",
    "open_set_gap": "gap",
    "anomaly_iou": "anomaly IoU",
}
DIFFERENCES = ("average_precision", "auroc", "fpr_at_95_tpr", "open_miou", "closed_miou")
BETTER_LOW = ("fpr_at_95_tpr",)


def dense_section(figures: Mapping[str, Any]) -> str:
    """Scores, differences with intervals, what the second stage cost, memory."""
    rows, scenes, trained = figures["rows"], figures["scenes"], list(figures["trained"].values())
    first = next(iter(rows.values()))
    text = TEXT.format(
        train=scenes["train"],
        side=scenes["side_px"],
        negatives=scenes["negatives"],
        test=scenes["test"],
        share=scenes["anomalous_share"],
        seeds=", ".join(first),
        wall=mean(one["seconds"] for one in trained),
        cpu=mean(one["cpu_seconds"] for one in trained),
        bound=max(one["bound"] for seeds in rows.values() for one in seeds.values()),
        floors=", ".join(f"{value:.3f} ({name})" for name, value in figures["floors"].items()),
    )
    lines = [text, *_head(["score", *NAMES.values()])]
    for name in (*ORDER, *(f"{one}, before" for one in ORDER if f"{one}, before" in rows)):
        seeds = rows[name]
        cells = [
            f"{mean(one[figure]['value'] for one in seeds.values()):.3f} ({_each(seeds, figure)})" for figure in NAMES
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "\nPaired differences on the same test scenes, mean of the seeds, 95 % interval over scenes:\n",
        *_head(["", *(NAMES[figure] for figure in DIFFERENCES)]),
    ]
    lines += [
        f"| {name} | " + " | ".join(_interval(test[figure]) for figure in DIFFERENCES) + " |"
        for name, test in figures["tests"].items()
    ]
    return "\n".join([*lines, "", verdict(figures), "", _memory(figures["memory"]), ""])


def verdict(figures: Mapping[str, Any]) -> str:
    """Whether hybrid beats both of its parts, figure by figure, and whether the second stage cost too much."""
    said = []
    for figure in ("average_precision", "fpr_at_95_tpr", "open_miou"):
        for part in ("likelihood", "posterior"):
            one = figures["tests"][f"hybrid - {part}"][figure]
            low, high = (-one["high"], -one["low"]) if figure in BETTER_LOW else (one["low"], one["high"])
            answer = "holds" if low > 0 else "**the opposite holds**" if high < 0 else "**is not shown**"
            said.append(f"{NAMES[figure]} against {part} {answer}")
    lost = figures["tests"]["max-logit - max-logit, before"]["closed_miou"]
    most = -lost["low"]
    cost = "**holds**" if most < figures["closed_target"] else "**is missed**"
    return (
        f'"Hybrid beats both parts": {"; ".join(said)}. Closed mIoU lost by the second stage: {-lost["value"]:.4f}, at '
        f"most {most:.4f} by the interval; the target of less than {figures['closed_target']} {cost} (aim "
        f"{figures['closed_aim']})."
    )


def _memory(memory: Mapping[str, Any]) -> str:
    seen = ", ".join(f"{value:,.0f} MB after {count}" for count, value in memory["after_scenes_mb"].items())
    return (
        f"Scenes of {memory['pixels'] / 2**20:.0f} megapixels (1024 x 2048), scored in tiles with a margin of "
        f"{memory['margin_px']} px and evaluated one after the other: highest memory of the process "
        f"{memory['before_mb']:,.0f} MB before, {seen}; {memory['seconds_each']:.1f} s each."
    )


def _interval(one: Mapping[str, float]) -> str:
    return f"{one['value']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"


def _each(seeds: Mapping[str, Any], figure: str) -> str:
    return ", ".join(f"{one[figure]['value']:.3f}" for one in seeds.values())


def _head(titles: list[str]) -> list[str]:
    return [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
