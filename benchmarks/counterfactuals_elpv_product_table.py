"""The section `counterfactuals-elpv-product` of docs/reference/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

TEXT = """\
`make bench-counterfactuals-elpv`. What the product makes of real defects: data set `elpv`, detector `fcdd` and, for it, the
generator `diverse` with the settings that `xadflow retrain` takes; seeds {seeds}, the first {images} flagged test defects of
each, {px}. The judge is a PaDiM on another trunk (AUROC {auroc:.3f}), fitted on {normals} train normals that gave no donors
and that no companion of the training was fitted on. Neither test nor gate was looked at while choosing.

*normal*: the share that the explained detector calls normal, of each concept. *transfer*: the share that the judge calls
normal, of the defects it flags, with the 95 % interval of a bootstrap over seeds and images. *drop*: how far its score falls,
in standard deviations of its held-out normals. *Frechet*, *KID*: distance to normal test images in features of MobileNetV2,
100 as far as the defects are; the interval is from random halves of the images. *likeness*: largest cosine of two edits of
an image; *apart*: least mean difference of two alternatives. *changed*: share of the pixels that differ by more than 2 of
255. *normals change*: as a share of how much the defects do; in brackets where the generator may change every place.
"""

HEAD = ("", "normal", "transfer", "drop", "Frechet", "KID", "likeness", "apart", "changed", "normals change")


def counterfactuals_elpv_product_section(figures: Mapping[str, Any]) -> str:
    """What was asked, a row an explainer, what the training took, the gate's rules."""
    seeds = list(figures["images"])
    judge, given = figures["judge"], figures["settings"]["generator"]
    each = list(figures["images"].values())
    size = "at their whole size" if given.get("size_px") is None else f"at {given['size_px']} px"
    lines = [
        TEXT.format(
            seeds=", ".join(seeds),
            images=each[0] if min(each) == max(each) else f"{min(each)} to {max(each)}",
            px=size,
            auroc=judge["auroc"],
            normals=judge["normals"],
        ),
        "| " + " | ".join(HEAD) + " |",
        "|---" * len(HEAD) + "|",
    ]
    lines += [_row(name, list(of.values()), figures["intervals"][name]) for name, of in figures["rows"].items()]
    took = list(figures["trainings"].values())
    minutes = mean(one["cpu_seconds"] for one in took) / 60
    lines.append(
        f"\nTraining of the generator: {minutes:.1f} minutes of one processor, pairs and companions included. "
        f"{verdict(figures)}"
    )
    return "\n".join(lines) + "\n"


def verdict(figures: Mapping[str, Any]) -> str:
    """By how much the generator misses the gate's rules on these images, which are not those of the gate."""
    rules, missed = figures["settings"]["gate"], []
    of = list(figures["rows"]["diverse"].values())
    for title, value, limit, least in (
        ("normal, worst concept", mean(min(one["share_normal"]) for one in of), rules["min_share_normal"], True),
        ("likeness", mean(one.get("likeness", 0.0) for one in of), rules["max_likeness"], False),
        ("apart", mean(one.get("apart", 1.0) for one in of), rules["min_apart"], True),
        ("Frechet", mean(one["frechet"] for one in of), rules["max_frechet"], False),
        (
            "normals change",
            mean(one["change_of_normals_anywhere"] for one in of),
            rules["max_change_of_normals"],
            False,
        ),
    ):
        if value < limit if least else value > limit:
            missed.append(f"{title} is {value:.3g}, {'at least' if least else 'at most'} {limit:g} is asked")
    return (
        f"By the gate's rules, on these images: {'; '.join(missed)}." if missed else "It keeps every rule of the gate."
    )


def _row(name: str, seeds: list[Mapping[str, Any]], intervals: Mapping[str, Any]) -> str:
    normal = " / ".join(f"{mean(values):.0%}" for values in zip(*(one["share_normal"] for one in seeds), strict=True))
    transfer, frechet = intervals["transfer"], intervals["frechet"]
    free = [one["change_of_normals_anywhere"] for one in seeds if "change_of_normals_anywhere" in one]
    cells = [
        normal,
        f"{transfer['value']:.1%} [{transfer['low']:.1%}, {transfer['high']:.1%}]",
        f"{_mean(seeds, 'drop'):.2f}",
        f"{frechet['value']:.0f} [{frechet['low']:.0f}, {frechet['high']:.0f}]",
        f"{_mean(seeds, 'kid'):.0f}",
        *(
            f"{_mean(seeds, key):.{digits}f}" if key in seeds[0] else ""
            for key, digits in (("likeness", 2), ("apart", 3))
        ),
        f"{_mean(seeds, 'changed'):.1%}",
        f"{_mean(seeds, 'change_of_normals'):.2f}" + (f" ({mean(free):.2f})" if free else ""),
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def _mean(seeds: list[Mapping[str, Any]], key: str) -> float:
    return mean(float(one[key]) for one in seeds)
