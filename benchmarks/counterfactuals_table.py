"""The section `counterfactuals` of docs/reference/benchmarks.md."""

from __future__ import annotations

from benchmarks.tables import Figures, beyond, seeds_and_means, table, value_range

PICTURE = "../images/counterfactuals-coloured-mnist.png"

TEXT = """\
`make bench-counterfactuals`. Coloured-MNIST of arXiv 2402.14469: normal is cyan with any digit, or a 1 in any colour. One
generator (explainer `diverse`, K = {concepts}, {steps:,} steps) for each detector and seed; judged on the first {images:,}
anomalies of the test digits at a wanted anomaly probability of 0. **The outlier exposure of detector and generator is train
digits recoloured to any other colour than cyan, without labels, of which a first round of the detector drops what it calls
normal itself ({kept} of {exposure:,} stay; of those {ones:.1%} are ones): whoever knows that only cyan is to be recoloured
nearly knows the anomalies, so this is nearly supervision.** Detectors: AUROC {auroc} on all test digits.

*normality*: AUROC of normal test digits against counterfactuals, 50 is ideal, above they are still anomalous; *second*: the
same by a detector of another network, seed and exposure (true anomalies of train digits), which explains nothing; in brackets
each concept, first the one that recolours. *FID_N*: Frechet distance of the union of the concepts to normal test digits, 100
as far as the anomalies are, features of a network that reads digit and colour; *KID_N* the same with the unbiased kernel
distance. *by definition*, *colour only*, *digit only*, *strict*, *loose*: by readers of digit ({digits:.1%} right on test
digits) and colour ({colours:.1%}), an image of fewer than 15 lit pixels counting as nothing; *strict*: one concept recolours
and keeps the digit **and** the other makes a 1 and keeps the colour; *loose*: one gives cyan and no 1, the other a 1 that is
not cyan. *L1* and *apart* are mean |differences| of values on the [-1,1] scale; *normals* is the larger L1 of the concepts on
normal test digits, which should stay as they are. *told*: a classifier trained afterwards tells which concept made an image.
*substitution*: test AUROC of the detector trained on counterfactuals of train digits in the place of normals. *perceptual*:
mean over both convolutions of the network of FID_N of 1 - cosine between the channels of an image and of its counterfactual,
averaged over places (0 equal, 1 at most; **not comparable with published LPIPS**). *noise*: five copies of each of the first
256 anomalies with Gaussian noise of variance .01 on the [-1,1] scale; mean squared difference of their counterfactuals to
those of the image / Jensen-Shannon divergence (nats, at most .69) of the explained detector's anomaly probabilities of both.
*seeds*: mean |difference| between the counterfactuals of two seeds, detectors and generators, concepts matched by the
permutation that makes it smallest, mean of the pairs; compare it with L1 and *apart*. No judge took part in a training.
Settings of the generator were tried on other anomalies of the test digits (the 5001st to the 6000th, one seed), those of the
detector on all test digits.{of_method} The score weight
of hsc was 4 before: one seed's normality was too high on the judged anomalies, and on the other ones too, before it was raised.
"""

WANTED = """\
Wanted: normality 50 +- 6, FID_N at most 30, by definition at least 95 %, loose at least 90 %, strict at least 70 % (aim 90),
normals at most .04, second within 50 +- 15 for each concept (an aim). Published for BCE (letters as exposure,
another FID network, concept accuracy by the classifier trained along): normality {normality}, FID_N {fid_n},
concept accuracy {concept_accuracy}.
"""

ABLATIONS = """\
`no-hinge`: without the hinge on the cosine of the edits; `no-discriminator`: without the adversarial term; `cycle`: with the
cycle terms at weight 5. A row of one seed has no spread.
"""

BASELINES = """\
Baselines on the first {baseline_images} of the same anomalies, one image each, detector bce, seed 0. Nearest normal: of those
train images that the detector calls normal; l2 attack and sparse: the explainer `sparse` with p = 2 and as it comes;
autoencoder: what one trained on the normals makes of the anomaly. *Recoloured by hand* is no method: it shows what the
figures say of a perfect edit. FID_N of one concept is high even then, because it covers one of two kinds of normal images.
"""

OF_METHOD = """ The generator of `{method}` has the settings {settings} beyond the defaults: near normal images its score is
so flat that the plain score term stops pulling before an edit is as normal as a normal image (looked at on the same other
anomalies)."""

CONTROLS = """\
**Sanity controls** (bce, seed 0). *Random weights*: sparse counterfactuals for the same network without a training step
(AUROC {random[auroc]:.3f}), its threshold from the held-out normals as always: it flags {random[flagged]:.1%} of the first
{random[images]} anomalies, {random[flipped]:.1%} of their counterfactuals pass its threshold (those of images it does not
flag did before), and {random[normal_by_definition]:.1%} are normal by definition ({random[normal_by_definition_flagged]:.1%}
of those flagged): what a detector does not know must not appear in its counterfactuals, and for the trained detector stands
in the row *sparse* of the baselines. *Relabelled*: the same training with {relabelled[definition]} as normal (AUROC
{relabelled[auroc]:.4f} by that definition), a generator of {relabelled[steps]} steps, the first {relabelled[images]} test
digits that are normal by neither definition: {relabelled[share_normal][relabelled]:.1%} of its counterfactuals are normal by
the relabelled definition, {relabelled[share_normal][original]:.1%} by the original one{explained}. *Normal to normal*: column
*normals*, {normals} in all rows.
"""

