"""The section `counterfactuals-single` of docs/reference/benchmarks.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.tables import Figures, beyond, seeds_and_means, table

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

HEAD = """\
|  | seed | AUROC | phi | flagged | normality | second | read as normal | FID_N | KID_N | L1 | normals | apart | cosine | \
told | perceptual | noise |"""
SEED = """\
| {name} | {seed} | {detector[auroc]:.3f} | {detector[phi_anomalies]:.2f} / {detector[phi_normals]:.2f} \
| {detector[flagged]:.1%} | **{normality:.1f}** ({explained[normality_each]:.0f}) \
| {second_normality:.1f} ({second[normality_each]:.0f}) | **{read_as_normal:.1%}** ({read_as_normal_each:.0%}) | {fid_n:.1f} \
| {kid_n:.1f} | {l1:.3f} | {normals_l1_max:.3f} | {apart:.3f} | {cosine:.2f} | {concept_accuracy:.1%} | {perceptual:.3f} \
| {noise_pixels:.4f} / {noise_probability:.5f} |"""
MEAN = """\
| *{name}* | *mean ± sd* |  |  |  | {normality:.1f} | {second_normality:.1f} | {read_as_normal:.1%} | {fid_n:.1f} \
| {kid_n:.1f} | {l1_mean:.3f} | {normals_l1_max:.3f} | {apart:.3f} | {cosine:.2f} | {concept_accuracy:.1%} | {perceptual:.3f} \
| {noise_pixels:.4f} |"""
BASE_HEAD = "|  |  | normality | called normal | second | read as normal | FID_N | KID_N | L1 | perceptual |"
BASE = """\
| {name} | {kind} | {normality:.1f} | {explained[flipped]:.1%} | {second_normality:.1f} | {read_as_normal:.1%} | {fid_n:.1f} \
| {kid_n:.1f} | {l1_mean:.3f} | {perceptual:.3f} |"""
BESIDE_NEAREST = """\
Where the generator is better than the nearest train normal, of {count} rows that have both: {told}. An image looked up is a \
real one and no edit of the anomaly.
"""
SIDES = (("read as normal", "read_as_normal", 1), ("FID_N", "fid_n", -1), ("KID_N", "kid_n", -1), ("L1", "l1_mean", -1))


def counterfactuals_single_section(figures: Figures) -> str:
    """Every seed of every row, means of rows with several, baselines, what is missing."""
    rows, settings, judges = figures["rows"], figures["settings"], figures["judges"]
    lines = [
        TEXT.format(
            normal=", ".join(f"{settings['normal'][name]} of {name}" for name in judges),
            second=settings["second"],
            concepts=settings["full"]["concepts"],
            steps=max((own["steps"] for own in rows.values()), default=0),
            images=figures["images"],
            auroc=", ".join(f"{one['second_auroc']:.3f} on {name}" for name, one in judges.items()),
            read=", ".join(f"{one['read_normals']:.1%} of {name}" for name, one in judges.items()),
        ),
        *seeds_and_means(HEAD, SEED, MEAN, rows),
    ]
    if single := [name for name, own in rows.items() if own["sd"] is None]:
        lines.append(f"\nOne seed, so no spread is known: {', '.join(single)}.")
    published = "; ".join(
        f"{method} normality {one['normality']}, FID_N {one['fid_n']}"
        for method, one in figures["published_mnist"].items()
    )
    lines += ["", PUBLISHED.format(published=published)]
    if baselines := figures["baselines"]:
        named = ({"name": name, "kind": kind, **one} for name, own in baselines.items() for kind, one in own.items())
        lines += [BASELINES.format(images=figures["baseline_images"]), *table(BASE_HEAD, BASE, named)]
        lines += ["", _beside_nearest(rows, baselines)]
    lines.append(_failed(rows))
    if figures["missing"]:
        lines.append(f"Not run: {'; '.join(' '.join(one.split()) for one in figures['missing'])}.\n")
    lines.append(f"Cells were measured at commit {', '.join(f'`{one}`' for one in figures['commits'])}.")
    return "\n".join(lines) + "\n"


def _beside_nearest(rows: Figures, baselines: Figures) -> str:
    """Whether a generator is worth more than looking a normal image up, which is no edit of the anomaly at all."""
    both = [(name, rows[name]["mean"], own["nearest train normal"]) for name, own in baselines.items() if name in rows]
    told = [
        f"{title}: {', '.join(better) or 'nowhere'}"
        for title, figure, sign in SIDES
        for better in [[name for name, own, nearest in both if sign * own[figure] > sign * nearest[figure]]]
    ]
    return BESIDE_NEAREST.format(count=len(both), told="; ".join(told))


def _failed(rows: Figures) -> str:
    """What a reader of the table should not have to find: by fixed bounds, those of bench-counterfactuals where it has
    one.
    """
    found: dict[str, list[str]] = {}
    for name, seed, wrong in beyond(rows, _bounds):
        for title in wrong:
            found.setdefault(title, []).append(f"{name} seed {seed}")
    told = "; ".join(f"{title}: {', '.join(found[title])}" for title in BOUNDS if title in found)
    return f"**Fails** by the bounds of `counterfactuals`: {told}.\n" if found else "No bound is missed.\n"


BOUNDS: Mapping[str, Callable[[Figures], bool]] = {
    "normality outside 50 ± 6": lambda one: abs(one["normality"] - 50.0) > 6.0,
    "second outside 50 ± 15": lambda one: abs(one["second_normality"] - 50.0) > 15.0,
    "read as normal below 95 %": lambda one: one["read_as_normal"] < 0.95,
    "FID_N above 30": lambda one: one["fid_n"] > 30.0,
    "normals above .04": lambda one: one["normals_l1_max"] > 0.04,
}


def _bounds(one: Figures) -> dict[str, bool]:
    return {title: missed(one) for title, missed in BOUNDS.items()}
