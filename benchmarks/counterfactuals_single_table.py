"""The section `counterfactuals-single` of docs/reference/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TEXT = """\
`make bench-counterfactuals-single`. One class is normal ({normal}), the other nine are anomalies. A generator (explainer
`diverse`, K = {concepts}, {steps:,} steps) for each detector and seed, trained on the class's train images and the exposure
(MNIST: letters drawn in Matplotlib's fonts; Fashion-MNIST: crops of photographs and game textures): neither detector nor
generator sees an image of another class of the set, so the generator is asked about images unlike those that it learned on.
Judged on the first {images:,} anomalies of the test images at a wanted anomaly probability of 0. Nothing was chosen by test
images here: generator and detectors have the settings of `counterfactuals` (`hsc` its earlier score weight of 4), `fcdd_conv`
those of `hsc`, `dsvdd` the form 1 - exp(-d / median d of held-out normals); only the exposure was, in `one-class`, with half of
dress's test images in sight.

*AUROC*: of the explained detector on all test images; *phi*: its mean anomaly probability of anomalies / normals; *flagged*:
share of anomalies above its threshold. *normality*: AUROC of normal test images against counterfactuals, 50 is ideal, above
they are still anomalous, below more normal than normal; *second*: the same by `{second[method]}` on {second[network]}, seed
{second[seed]}, same data, which explains nothing (AUROC {auroc}). *read as normal*: share that a reader of all ten classes,
trained on train images, reads as the normal class, at least 15 lit pixels asked for (it reads {read} so, see *unchanged* for
what it makes of anomalies): **what the others cannot say, whether the class was reached**. *FID_N*, *KID_N*: Frechet and
unbiased kernel distance to normal test images, 100 as far as the anomalies are, in that reader's 64 features. *L1*, *apart*:
mean |differences| of values on the [-1,1] scale; *normals*: the larger L1 of the concepts on normal test images, which should
stay as they are. *told*: a classifier trained afterwards tells which concept made an image. *perceptual*: mean over the
reader's two convolutions of 1 - cosine between the channels, averaged over places (**not comparable with published LPIPS**).
*noise*: five copies of each of 256 anomalies with noise of variance .01; mean squared difference of the counterfactuals /
Jensen-Shannon divergence of phi.
"""

PUBLISHED = """\
Published for MNIST, mean and spread of all ten classes, EMNIST letters as exposure and another FID network, so **another
experiment with the same names**: {published}.
"""

BASELINES = """\
Baselines on the first {images} of the same anomalies, one image each, seed 0, judged by the detector of their row. FID_N of
{images} images is biased upwards: compare baselines with each other and with *unchanged*, the anomalies as they are.
"""

HEAD = (
    "",
    "seed",
    "AUROC",
    "phi",
    "flagged",
    "normality",
    "second",
    "read as normal",
    "FID_N",
    "KID_N",
    "L1",
    "normals",
    "apart",
    "cosine",
    "told",
    "perceptual",
    "noise",
)
BASE_HEAD = ("", "", "normality", "called normal", "second", "read as normal", "FID_N", "KID_N", "L1", "perceptual")


def counterfactuals_single_section(figures: Mapping[str, Any]) -> str:
    """Every seed of every row, means of rows with several, baselines, what is missing."""
    rows, settings, judges = figures["rows"], figures["settings"], figures["judges"]
    steps = max((row["steps"] for row in rows.values()), default=0)
    lines = [
        TEXT.format(
            normal=", ".join(f"{settings['normal'][name]} of {name}" for name in judges),
            second=settings["second"],
            concepts=settings["full"]["concepts"],
            steps=steps,
            images=figures["images"],
            auroc=_each(judges, "second_auroc", ".3f"),
            read=_each(judges, "read_normals", ".1%"),
        ),
        *_head(HEAD),
    ]
    for name, row in rows.items():
        lines += [_seed_row(name, seed, one) for seed, one in row["seeds"].items()]
        if row["sd"] is not None:
            lines.append(_mean_row(name, row))
    single = [name for name, row in rows.items() if row["sd"] is None]
    if single:
        lines.append(f"\nOne seed, so no spread is known: {', '.join(single)}.")
    lines += ["", PUBLISHED.format(published=_published(figures["published_mnist"]))]
    if figures["baselines"]:
        lines += [BASELINES.format(images=figures["baseline_images"]), *_head(BASE_HEAD)]
        lines += [
            _baseline_row(name, kind, one) for name, own in figures["baselines"].items() for kind, one in own.items()
        ]
        lines += ["", _beside_nearest(rows, figures["baselines"])]
    lines.append(_failed(rows))
    if figures["missing"]:
        lines.append(f"Not run: {'; '.join(' '.join(one.split()) for one in figures['missing'])}.\n")
    lines.append(f"Cells were measured at commit {', '.join(f'`{one}`' for one in figures['commits'])}.")
    return "\n".join(lines) + "\n"


def _beside_nearest(rows: Mapping[str, Any], baselines: Mapping[str, Any]) -> str:
    """Whether a generator is worth more than looking a normal image up, which is no edit of the anomaly at all."""
    both = [(name, rows[name]["mean"], own["nearest train normal"]) for name, own in baselines.items() if name in rows]
    sides = (
        ("read as normal", "read_as_normal", 1),
        ("FID_N", "fid_n", -1),
        ("KID_N", "kid_n", -1),
        ("L1", "l1_mean", -1),
    )
    told = [
        f"{title}: {', '.join(better) or 'nowhere'}"
        for title, figure, sign in sides
        for better in [[name for name, own, nearest in both if sign * own[figure] > sign * nearest[figure]]]
    ]
    return (
        f"Where the generator is better than the nearest train normal, of {len(both)} rows that have both: "
        f"{'; '.join(told)}. An image looked up is a real one and no edit of the anomaly.\n"
    )


def _failed(rows: Mapping[str, Any]) -> str:
    """What a reader of the table should not have to find: by fixed bounds, those of bench-counterfactuals where it has
    one.
    """
    bounds = (
        ("normality outside 50 ± 6", lambda one: abs(one["normality"] - 50.0) > 6.0),
        ("second outside 50 ± 15", lambda one: abs(one["second_normality"] - 50.0) > 15.0),
        ("read as normal below 95 %", lambda one: one["read_as_normal"] < 0.95),
        ("FID_N above 30", lambda one: one["fid_n"] > 30.0),
        ("normals above .04", lambda one: one["normals_l1_max"] > 0.04),
    )
    found = []
    for title, missed in bounds:
        own = [f"{name} seed {seed}" for name, row in rows.items() for seed, one in row["seeds"].items() if missed(one)]
        found += [f"{title}: {', '.join(own)}"] if own else []
    return f"**Fails** by the bounds of `counterfactuals`: {'; '.join(found)}.\n" if found else "No bound is missed.\n"


def _seed_row(name: str, seed: str, one: Mapping[str, Any]) -> str:
    detector = one["detector"]
    cells = [
        f"{detector['auroc']:.3f}",
        f"{detector['phi_anomalies']:.2f} / {detector['phi_normals']:.2f}",
        f"{detector['flagged']:.1%}",
        f"**{one['normality']:.1f}**{_by_concept(one['explained']['normality_each'], '.0f')}",
        f"{one['second_normality']:.1f}{_by_concept(one['second']['normality_each'], '.0f')}",
        f"**{one['read_as_normal']:.1%}**{_by_concept(one['read_as_normal_each'], '.0%')}",
        f"{one['fid_n']:.1f}",
        f"{one['kid_n']:.1f}",
        " / ".join(f"{value:.3f}" for value in one["l1"]),
        f"{one['normals_l1_max']:.3f}",
        f"{one['apart']:.3f}",
        f"{one['cosine']:.2f}",
        f"{one['concept_accuracy']:.1%}",
        f"{one['perceptual']:.3f}",
        f"{one['noise_pixels']:.4f} / {one['noise_probability']:.5f}",
    ]
    return f"| {name} | {seed} | " + " | ".join(cells) + " |"


def _mean_row(name: str, row: Mapping[str, Any]) -> str:
    def told(figure: str, spec: str, scale: float = 1.0) -> str:
        return f"{scale * row['mean'][figure]:{spec}} ± {scale * row['sd'][figure]:{spec}}"

    cells = [
        "",
        "",
        "",
        told("normality", ".1f"),
        told("second_normality", ".1f"),
        told("read_as_normal", ".1f", 100),
        told("fid_n", ".1f"),
        told("kid_n", ".1f"),
        told("l1_mean", ".3f"),
        told("normals_l1_max", ".3f"),
        told("apart", ".3f"),
        told("cosine", ".2f"),
        told("concept_accuracy", ".1f", 100),
        told("perceptual", ".3f"),
        told("noise_pixels", ".4f"),
    ]
    return f"| *{name}* | *mean ± sd* | " + " | ".join(cells) + " |"


def _baseline_row(name: str, kind: str, one: Mapping[str, Any]) -> str:
    cells = [
        f"{one['normality']:.1f}",
        f"{one['explained']['flipped']:.1%}",
        f"{one['second_normality']:.1f}",
        f"{one['read_as_normal']:.1%}",
        f"{one['fid_n']:.1f}",
        f"{one['kid_n']:.1f}",
        f"{one['l1_mean']:.3f}",
        f"{one['perceptual']:.3f}",
    ]
    return f"| {name} | {kind} | " + " | ".join(cells) + " |"


def _published(published: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{method} normality {one['normality']}, FID_N {one['fid_n']}" for method, one in published.items()
    )


def _each(judges: Mapping[str, Any], figure: str, spec: str) -> str:
    return ", ".join(
        f"{one[figure]:{spec}} of {name}" if figure == "read_normals" else f"{one[figure]:{spec}} on {name}"
        for name, one in judges.items()
    )


def _by_concept(values: list[float], spec: str) -> str:
    return f" ({' / '.join(format(value, spec) for value in values)})"


def _head(titles: tuple[str, ...]) -> list[str]:
    return [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