SEED_HEAD = """\
|  | seed | normality | second | FID_N | KID_N | by definition | colour only | digit only | strict | loose | L1 | normals | \
apart | cosine | told | substitution | perceptual | noise | seeds |"""
SEED = """\
| {name} | {seed} | **{explained[normality]:.1f}** ({roles[normality]:.0f}) | {second[normality]:.1f} ({roles[second]:.0f}) \
| {fid_n:.1f} | {kid_n:.1f} | {normal_by_definition:.1%} | {roles[colour_only]:.1%} | {roles[digit_only]:.1%} | **{strict:.1%}** \
| **{loose:.1%}** | {roles[l1]:.3f} | {normals_l1_max:.3f} | {apart:.3f} | {cosine:.2f} | {concept_accuracy:.1%} \
| {substitution_auroc:.3f} | {perceptual:.3f} | {noise_pixels:.4f} / {noise_probability:.4f} |  |"""
MEAN = """\
| *{name}* | *mean ± sd* | {normality:.1f} | {second_normality:.1f} | {fid_n:.1f} | {kid_n:.1f} | {normal_by_definition:.1%} |  |  \
| {strict:.1%} | {loose:.1%} | {l1_mean:.3f} | {normals_l1_max:.3f} | {apart:.3f} | {cosine:.2f} | {concept_accuracy:.1%} \
| {substitution_auroc:.3f} | {perceptual:.3f} | {noise_pixels:.4f} | {seed_difference:.3f} |"""
BASE_HEAD = """\
|  | normality | second | called normal by second | FID_N | by definition | colour only | digit only | L1 | perceptual |"""
BASE = """\
| {name} | {normality:.1f} | {second_normality:.1f} | {second[flipped]:.1%} | {fid_n:.1f} | {normal_by_definition:.1%} \
| {colour_only[0]:.1%} | {digit_only[0]:.1%} | {l1_mean:.3f} | {perceptual:.3f} |"""
OF_FIRST = """\
; of those of the first generator of the table ({steps:,} steps, {images} such images) {share_normal[relabelled]:.1%} and \
{share_normal[original]:.1%}"""


def counterfactuals_section(figures: Figures) -> str:
    """Every seed of every row, means, baselines, what is missing, the picture."""
    rows, settings = figures["rows"], figures["settings"]
    each = [one for own in rows.values() for one in own["seeds"].values()]
    detectors = [one["detector"] for one in each]
    text = TEXT.format(
        concepts=settings["full"]["concepts"],
        steps=max((own["steps"] for own in rows.values()), default=0),
        images=figures["images"],
        kept=value_range([one["exposure_kept"] for one in detectors], ",.0f"),
        exposure=settings["sizes"]["exposure"],
        ones=max((one["exposure_ones"] for one in detectors), default=0.0),
        auroc=value_range([one["auroc"] for one in detectors], ".4f"),
        **figures["readers"],
        of_method="".join(
            OF_METHOD.format(method=method, settings=", ".join(f"`{name}: {own[name]}`" for name in own))
            for method, own in settings.get("of_method", {}).items()
            if own
        ),
    )
    lines = [
        text,
        f"![anomalies, recoloured, redrawn as 1]({PICTURE})\n",
        "Anomalies (above), and what the two concepts of the first generator made of them (bce, seed 0).\n",
        *seeds_and_means(SEED_HEAD, SEED, MEAN, rows, _by_role),
    ]
    lines += ["", WANTED.format(**figures["published_bce"]), _missed(rows), ABLATIONS]
    if figures["baselines"]:
        named = ({"name": name, **one} for name, one in figures["baselines"].items())
        lines += [BASELINES.format(**figures), *table(BASE_HEAD, BASE, named), ""]
    if figures.get("controls"):
        lines.append(_controls_text(figures["controls"], [one["normals_l1_max"] for one in each]))
    if figures["missing"]:
        lines.append(f"Not run: {'; '.join(figures['missing'])}.\n")
    lines.append(f"Cells were measured at commit {', '.join(f'`{one}`' for one in figures['commits'])}.")
    return "\n".join(lines) + "\n"


def _by_role(one: Figures) -> Figures:
    """Figures of the concepts in the order of their roles: the one that recolours, the one that redraws."""
    first, second = one["roles"]
    ordered = {
        "normality": one["explained"]["normality_each"],
        "second": one["second"]["normality_each"],
        "l1": one["l1"],
    }
    told = {name: [values[first], values[second]] for name, values in ordered.items()}
    return {**one, "roles": told | {"colour_only": one["colour_only"][first], "digit_only": one["digit_only"][second]}}


def _controls_text(controls: Figures, normals: list[float]) -> str:
    own = controls["explained"]
    return CONTROLS.format(
        random=controls["random_weights"],
        relabelled=controls["relabelled"],
        explained="" if own is None else OF_FIRST.format(**own),
        normals=value_range(normals, ".3f"),
    )


def _missed(rows: Figures) -> str:
    """What the seeds of the full configuration do not reach."""
    full = {name: own for name, own in rows.items() if name.endswith(" full")}
    found = [f"{name} seed {seed}: {', '.join(wrong)}" for name, seed, wrong in beyond(full, _bounds)]
    return f"**Missed**: {'; '.join(found)}.\n" if found else "Nothing of this is missed by the full configuration.\n"


def _bounds(one: Figures) -> dict[str, bool]:
    of_concepts = {
        f"second of the concept that {what}": abs(one["second"]["normality_each"][concept] - 50.0) > 15.0
        for what, concept in zip(("recolours", "redraws"), one["roles"], strict=True)
    }
    return {
        "normality": abs(one["normality"] - 50.0) > 6.0,
        "FID_N": one["fid_n"] > 30.0,
        "by definition": one["normal_by_definition"] < 0.95,
        "loose": one["loose"] < 0.9,
        "strict": one["strict"] < 0.7,
        "normals": one["normals_l1_max"] > 0.04,
    } | of_concepts
