"""The section `counterfactuals-elpv` of docs/reference/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

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
HEAD = (
    "",
    "twin",
    "flipped",
    "transfer: {0}",
    "drop: {0}",
    "transfer: {1}",
    "drop: {1}",
    "l2",
    "l1",
    "changed",
    "brighter",
    "normality: own / {0} / {1}",
    "FID_N",
    "KID_N",
)


def counterfactuals_elpv_section(figures: Mapping[str, Any]) -> str:
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
    lines = [text, *_detectors(figures), "", *_head([title.format(*judges) for title in HEAD])]
    lines += [_row(*name.rsplit(", ", 1), list(seeds.values()), judges) for name, seeds in figures["rows"].items()]
    lines += [GAPS, *_head(["", "judge", *(cell for title in GAP_MEASURES.values() for cell in (title, "each seed"))])]
    for name, by_judge in figures["gaps"].items():
        for judge, measures in by_judge.items():
            cells = [
                cell
                for one in (measures[measure] for measure in GAP_MEASURES)
                for cell in (interval(one), _each(one["each_seed"]))
            ]
            lines.append(f"| {name} | {judge} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", verdict(figures), LICENCE])


def verdict(figures: Mapping[str, Any]) -> str:
    """Whether the robust twin's counterfactuals transfer better to the first judge, said of each explainer."""
    said = []
    for name in ("sparse", "diverse"):
        for measure, title in GAP_MEASURES.items():
            one = figures["gaps"][name][figures["judge"]][measure]
            holds = "holds" if one["low"] > 0 else "**the opposite holds**" if one["high"] < 0 else "**is not shown**"
            said.append(f"{name}, {title}: {holds} ({interval(one)})")
    return f'"The robust one transfers better", by judge `{figures["judge"]}`: {"; ".join(said)}.'


def interval(one: Mapping[str, Any]) -> str:
    """The difference with both intervals."""
    return (
        f"{one['value']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}] "
        f"([{one['low_of_these_seeds']:+.3f}, {one['high_of_these_seeds']:+.3f}])"
    )


def _detectors(figures: Mapping[str, Any]) -> list[str]:
    lines = _head(
        [
            "detector",
            "AUROC",
            "each seed",
            "flagged: defects",
            "flagged: normals",
            f"AUROC under an l2 attack of {figures['radius']:.3f}",
            "each seed",
            "the same images unmoved",
        ]
    )
    for kind, seeds in figures["detectors"].items():
        each = list(seeds.values())
        clean, moved = ([one[name] for one in each] for name in ("auroc", "auroc_attacked"))
        lines.append(
            f"| {kind} | {mean(clean):.3f} | {_each(clean, '.3f')} | {_mean(each, 'flagged_defects'):.1%} | "
            f"{_mean(each, 'flagged_normals'):.1%} | {mean(moved):.3f} | {_each(moved, '.3f')} | "
            f"{_mean(each, 'auroc_of_attacked_images'):.3f} |"
        )
    lines += [f"| judge {name} | {one['auroc']:.3f} | | | | | | |" for name, one in figures["judges"].items()]
    return [*lines, f"| brightness alone | {figures['brightness_auroc']:.3f} | | | | | | |"]


def _row(name: str, kind: str, seeds: list[Mapping[str, Any]], judges: list[str]) -> str:
    cells = [f"{_mean(seeds, 'flipped'):.1%}"]
    for judge in judges:
        of = [one["judges"][judge] for one in seeds]
        cells += [f"{_mean(of, 'transfer'):.1%}", f"{_mean(of, 'drop'):.2f}"]
    normality = [
        _mean(seeds, "normality"),
        *(_mean([one["judges"][judge] for one in seeds], "normality") for judge in judges),
    ]
    cells += [
        f"{_mean(seeds, 'l2'):.2f}",
        f"{_mean(seeds, 'l1'):.1f}",
        f"{_mean(seeds, 'changed_fraction'):.1%}",
        f"{_mean(seeds, 'brighter'):+.3f}",
        " / ".join(f"{one:.0f}" for one in normality),
        f"{_mean(seeds, 'fid_n'):.0f}",
        f"{_mean(seeds, 'kid_n'):.0f}",
    ]
    return f"| {name} | {'' if name in OF_NO_TWIN else kind} | " + " | ".join(cells) + " |"


def _mean(each: list[Mapping[str, Any]], name: str) -> float:
    return mean(one[name] for one in each)


def _each(values: list[float], spec: str = "+.2f") -> str:
    return ", ".join(f"{value:{spec}}" for value in values)


def _head(titles: list[str]) -> list[str]:
    return [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
