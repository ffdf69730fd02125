"""The section `transplant` of docs/reference/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.tables import Figures, named, said, table
from benchmarks.transplant_kit.arms import ARMS, MAIN
from benchmarks.transplant_kit.curve import CURVE_PICTURE, has_curve

TEXT = """\
`make bench-transplant`. Flagged test anomalies, at most {images} a training in one order for all trainings, are made normal
by each arm; settings of `transplant` are the product's defaults, chosen on reserved defects and validation normals. ELPV at
128 px unless said otherwise, textures at 96 px on the easy rung with exact masks. Explainer as last changed in commit
`{explainer}`, detectors in `{detectors}`.

*valid*: share of the alternatives (in brackets: of each image's first) that the explained detector calls normal, on the
stored 8-bit image; as in the product, a transplant that stays anomalous is left out where another of the image is normal (the
product does so since these cells were made: it was done to them afterwards).
*transfer*: share that a judge calls normal, of the images that it flags itself. Judges explain nothing and are fitted on the
half of the train normals that gives no donors: `padim` (MobileNetV2, stages 3 and 4), `network` (a small network trained
from nothing on drawn defects and, on ELPV, the 20 known ones that the detector trains on too; on the 28 px sets on their
outliers) and `contrast`, the same on images whose brightness and contrast are taken out. The last was added after the second
was seen to go by brightness on ELPV (it flags a quarter of whole normal cells that were brought to the brightness of a
defective one), which a transplant leaves as it is on purpose. *region*: median share of the pixels where the donor prevails,
of the first alternative, the smallest, and (in brackets) of the mean of all. *changed*: median share of the pixels that
differ by more than 2 of 255 levels. *Frechet*, *KID*: distance to the normal test images in the last stages of MobileNetV2,
in % of that of the very anomalies explained; the judge `padim` looks at earlier stages of the same network, so these two are
not independent of it, and the Frechet distance of few images is biased: compare rows of as many images. *apart*: mean
difference of two alternatives on the [0,1] scale; *likeness*: cosine of two changes. *seam*: mean step of grey across the
region's border, in units of that of normals at the same places (blank where these have none); in brackets, the anomaly
itself there. Intervals (95 %) are
of a bootstrap that draws trainings and images, an image with all its trainings; three trainings are few. *n*: images of each
training.

`nearest normal` is the donor most like the whole image at its brightness, the end of the curve. `random region`: the main
arm's region moved to a random place, same area and donor. `drawn weights`: the same search against an FCDD of drawn weights
whose threshold comes from its own held-out normals, judged by the real one. `black box`: only one number an image can be
asked. `donors from the judges' normals`: the control for the disjoint halves. `autoencoder`: of normals, at half the side
where that is 32 px or more. Diverse generators: not run here, `make bench-counterfactuals-elpv` measures them.
"""

REGION_TEXT = """\
Overlap (IoU) with the exact mask, mean of the images: the first region; the best of the three; the heatmap cut at the
score's threshold (*cut*; the finer heatmap is on another scale than the score, so that level means little to it); cut at its
own level, above which 5 % of the held-out normals have any pixel (*own cut*); and the hottest pixels, as many as the region
has (*hottest*).
"""

JUDGED = ("transfer padim", "transfer network", "transfer network-contrast")
MOST_SEAM = 100.0
HEAD = """\
|  | n | valid (first) | transfer: padim | network | contrast | region (all) | changed | Frechet | KID | apart | likeness | \
seam (before) |"""
ROW = """\
| {name} | {images!c} | {valid:.2f} ({valid, the first[value]:.2f}) | {transfer padim:.2f} | {transfer network:.2f} \
| {transfer network-contrast:.2f} | {region:.2f} ({region, all[value]:.2f}) | {changed:.2f} | {frechet[value]:.0f} \
| {kid[value]:.0f} | {apart[value]:.3f} | {likeness[value]:.3f} | {seam[value]:.2f} ({seam before[value]:.2f}) |"""
OVERLAP_HEAD = "|  | region | best of three | cut | own cut | hottest | area: defect | cut | own cut |"
OVERLAP = """\
| {name} | {iou:.2f} | {best iou:.2f} | {iou of the cut heatmap:.2f} | {iou of the heatmap at its own cut:.2f} \
| {iou of the hottest:.2f} | {area of the defect:.2f} | {area of the cut heatmap:.2f} | {area at its own cut:.2f} |"""
GROUP = """
**{title}.** Detector: AUROC {auroc:.3f}, flags {flagged:.0%} of the anomalies; trainings {trainings!c}. Judges: {judged}.
"""
JUDGE = """\
{name} AUROC {auroc:.3f}, flags {flagged:.0%} of the anomalies and {false_alarms:.0%} of the normals"""
TOUCHED = """
The detector of drawn weights flags {touched:.2f} of these images and leaves the others as they are. Of those that it flags \
alone: valid {valid, of the touched:.2f}; transfer to padim {transfer padim, of the touched:.2f}; region \
{region, of the touched:.2f}."""
CURVE = "\nTransfer against area, mean of all alternatives, on the same images (n: {images!c}):\n"
SPEED_TEXT = """\
Speed, one run: `transplant` with K = {alternatives} and `sparse` in turns on the same {images} flagged ELPV cells at {px} px,
the default `fcdd` on lite0, batches side by side on {threads} threads as in a night; load average {load_average_before:.1f}
before and {load_average_after:.1f} after, and **other work that shares the cores slows both**: CPU seconds tell more then.
"""
SPEED_HEAD = "|  | images a second | each round | CPU seconds an image |"
SPEED = "| {name} | {images_per_second:.2f} | {each_round!c:.2f} | {cpu_seconds_an_image:.2f} |"
MEMORY = "{size} donors {peak_mb:,.0f} MB, with two {peak_mb_with_two_donors:,.0f} MB"


def transplant_section(figures: Figures) -> str:
    """What was asked, a table a data set, what is required of it, speed."""
    told = figures["settings"]
    lines = [
        TEXT.format(images=figures["images"], explainer=told["explainer_commit"], detectors=told["detector_commit"])
    ]
    if lacking := [title for title in told["blocks"] if title not in figures["groups"]]:
        lines.append(f"Not measured: {'; '.join(lacking)}.")
    lines += [line for title, group in _in_order(figures) for line in _group(title, group)]
    lines += ["", *verdict(figures)]
    lines += ["", f"![Transfer against area](../images/{CURVE_PICTURE})"] if has_curve(figures) else []
    if speed := figures.get("speed"):
        memory = "; ".join(said(MEMORY, one, size=size) for size, one in speed["memory"].items())
        lines += ["", SPEED_TEXT.format(**speed), *table(SPEED_HEAD, SPEED, named(speed["arms"]))]
        lines.append(f"\nPeak memory of a process that explains eight images: {memory}.")
    return "\n".join(lines) + "\n"


def verdict(figures: Figures) -> list[str]:
    """What was required, and by how much it is met or missed."""
    lines, targets = [], figures["settings"]["targets"]
    for title, group in _in_order(figures):
        main = group["rows"][MAIN]
        if title.startswith("ELPV"):
            asked = [("valid", "valid", 1), *((judge, "transfer", 1) for judge in JUDGED)]
            asked += [("region", "region", -1), ("frechet", "frechet", -1)]
        elif title.startswith("Textures"):
            asked = [("iou", "iou", 1)]
        else:
            continue
        told = [_asked(name, main[name]["value"], targets[goal], sign) for name, goal, sign in asked if name in main]
        if "iou" in main and (cut := main.get("iou of the cut heatmap")):
            times = main["iou"]["value"] / max(cut["value"], 1e-9)
            told.append(_asked("iou, times that of the cut heatmap", times, targets["iou of the cut"], 1))
        lines.append(f"Required of {title}: {'; '.join(told)}.")
    return lines


def _in_order(figures: Figures) -> list[tuple[str, Figures]]:
    return [(title, figures["groups"][title]) for title in figures["settings"]["blocks"] if title in figures["groups"]]


def missing(group: Figures) -> list[str]:
    """Arms without a figure in a block."""
    return [arm.title for arm in ARMS if arm.title not in group["rows"]]


def _with_steps(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without its seam where normals have no step to compare it with, as on the black around a digit."""
    has_steps = row.get("seam", {"value": 0.0})["value"] < MOST_SEAM
    return {name: one for name, one in row.items() if has_steps or not name.startswith("seam")}


def _asked(name: str, value: float, target: float, sign: int) -> str:
    met = sign * value >= sign * target
    return f"{name} {value:.2f} ({'at least' if sign > 0 else 'at most'} {target:g}: {'met' if met else '**missed**'})"


def _group(title: str, group: Figures) -> list[str]:
    told, rows = group["detectors"], group["rows"]
    judged = ", ".join(said(JUDGE, one, name=name) for name, one in told["judges"].items())
    trainings = group["seeds"][: len(rows[MAIN]["images"])]
    ordered = [{"name": arm.title, **_with_steps(rows[arm.title])} for arm in ARMS if arm.title in rows]
    lines = [said(GROUP, told, title=title, trainings=trainings, judged=judged), *table(HEAD, ROW, ordered)]
    lines += [said(TOUCHED, one) for one in rows.values() if "touched" in one]
    if lacking := missing(group):
        lines.append(f"\nNot measured here: {'; '.join(lacking)}.")
    if len(group["curve"]) > 1:
        keys = ("region", *(f"transfer {judge}" for judge in told["judges"]))
        template = "| {point} | " + " | ".join(f"{{{key}:.2f}}" for key in keys) + " |"
        lines += [said(CURVE, group["curve"][0]), *table(f"|  | {' | '.join(keys)} |", template, group["curve"])]
    if "iou" in rows[MAIN]:
        lines += ["", REGION_TEXT, *table(OVERLAP_HEAD, OVERLAP, [one for one in ordered if "iou" in one])]
    return lines
