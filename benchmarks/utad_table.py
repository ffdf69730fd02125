"""The section `utad` of docs/reference/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

TEXT = """\
`make bench-utad`. Detector `utad` on generated defects with exact masks (middle rung), on solar cells (ELPV peer-0, 64 px,
random split) and on one class of Fashion-MNIST (32 px, 200 test images a class). No known defect, no outlier. *Two stages* is
the default; *impression only* spends the time of both stages on the first; *one stage* is an autoencoder of four times the
bottleneck, trained on clean images for the same time. All maps are in standard deviations of held-out normals; the released
combination is x|x^ + x|m^ - var x^ - x^|m. Figures are means over seeds; **where fewer than three seeds were run the row says
so, and nothing is claimed of it**. What was visible while choosing is in the head of `benchmarks/utad.py`. *s*: wall seconds
of training, other work beside; about 0 where the checkpoint was there. Grey values alone (better sign): {baselines}.
"""
RECONSTRUCTIONS = """\
What the two stages promise, on test normals and on the same with a drawn defect of a kind that no training drew. *Sharp*:
gradient energy, the image's is 1. *Leak*: share of the defect that comes through, 0 suppressed, 1 copied. *Error*: mean
|difference| to the normal image. The copy sends the image itself through the expert.
"""
WITH_M, MOST_SEEDS = "D(x,m) and blurred", 3
COMPARED = {"two stages": "D(x,x_hat) and blurred (default)", "impression only": WITH_M, "one stage": WITH_M}
VIEWS = {"m": "impression m", "x_hat": "expert x^", "x_rec": "copy", "m_hat": "naive m^"}


def utad_section(figures: Mapping[str, Any]) -> str:
    """Detection, then reconstructions."""
    baselines = "; ".join(f"{name} {max(one['baselines'].values()):.3f}" for name, one in figures["sets"].items())
    lines = [
        TEXT.format(baselines=baselines),
        "| set | training | map | image AUROC | of k-NN | of both | pixel AUROC | AUPRO | seeds | s |",
        "|---" * 10 + "|",
    ]
    for name, one in figures["sets"].items():
        for title, row in one["trainings"].items():
            for number, (of_map, values) in enumerate(row["maps"].items()):
                first = number == 0
                cells = [
                    name if first else "",
                    title if first else "",
                    of_map,
                    _mean(values["image_auroc"]),
                    _mean(values["image_auroc_knn"]) if first else "",
                    _mean(values["image_auroc_both"]),
                    _mean(values.get("pixel_auroc")),
                    _mean(values.get("aupro")),
                    str(row["seeds"]) if first else "",
                    f"{row['training_s']:.0f}" if first else "",
                ]
                lines.append("| " + " | ".join(cells) + " |")
    lines += ["", RECONSTRUCTIONS, "| set | training | picture | error | sharp | leak |", "|---" * 6 + "|"]
    for name, one in figures["sets"].items():
        for title, row in one["trainings"].items():
            views = VIEWS if title == "two stages" else {"m": VIEWS["m"]}
            for number, (view, shown) in enumerate(views.items()):
                value = row["reconstructions"][view]
                place = f"| {name if number == 0 else ''} | {title if number == 0 else ''} | {shown} "
                lines.append(f"{place}| {value['fidelity']:.4f} | {value['sharpness']:.3f} | {value['leak']:.3f} |")
    lines += ["", verdict(figures["sets"])]
    missing = figures["missing"]
    lines.append(f"\nNot run: {len(missing)} cells{': ' + '; '.join(missing) if missing else ''}.")
    return "\n".join(lines) + "\n"


def verdict(sets: Mapping[str, Any]) -> str:
    """Whether two stages beat either alone, set by set, and whether the second does what it is for."""
    whole = {name: one["trainings"] for name, one in sets.items() if len(one["trainings"]) == len(COMPARED)}
    if not whole:
        return "The claim of two stages was not compared: no set has all three trainings.\n"
    said, best, over_first, sharper, cleaner = [], 0, 0, 0, 0
    for name, trainings in whole.items():
        figure = "pixel_auroc" if sets[name]["masks"] else "image_auroc"
        two, *others = (float(np.mean(trainings[title]["maps"][of_map][figure])) for title, of_map in COMPARED.items())
        first = float(np.mean(trainings["two stages"]["maps"][WITH_M][figure]))
        expert, impression = (trainings["two stages"]["reconstructions"][view] for view in ("x_hat", "m"))
        alone = trainings["one stage"]["reconstructions"]["m"]
        best += two > max(others)
        over_first += two > first
        sharper += expert["sharpness"] > impression["sharpness"]
        cleaner += expert["leak"] < alone["leak"]
        shown = figure.replace("_", " ").replace("auroc", "AUROC")
        said.append(
            f"{name} ({shown}) {two:.3f} by two stages, {others[0]:.3f} by the impression only, {others[1]:.3f} by one "
            f"stage, {first:.3f} by the two stages' own impression"
        )
    few = min(row["seeds"] for one in sets.values() for row in one["trainings"].values())
    held = (
        ""
        if few >= MOST_SEEDS
        else f" Some rows have {few} seed{'s' if few > 1 else ''}: this is what was seen, no claim."
    )
    return (
        f'"Two stages, sharp and free of the anomaly, beat either alone": {"; ".join(said)}. Best in {best} of '
        f"{len(whole)} sets; the expert's picture adds to its own impression's map in {over_first}, is sharper than it in "
        f"{sharper}, and lets less of the defect through than one stage in {cleaner}.{held}\n"
    )


def _mean(values: Sequence[float] | None) -> str:
    """Mean over seeds, with their standard deviation where there are several."""
    if not values:
        return ""
    spread = f" ± {np.std(values):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"
