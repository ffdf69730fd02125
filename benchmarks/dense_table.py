"""The section `dense` of docs/reference/benchmarks.md."""

from __future__ import annotations

from benchmarks.tables import Figures, averaged, head, holds, row, said, table

TEXT = """\
`make bench-dense`. {train:,} training scenes of {side} px, {negatives} negatives, {test} test scenes in two towns, {share:.1%}
of their pixels anomalous: GENERATED from real textures, garments, game textures and photographs (data set `mosaic`), so no
figure compares with one on StreetHazards or Fishyscapes. Detector `dense_hybrid`, light net, seeds {seeds}: {trained[seconds]:.0f} s for
both stages ({trained[cpu_seconds]:.0f} s of CPU time), one thread. All scores are read off the same net; *before* is after the closed-set stage,
when it is a plain segmenter. *AP*, *AUROC*, *FPR95*: all pixels of the set pooled. *open-mIoU*: threshold at TPR > 95 % fitted
on the other town; *gap*: closed mIoU minus open-mIoU. Means of the seeds, each beside; every figure is known to within
{bound:.0e} (histograms). Cues that know nothing reach an AP of {floors}.
"""
VERDICT = """\
"Hybrid beats both parts": {claims}. Closed mIoU lost by the second stage: {lost:.4f}, at most {most:.4f} by the interval; the \
target of less than {closed_target} {cost} (aim {closed_aim})."""
MEMORY = """\
Scenes of {megapixels:.0f} megapixels (1024 x 2048), scored in tiles with a margin of {margin_px} px and evaluated one after \
the other: highest memory of the process {before_mb:,.0f} MB before, {seen}; {seconds_each:.1f} s each."""
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


def dense_section(figures: Figures) -> str:
    """Scores, differences with intervals, what the second stage cost, memory."""
    rows, scenes = figures["rows"], figures["scenes"]
    text = said(
        TEXT,
        {"share": scenes["anomalous_share"], "side": scenes["side_px"], **scenes},
        seeds=", ".join(next(iter(rows.values()))),
        trained=averaged(list(figures["trained"].values())),
        bound=max(one["bound"] for seeds in rows.values() for one in seeds.values()),
        floors=", ".join(f"{value:.3f} ({name})" for name, value in figures["floors"].items()),
    )
    lines = [text, *head(f"| score | {' | '.join(NAMES.values())} |")]
    template = "| {name} | " + " | ".join(f"{{{figure}:.3f}} ({{each[{figure}]!c:.3f}})" for figure in NAMES) + " |"
    for name in (*ORDER, *(f"{one}, before" for one in ORDER if f"{one}, before" in rows)):
        values = [{figure: one[figure]["value"] for figure in NAMES} for one in rows[name].values()]
        each = {figure: [one[figure] for one in values] for figure in NAMES}
        lines.append(row(template, averaged(values), name=name, each=each))
    tests = ({"name": name, **test} for name, test in figures["tests"].items())
    lines += [
        "\nPaired differences on the same test scenes, mean of the seeds, 95 % interval over scenes:\n",
        *table(
            f"|  | {' | '.join(NAMES[figure] for figure in DIFFERENCES)} |",
            "| {name} | " + " | ".join(f"{{{figure}:+.3f}}" for figure in DIFFERENCES) + " |",
            tests,
        ),
    ]
    memory = figures["memory"]
    seen = ", ".join(f"{value:,.0f} MB after {count}" for count, value in memory["after_scenes_mb"].items())
    told = said(MEMORY, memory, seen=seen, megapixels=memory["pixels"] / 2**20)
    return "\n".join([*lines, "", verdict(figures), "", told, ""])


def verdict(figures: Figures) -> str:
    """Whether hybrid beats both of its parts, figure by figure, and whether the second stage cost too much."""
    claims = []
    for figure in ("average_precision", "fpr_at_95_tpr", "open_miou"):
        for part in ("likelihood", "posterior"):
            one = figures["tests"][f"hybrid - {part}"][figure]
            ends = (-one["high"], -one["low"]) if figure in BETTER_LOW else (one["low"], one["high"])
            claims.append(f"{NAMES[figure]} against {part} {holds(*ends)}")
    lost = figures["tests"]["max-logit - max-logit, before"]["closed_miou"]
    cost = "**holds**" if -lost["low"] < figures["closed_target"] else "**is missed**"
    return said(VERDICT, figures, claims="; ".join(claims), lost=-lost["value"], most=-lost["low"], cost=cost)
