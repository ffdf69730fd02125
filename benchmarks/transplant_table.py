"""The section `transplant` of docs/reference/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.transplant_kit.arms import ARMS, MAIN
from benchmarks.transplant_kit.curve import CURVE_PICTURE, has_curve

Figures = Mapping[str, Any]

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
region's border, in units of that of normals at the same places; in brackets, the anomaly itself there. Intervals (95 %) are
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
HEAD = (
    "",
    "n",
    "valid (first)",
    "transfer: padim",
    "network",
    "contrast",
    "region (all)",
    "changed",
    "Frechet",
    "KID",
    "apart",
    "likeness",
    "seam (before)",
)
SPEED_TEXT = """\
Speed, one run: `transplant` with K = {alternatives} and `sparse` in turns on the same {images} flagged ELPV cells at {px} px,
the default `fcdd` on lite0, batches side by side on {threads} threads as in a night; load average {load_average_before:.1f}
before and {load_average_after:.1f} after, and **other work that shares the cores slows both**: CPU seconds tell more then.
"""


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
    if figures.get("speed"):
        lines += ["", *_speed(figures["speed"])]
    return "\n".join(lines) + "\n"


def verdict(figures: Figures) -> list[str]:
    """What was required, and by how much it is met or missed."""
    lines, targets = [], figures["settings"]["targets"]
    for title, group in _in_order(figures):
        row = group["rows"][MAIN]
        if title.startswith("ELPV"):
            asked = [
                ("valid", "valid", 1),
                *((judge, "transfer", 1) for judge in JUDGED),
                ("region", "region", -1),
                ("frechet", "frechet", -1),
            ]
        elif title.startswith("Textures"):
            asked = [("iou", "iou", 1)]
        else:
            continue
        told = [_asked(name, row[name]["value"], targets[target], sign) for name, target, sign in asked if name in row]
        if "iou" in row and "iou of the cut heatmap" in row:
            told.append(
                _asked(
                    "iou, times that of the cut heatmap",
                    row["iou"]["value"] / max(row["iou of the cut heatmap"]["value"], 1e-9),
                    targets["iou of the cut"],
                    1,
                )
            )
        lines.append(f"Required of {title}: {'; '.join(told)}.")
    return lines


def _in_order(figures: Figures) -> list[tuple[str, Figures]]:
    return [(title, figures["groups"][title]) for title in figures["settings"]["blocks"] if title in figures["groups"]]


def _rows(group: Figures) -> list[tuple[str, Figures]]:
    return [(arm.title, group["rows"][arm.title]) for arm in ARMS if arm.title in group["rows"]]


def missing(group: Figures) -> list[str]:
    """Arms without a figure in a block."""
    return [arm.title for arm in ARMS if arm.title not in group["rows"]]


def _asked(name: str, value: float, target: float, sign: int) -> str:
    met = sign * value >= sign * target
    return f"{name} {value:.2f} ({'at least' if sign > 0 else 'at most'} {target:g}: {'met' if met else '**missed**'})"


def _group(title: str, group: Figures) -> list[str]:
    told = group["detectors"]
    judges = ", ".join(
        f"{name} AUROC {one['auroc']:.3f}, flags {one['flagged']:.0%} of the anomalies and "
        f"{one['false_alarms']:.0%} of the normals"
        for name, one in told["judges"].items()
    )
    lines = [
        f"\n**{title}.** Detector: AUROC {told['auroc']:.3f}, flags {told['flagged']:.0%} of the anomalies; trainings "
        f"{_each(group['seeds'][: len(group['rows'][MAIN]['images'])])}. Judges: {judges}.\n",
        *_table(HEAD),
    ]
    lines += [_row(name, row) for name, row in _rows(group)]
    lines += [_touched(row) for row in group["rows"].values() if "touched" in row]
    if lacking := missing(group):
        lines.append(f"\nNot measured here: {'; '.join(lacking)}.")
    if len(group["curve"]) > 1:
        keys = ("region", *(f"transfer {judge}" for judge in told["judges"]))
        lines += [
            "\nTransfer against area, mean of all alternatives, on the same images (n: "
            f"{_each(group['curve'][0]['images'])}):\n",
            *_table(("", *keys)),
        ]
        lines += [
            f"| {one['point']} | " + " | ".join(_share(one[key]) for key in keys) + " |" for one in group["curve"]
        ]
    if "iou" in group["rows"][MAIN]:
        names = {
            "iou": "region",
            "best iou": "best of three",
            "iou of the cut heatmap": "cut",
            "iou of the heatmap at its own cut": "own cut",
            "iou of the hottest": "hottest",
        }
        lines += ["", REGION_TEXT, *_table(("", *names.values(), "area: defect", "cut", "own cut"))]
        areas = ("area of the defect", "area of the cut heatmap", "area at its own cut")
        lines += [
            f"| {name} | " + " | ".join(_value(row, key) for key in (*names, *areas)) + " |"
            for name, row in _rows(group)
            if "iou" in row
        ]
    return lines


def _row(name: str, row: Figures) -> str:
    region = f"{_value(row, 'region')} ({row['region, all']['value']:.2f})" if "region" in row else ""
    seam = f"{row['seam']['value']:.2f} ({row['seam before']['value']:.2f})" if "seam" in row else ""
    valid = f"{_value(row, 'valid')} ({row['valid, the first']['value']:.2f})"
    cells = [
        _each(row["images"]),
        valid,
        *(_value(row, key) for key in JUDGED),
        region,
        _value(row, "changed"),
        *(f"{row[key]['value']:.0f}" for key in ("frechet", "kid")),
        *(_bare(row, key) for key in ("apart", "likeness")),
        seam,
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def _touched(row: Figures) -> str:
    told = "; ".join(
        f"{title} {_value(row, f'{name}, of the touched')}"
        for title, name in (("valid", "valid"), ("transfer to padim", "transfer padim"), ("region", "region"))
    )
    return (
        f"\nThe detector of drawn weights flags {_share(row['touched'])} of these images and leaves the others as they "
        f"are. Of those that it flags alone: {told}."
    )


def _speed(speed: Figures) -> list[str]:
    lines = [SPEED_TEXT.format(**speed), *_table(("", "images a second", "each round", "CPU seconds an image"))]
    for name, one in speed["arms"].items():
        lines.append(
            f"| {name} | {one['images_per_second']:.2f} | {', '.join(f'{each:.2f}' for each in one['each_round'])} | "
            f"{one['cpu_seconds_an_image']:.2f} |"
        )
    told = "; ".join(
        f"{size} donors {one['peak_mb']:,.0f} MB, with two {one['peak_mb_with_two_donors']:,.0f} MB"
        for size, one in speed["memory"].items()
    )
    return [*lines, f"\nPeak memory of a process that explains eight images: {told}."]


def _value(row: Figures, name: str) -> str:
    return _share(row[name]) if name in row else ""


def _each(counts: list[int]) -> str:
    return ", ".join(map(str, counts))


def _bare(row: Figures, name: str) -> str:
    return f"{row[name]['value']:.3f}" if name in row else ""


def _share(one: Figures) -> str:
    return f"{one['value']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"


def _table(titles: tuple[str, ...]) -> list[str]:
    return [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
