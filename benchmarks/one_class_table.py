"""The sections `one-class`, `textures` and `textures-ceiling` of docs/reference/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ONE_CLASS_TEXT = """\
`make bench-one-class`. Image AUROC of raw scores, one class normal, all 10,000 published test images; a fifth of the class's
train images is held out for the threshold. The same outliers for every method that uses any: {exposure}. No image of the
tested sets is among them. Networks and steps: {settings}. Cells are means over the seeds that were run; brackets are 95 %
bootstraps over test images, drawn for each class apart. The published means ({published}) are over all ten classes with
CIFAR-100 or EMNIST letters as outliers and larger trainings: beside ours for orientation, not comparable. **Settings were
chosen with half of the test images of t-shirt, dress, bag and of the digits 3 and 8 in sight (one seed): of these classes the
figures are on the hopeful side**; means are over the classes that were run.
"""

TEXTURES_TEXT = """\
`make bench-textures`. Real textures ({textures}; 96 px crops, train and test from bands of the picture that lie further apart
than a crop is wide) with **generated** defects on three rungs of contrast and size, means over textures and training seeds.
Brackets: 95 % bootstrap over test images, of the mean pixel AUROC and of its paired difference to PaDiM on the same features.
*{known} masks*: so many known defects of the train band train with their masks. The paper's means on MVTec-AD, .92 and .96, are
the targets that were set for the {rung} rung; MVTec-AD is another data set. Settings of the rows trained end to end were chosen
on grass and gravel of that rung with the test images in sight (one seed).
"""
CEILING_TEXT = """\
`make bench-textures`. What can be seen of the {rung} rung's defects at all: the network of the rows trained end to end, trained
for {steps} steps on {masks} masks of the **test's own** generator (train band): supervised segmentation, no detector that
anyone could have, and no row of the comparison above.
"""


def one_class_section(figures: Mapping[str, Any]) -> str:
    """A table for each tested set: methods by classes."""
    exposure = "; ".join(f"{one['images']:,} {one['of']} for {name}" for name, one in figures["exposure"].items())
    settings = sorted(
        {
            f"{one['network']}, {one['min_steps']:,} steps"
            for rows in figures["settings"].values()
            for one in rows.values()
        }
    )
    published = ", ".join(f"{name} {value:.2f}" for name, value in figures["published"].items())
    parts = [ONE_CLASS_TEXT.format(exposure=exposure, settings="; ".join(settings), published=published)]
    for name, table in figures["sets"].items():
        classes = list(dict.fromkeys(title for row in table.values() for title in row["classes"]))
        head = f"| method | mean | {' | '.join(classes)} | seeds | not run |"
        lines = [f"### {name}\n", head, "|---" * (len(classes) + 4) + "|"]
        for method, row in table.items():
            cells = [f"{row['classes'][title]['auroc']:.3f}" if title in row["classes"] else "" for title in classes]
            mean = "" if row["mean"] is None else f"**{row['mean']:.3f}** [{row['low']:.3f}, {row['high']:.3f}]"
            seeds = sorted({len(one["each_seed"]) for one in row["classes"].values()})
            lines.append(
                f"| `{method}` | {mean} | {' | '.join(cells)} | {' or '.join(map(str, seeds))} | "
                f"{len(row['missing'])} cells |"
            )
        tied = max((one["tied"] for row in table.values() for one in row["classes"].values()), default=0.0)
        lines.append(f"\nLargest share of tied (anomaly, normal) pairs: {tied:.1e}.\n")
        parts.append("\n".join(lines))
    return "\n".join(parts)


def textures_section(figures: Mapping[str, Any]) -> str:
    """A table a rung; one row a detector, each texture's pixel AUROC beside the mean."""
    names = figures["textures"]
    parts = [TEXTURES_TEXT.format(textures=", ".join(names), rung=figures["target_rung"], known=figures["known"])]
    for rung in ("easy", "middle", "hard"):
        rows = figures["rungs"][rung]
        lines = [
            f"### {rung}\n",
            f"| | pixel AUROC | above PaDiM | {' | '.join(names)} | AUPRO | image AUROC | seeds | sd of seeds |",
            "|---" * (len(names) + 7) + "|",
        ]
        for row, one in rows.items():
            each = " | ".join(f"{value:.3f}" for value in one["pixel_auroc_each"])
            spread = f"{one['seed_sd']:.3f}" if one["seeds"] > 1 else "one seed"
            above = one["above_padim"]
            lines.append(
                f"| {row} | **{one['pixel_auroc']:.3f}** [{one['low']:.3f}, {one['high']:.3f}] | "
                f"{above['mean']:+.3f} [{above['low']:+.3f}, {above['high']:+.3f}] | {each} | {one['aupro']:.3f} | "
                f"{one['image_auroc']:.3f} | {one['seeds']} | {spread} |"
            )
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def ceiling_section(figures: Mapping[str, Any]) -> str:
    """One row a texture."""
    lines = [CEILING_TEXT.format(**figures), "| | pixel AUROC | AUPRO | image AUROC |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {one['pixel_auroc']:.3f} | {one['aupro']:.3f} | {one['image_auroc']:.3f} |"
        for name, one in figures["textures"].items()
    ]
    return "\n".join(lines) + "\n"
