"""The section `counterfactuals-elpv` of docs/reference/benchmarks.md."""

from __future__ import annotations

from benchmarks.tables import Figures, averaged, head, holds, row

TEXT = """\
`make bench-counterfactuals-elpv`. Real defects of solar cells (ELPV, protocol peer-0, 64 px). For each of the seeds
{seeds} one detector (`{method}`, network `{network}`, {steps} steps, {known} known defects and synthetic ones) is trained
twice, plain and with the setting `robust` (radii {normals} and {anomalies} at 3x32x32 values, {inner} inner steps), all
else equal. Explained are the first {images} test defects by image_id that both twins and the judge `{judge}` flag
({distinct} different ones over the seeds).

A *judge* is a detector that explains nothing: `fcdd` is another kind of method (features of a frozen pretrained network),
`hsc` another objective, network and seed. *transfer*: the share of counterfactuals that the judge calls normal, by its
own threshold, which held-out normals gave it, of those whose original it flags. *drop*: how far its score falls, in
standard deviations of its held-out normals. *flipped*: the same share by the explained detector itself. *l2*, *l1*: size
of the change on [0,1] values; *changed*: share of the pixels; *brighter*: change of the mean, of a range of 1.
*normality*: AUROC of normal test images against counterfactuals, 50 is ideal, by the explained detector and by each
judge. *FID_N*, *KID_N*: distance to the normal test images in features of MobileNetV2, which is no trunk of any detector
here, 100 as far as the defects are; the Frechet distance of some 100 images is biased, compare rows only. Baselines: `l2
attack` is `sparse` with p = 2; `nearest normal` the nearest train image that the twin calls normal; `autoencoder` what an
autoencoder of normals makes of the defect. *sparse, as far as robust*: the plain twin's sparse change, made as long (l2)
as the robust twin's of the same image, which tells whether a change transfers because of what it is or because it is
large; *brightened, as far as robust*: all pixels brighter alike, to the same l2, since defective cells are darker. Means
of the seeds.
"""

GAPS = """\

Robust minus plain, on the same images, with the 95 % interval of a bootstrap that draws seeds and images (in brackets
after it: of images alone, these seeds as they are). Three seeds are few. Above 0 the robust twin's counterfactuals
transfer better; the two last compare its sparse ones with another change of the same l2. *drops more*: the share of
images whose score drops more by the robust twin's, minus one half: means are pulled by a few images that look very wrong.
"""

LICENCE = """\

ELPV's pictures are CC BY-NC-SA 4.0 and none is in this repository; the command writes a sheet of them to
`var/bench-counterfactuals-elpv/sheet.png`.
"""

GAP_MEASURES = {"transfer": "transfer", "drop": "drop", "more": "drops more"}
OF_NO_TWIN = ("autoencoder", "brightened, as far as robust")
DETECTOR_HEAD = """\
| detector | AUROC | each seed | flagged: defects | flagged: normals | AUROC under an l2 attack of {radius:.3f} | each seed | \
the same images unmoved |"""
DETECTOR = """\
| {kind} | {auroc:.3f} | {clean!c:.3f} | {flagged_defects:.1%} | {flagged_normals:.1%} | {auroc_attacked:.3f} | {moved!c:.3f} \
| {auroc_of_attacked_images:.3f} |"""
HEAD = """\
|  | twin | flipped | transfer: {0} | drop: {0} | transfer: {1} | drop: {1} | l2 | l1 | changed | brighter | \
normality: own / {0} / {1} | FID_N | KID_N |"""
ROW = """\
| {name} | {kind} | {flipped:.1%} | {judged[0][transfer]:.1%} | {judged[0][drop]:.2f} | {judged[1][transfer]:.1%} \
| {judged[1][drop]:.2f} | {l2:.2f} | {l1:.1f} | {changed_fraction:.1%} | {brighter:+.3f} \
| {normality:.0f} / {judged[0][normality]:.0f} / {judged[1][normality]:.0f} | {fid_n:.0f} | {kid_n:.0f} |"""
INTERVAL = "{value:+.3f} [{low:+.3f}, {high:+.3f}] ([{low_of_these_seeds:+.3f}, {high_of_these_seeds:+.3f}])"


def counterfactuals_elpv_section(figures: Figures) -> str:
    """What was asked, detectors, rows, differences, verdict."""
    settings, judges = figures["settings"], list(figures["judges"])
    robust, each = settings["robust"], list(figures["images"].values())
    text = TEXT.format(
        seeds=", ".join(figures["images"]),
        method=settings["method"],
        network=settings["detector"]["network"],
        steps=settings["detector"]["min_steps"],
        known=figures["known"],
        normals=robust["radius_normals"],
        anomalies=robust["radius_anomalies"],
        inner=robust["steps"],
        judge=figures["judge"],
        distinct=figures["distinct_images"],
        images=min(each) if min(each) == max(each) else f"{min(each)} to {max(each)}",
    )
    lines = [text, *_detectors(figures), "", *head(HEAD.format(*judges))]
    for title, seeds in figures["rows"].items():
        (name, kind), one = title.rsplit(", ", 1), averaged(list(seeds.values()))
        judged = [one["judges"][judge] for judge in judges]
        lines.append(row(ROW, one, name=name, kind="" if name in OF_NO_TWIN else kind, judged=judged))
    lines += [
        GAPS,
        *head("|  | judge | " + " | ".join(f"{title} | each seed" for title in GAP_MEASURES.values()) + " |"),
    ]
    for name, by_judge in figures["gaps"].items():
        for judge, measures in by_judge.items():
            cells = (row(INTERVAL + " | {each_seed!c:+.2f}", measures[measure]) for measure in GAP_MEASURES)
            lines.append(f"| {name} | {judge} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", verdict(figures), LICENCE])


def verdict(figures: Figures) -> str:
    """Whether the robust twin's counterfactuals transfer better to the first judge, said of each explainer."""
    told = []
    for name in ("sparse", "diverse"):
        for measure, title in GAP_MEASURES.items():
            one = figures["gaps"][name][figures["judge"]][measure]
            told.append(f"{name}, {title}: {holds(one['low'], one['high'])} ({INTERVAL.format(**one)})")
    return f'"The robust one transfers better", by judge `{figures["judge"]}`: {"; ".join(told)}.'


def _detectors(figures: Figures) -> list[str]:
    lines = head(DETECTOR_HEAD.format(radius=figures["radius"]))
    for kind, seeds in figures["detectors"].items():
        each = list(seeds.values())
        clean, moved = ([one[name] for one in each] for name in ("auroc", "auroc_attacked"))
        lines.append(row(DETECTOR, averaged(each), kind=kind, clean=clean, moved=moved))
    known = {f"judge {name}": one["auroc"] for name, one in figures["judges"].items()}
    known["brightness alone"] = figures["brightness_auroc"]
    return [*lines, *(f"| {name} | {value:.3f} | | | | | | |" for name, value in known.items())]
