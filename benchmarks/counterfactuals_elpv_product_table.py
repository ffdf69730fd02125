"""The section `counterfactuals-elpv-product` of docs/reference/benchmarks.md."""

from __future__ import annotations

from statistics import mean

from benchmarks.tables import Figures, averaged, head, row

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

HEAD = "|  | normal | transfer | drop | Frechet | KID | likeness | apart | changed | normals change |"
ROW = """\
| {name} | {share_normal:.0%} | {transfer_of:.1%} | {drop:.2f} | {frechet_of:.0f} | {kid:.0f} | {likeness:.2f} | {apart:.3f} \
| {changed:.1%} | {change_of_normals:.2f}{free} |"""
TOOK = "\nTraining of the generator: {minutes:.1f} minutes of one processor, pairs and companions included. {verdict}"


def counterfactuals_elpv_product_section(figures: Figures) -> str:
    """What was asked, a row an explainer, what the training took, the gate's rules."""
    judge, given, each = figures["judge"], figures["settings"]["generator"], list(figures["images"].values())
    size = "at their whole size" if given.get("size_px") is None else f"at {given['size_px']} px"
    images = each[0] if min(each) == max(each) else f"{min(each)} to {max(each)}"
    lines = [TEXT.format(seeds=", ".join(figures["images"]), images=images, px=size, **judge), *head(HEAD)]
    for name, seeds in figures["rows"].items():
        one, told = averaged(list(seeds.values())), figures["intervals"][name]
        free = f" ({one['change_of_normals_anywhere']:.2f})" if "change_of_normals_anywhere" in one else ""
        lines.append(row(ROW, one, name=name, free=free, transfer_of=told["transfer"], frechet_of=told["frechet"]))
    minutes = averaged(list(figures["trainings"].values()))["cpu_seconds"] / 60
    return "\n".join([*lines, TOOK.format(minutes=minutes, verdict=verdict(figures))]) + "\n"


def verdict(figures: Figures) -> str:
    """By how much the generator misses the gate's rules on these images, which are not those of the gate."""
    rules, missed = figures["settings"]["gate"], []
    seeds = list(figures["rows"]["diverse"].values())
    of = {"likeness": 0.0, "apart": 1.0} | averaged(seeds)
    for title, value, rule in (
        ("normal, worst concept", mean(min(one["share_normal"]) for one in seeds), "min_share_normal"),
        ("likeness", of["likeness"], "max_likeness"),
        ("apart", of["apart"], "min_apart"),
        ("Frechet", of["frechet"], "max_frechet"),
        ("normals change", of["change_of_normals_anywhere"], "max_change_of_normals"),
    ):
        least, limit = rule.startswith("min"), rules[rule]
        if value < limit if least else value > limit:
            missed.append(f"{title} is {value:.3g}, {'at least' if least else 'at most'} {limit:g} is asked")
    return (
        f"By the gate's rules, on these images: {'; '.join(missed)}." if missed else "It keeps every rule of the gate."
    )
