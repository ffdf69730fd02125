"""The sections `one-class`, `textures` and `textures-ceiling` of docs/reference/benchmarks.md."""

from __future__ import annotations

from benchmarks.tables import Figures, head, named, row, table

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


TEXTURE = """\
| {name} | **{pixel_auroc:.3f}** [{low:.3f}, {high:.3f}] | {above_padim:+.3f} | {pixel_auroc_each!p:.3f} | {aupro:.3f} | \
{image_auroc:.3f} | {seeds} | {spread} |"""
CEILING_HEAD = "| | pixel AUROC | AUPRO | image AUROC |"
CEILING = "| {name} | {pixel_auroc:.3f} | {aupro:.3f} | {image_auroc:.3f} |"


def one_class_section(figures: Figures) -> str:
    """A table for each tested set: methods by classes."""
    exposure = "; ".join(f"{one['images']:,} {one['of']} for {name}" for name, one in figures["exposure"].items())
    every = [one for rows in figures["settings"].values() for one in rows.values()]
    settings = sorted({f"{one['network']}, {one['min_steps']:,} steps" for one in every})
    published = ", ".join(f"{name} {value:.2f}" for name, value in figures["published"].items())
    parts = [ONE_CLASS_TEXT.format(exposure=exposure, settings="; ".join(settings), published=published)]
    for name, rows in figures["sets"].items():
        classes = list(dict.fromkeys(title for one in rows.values() for title in one["classes"]))
        lines = [f"### {name}\n", *head(f"| method | mean | {' | '.join(classes)} | seeds | not run |")]
        for method, one in rows.items():
            mean = "" if one["mean"] is None else f"**{one['mean']:.3f}** [{one['low']:.3f}, {one['high']:.3f}]"
            seeds = " or ".join(map(str, sorted({len(own["each_seed"]) for own in one["classes"].values()})))
            ends = f"| {seeds} | {len(one['missing'])} cells |"
            each = (f"{one['classes'][title]['auroc']:.3f}" if title in one["classes"] else "" for title in classes)
            lines.append(f"| `{method}` | {mean} | {' | '.join(each)} {ends}")
        tied = max((own["tied"] for one in rows.values() for own in one["classes"].values()), default=0.0)
        lines.append(f"\nLargest share of tied (anomaly, normal) pairs: {tied:.1e}.\n")
        parts.append("\n".join(lines))
    return "\n".join(parts)


def textures_section(figures: Figures) -> str:
    """A table a rung; one row a detector, each texture's pixel AUROC beside the mean."""
    names = figures["textures"]
    parts = [TEXTURES_TEXT.format(textures=", ".join(names), rung=figures["target_rung"], known=figures["known"])]
    titles = f"| | pixel AUROC | above PaDiM | {' | '.join(names)} | AUPRO | image AUROC | seeds | sd of seeds |"
    for rung in ("easy", "middle", "hard"):
        lines, rows = [f"### {rung}\n", *head(titles)], figures["rungs"][rung]
        for name, one in rows.items():
            spread = f"{one['seed_sd']:.3f}" if one["seeds"] > 1 else "one seed"
            lines.append(row(TEXTURE, one, name=name, spread=spread))
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def ceiling_section(figures: Figures) -> str:
    """One row a texture."""
    return "\n".join([CEILING_TEXT.format(**figures), *table(CEILING_HEAD, CEILING, named(figures["textures"]))]) + "\n"
