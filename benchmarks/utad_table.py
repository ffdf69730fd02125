"""The section `utad` of docs/reference/benchmarks.md."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.tables import Figures, Spread, head, row

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
HEAD = "| set | training | map | image AUROC | of k-NN | of both | pixel AUROC | AUPRO | seeds | s |"
ROW = "| {set} | {title} | {map} | {auroc} | {knn} | {both} | {pixel} | {aupro} | {seeds} | {seconds} |"
VIEW_HEAD = "| set | training | picture | error | sharp | leak |"
VIEW = "| {set} | {title} | {picture} | {fidelity:.4f} | {sharpness:.3f} | {leak:.3f} |"
CLAIM = """\
{name} ({figure}) {two:.3f} by two stages, {others[0]:.3f} by the impression only, {others[1]:.3f} by one stage, {first:.3f} by \
the two stages' own impression"""
VERDICT = """\
"Two stages, sharp and free of the anomaly, beat either alone": {claims}. Best in {best} of {count} sets; the expert's picture \
adds to its own impression's map in {over_first}, is sharper than it in {sharper}, and lets less of the defect through than one \
stage in {cleaner}.{held}
"""


def utad_section(figures: Figures) -> str:
    """Detection, then reconstructions."""
    sets, missing = figures["sets"], figures["missing"]
    baselines = "; ".join(f"{name} {max(one['baselines'].values()):.3f}" for name, one in sets.items())
    lines, pictures = [TEXT.format(baselines=baselines), *head(HEAD)], head(VIEW_HEAD)
    for name, title, own in ((name, *each) for name, one in sets.items() for each in one["trainings"].items()):
        for number, (of_map, values) in enumerate(own["maps"].items()):
            told = {"map": of_map, "auroc": _mean(values["image_auroc"]), "both": _mean(values["image_auroc_both"])}
            told |= {"pixel": _mean(values.get("pixel_auroc")), "aupro": _mean(values.get("aupro"))}
            if number == 0:
                told |= {"set": name, "title": title, "knn": _mean(values["image_auroc_knn"])}
                told |= {"seeds": str(own["seeds"]), "seconds": f"{own['training_s']:.0f}"}
            lines.append(row(ROW, told))
        views = VIEWS if title == "two stages" else {"m": VIEWS["m"]}
        for number, (view, picture) in enumerate(views.items()):
            told = {"set": name, "title": title} if number == 0 else {}
            pictures.append(row(VIEW, own["reconstructions"][view], picture=picture, **told))
    lines += ["", RECONSTRUCTIONS, *pictures, "", verdict(sets)]
    lines.append(f"\nNot run: {len(missing)} cells{': ' + '; '.join(missing) if missing else ''}.")
    return "\n".join(lines) + "\n"


def verdict(sets: Figures) -> str:
    """Whether two stages beat either alone, set by set, and whether the second does what it is for."""
    whole = {name: one["trainings"] for name, one in sets.items() if len(one["trainings"]) == len(COMPARED)}
    if not whole:
        return "The claim of two stages was not compared: no set has all three trainings.\n"
    claims, met = [], []
    for name, trainings in whole.items():
        figure = "pixel_auroc" if sets[name]["masks"] else "image_auroc"
        two, *others = (float(np.mean(trainings[title]["maps"][of_map][figure])) for title, of_map in COMPARED.items())
        first = float(np.mean(trainings["two stages"]["maps"][WITH_M][figure]))
        expert, impression = (trainings["two stages"]["reconstructions"][view] for view in ("x_hat", "m"))
        alone = trainings["one stage"]["reconstructions"]["m"]
        sharper, cleaner = expert["sharpness"] > impression["sharpness"], expert["leak"] < alone["leak"]
        met.append((two > max(others), two > first, sharper, cleaner))
        shown = figure.replace("_", " ").replace("auroc", "AUROC")
        claims.append(CLAIM.format(name=name, figure=shown, two=two, others=others, first=first))
    few = min(own["seeds"] for one in sets.values() for own in one["trainings"].values())
    held = f" Some rows have {few} seed{'s' if few > 1 else ''}: this is what was seen, no claim."
    counts = dict(zip(("best", "over_first", "sharper", "cleaner"), map(sum, zip(*met, strict=True)), strict=True))
    held = held if few < MOST_SEEDS else ""
    return VERDICT.format(claims="; ".join(claims), count=len(whole), held=held, **counts)


def _mean(values: Sequence[float] | None) -> str:
    """Mean over seeds, with their standard deviation where there are several."""
    if not values:
        return ""
    return f"{Spread(float(np.mean(values)), float(np.std(values))):.3f}" if len(values) > 1 else f"{values[0]:.3f}"
