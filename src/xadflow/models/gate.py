"""The promotion gate: may a challenger become champion, and may a trained explainer serve beside it?

Rules from params.yaml, figures from the gate split only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from xadflow.metrics.intervals import wilson_rate
from xadflow.settings.blocks import GateSettings, GeneratorGateSettings

AUROC = "auroc"
FLIP_RATE = "flip_rate"
CHANGE_INSIDE = "change_inside"
FIGURES = (AUROC, FLIP_RATE, CHANGE_INSIDE)
SHARE_NORMAL, LIKENESS, APART = "share_normal", "likeness", "apart"
FRECHET, CHANGE_OF_NORMALS = "frechet", "change_of_normals"
TRANSFER, MIN_TRANSFER = "transfer", "gate.min_transfer"
# how many images stand behind a figure, and how sure AUROC is
NORMALS, ANOMALIES, EXPLAINED = "normals", "anomalies", "explained"
AUROC_LOW, AUROC_HIGH = "auroc_low", "auroc_high"
MIN_IMAGES = "gate.min_images"

_SLACK = 1e-12  # .90 - .89 is 0.010000000000000009, and must count as a drop of .01


@dataclass(frozen=True)
class Verdict:
    """Whether the challenger passed, and why: the rules it broke, or when it passed every rule it kept.

    `notes` are rules that were not asked, and why; they stand among the reasons either way. `unmeasured` are rules that
    no verdict is possible on, as the gate split holds too few images: none is broken, and none is kept.
    """

    passed: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()
    unmeasured: tuple[str, ...] = ()

    @property
    def is_open(self) -> bool:
        """Nothing speaks against it and something was not measured: a person decides."""
        return not self.passed and bool(self.unmeasured) and not self.reasons


def judge(
    rules: GateSettings,
    challenger: Mapping[str, float],
    champion: Mapping[str, float] | None,
    *,
    unexplained: str | None = None,
) -> Verdict:
    """Judge a challenger's figures on the gate split.

    `champion` holds the present champion's figures on the same images, re-evaluated now; None when there is none, and
    then the absolute rules alone decide. All figures are higher-is-better shares named by `FIGURES`. A figure that is
    missing or not a finite number breaks its rule: nothing is promoted on what was not measured.

    Beside them stand the counts `normals` and `anomalies` behind AUROC and `explained` behind the other two. Of fewer
    than `rules.min_images` a figure is chance, however high: its rules are then neither kept nor broken, and the
    verdict is open (`Verdict.is_open`) where none is broken. The reasons state counts and 95 % intervals.

    `unexplained` says why this project has no counterfactuals to measure: the rules about them are then not asked,
    AUROC alone decides, and the verdict notes it.
    """
    broken: list[str] = []
    kept: list[str] = []
    too_few = {name: said for name in FIGURES if (said := _too_few(rules, challenger, name))}
    absolute = [
        (AUROC, rules.min_auroc, "gate.min_auroc"),
        (FLIP_RATE, rules.min_flip_rate, "gate.min_flip_rate"),
        (CHANGE_INSIDE, rules.min_change_inside, "gate.min_change_inside"),
    ]
    drops = [
        (AUROC, rules.max_auroc_drop, "gate.max_auroc_drop"),
        (FLIP_RATE, rules.max_flip_rate_drop, "gate.max_flip_rate_drop"),
    ]
    notes: tuple[str, ...] = ()
    if unexplained is not None:
        skipped = ", ".join(key for _, _, key in (*absolute[1:], *drops[1:]))
        notes = (f"{FLIP_RATE} and {CHANGE_INSIDE} were not measured, so {skipped} are not asked: {unexplained}",)
        absolute, drops = absolute[:1], drops[:1]
        too_few = {name: said for name, said in too_few.items() if name == AUROC}
    for name, least, key in absolute:
        value, of = challenger.get(name, math.nan), _interval(challenger, name)
        if name in too_few:
            continue
        if not math.isfinite(value):
            broken.append(f"{name} was not measured ({_seen(challenger, name)}), so {key} cannot be judged.")
        elif value < least - _SLACK:
            broken.append(f"{name} is {value:.4f}{of}, below {least:g} ({key}).")
        else:
            kept.append(f"{name} is {value:.4f}{of}, at least {least:g} ({key}).")
    if champion is not None:
        for name, most, key in drops:
            ours, theirs = challenger.get(name, math.nan), champion.get(name, math.nan)
            if name in too_few:
                continue
            if said := _too_few(rules, champion, name):
                notes = (*notes, f"{key} is not asked, of the champion {said}")
            elif not math.isfinite(theirs):
                broken.append(
                    f"{name} of the champion was not measured ({_seen(champion, name)}), so {key} cannot be judged."
                )
            elif not math.isfinite(ours):
                broken.append(f"{name} was not measured ({_seen(challenger, name)}), so {key} cannot be judged.")
            elif theirs - ours > most + _SLACK:
                broken.append(
                    f"{name} is {ours:.4f}, {theirs - ours:.4f} under the champion's {theirs:.4f}; "
                    f"allowed is {most:g} ({key})."
                )
            else:
                kept.append(f"{name} is {ours:.4f}, the champion's {theirs:.4f}; allowed drop {most:g} ({key}).")
    unmeasured = tuple(too_few.values())
    if broken:
        return Verdict(False, tuple(broken), notes, unmeasured)
    return Verdict(
        not unmeasured, () if unmeasured else tuple(kept), (*kept, *notes) if unmeasured else notes, unmeasured
    )


def _too_few(rules: GateSettings, figures: Mapping[str, float], name: str) -> str | None:
    """Why a figure cannot be judged, None where enough images stand behind it (or nobody counted them)."""
    counted = (NORMALS, ANOMALIES) if name == AUROC else (EXPLAINED,)
    counts = [(int(figures[one]), one) for one in counted if one in figures]
    if all(count >= rules.min_images for count, _ in counts):
        return None
    seen = " and ".join(f"{count} {one}" for count, one in counts)
    return f"{name} was not measured: {seen} in the gate split, at least {rules.min_images} of each ({MIN_IMAGES})."


def _interval(figures: Mapping[str, float], name: str) -> str:
    """The 95 % interval of a figure and the images behind it, as a reason states them; "" where nobody counted."""
    if name == AUROC and {AUROC_LOW, AUROC_HIGH, NORMALS, ANOMALIES} <= figures.keys():
        low, high = figures[AUROC_LOW], figures[AUROC_HIGH]
        of = f"{figures[NORMALS]:.0f} normals and {figures[ANOMALIES]:.0f} anomalies"
        return f" (95 %: {low:.2f} to {high:.2f}, {of})"
    if name == AUROC or EXPLAINED not in figures:
        return ""
    explained, value = int(figures[EXPLAINED]), figures.get(name, math.nan)
    if name == FLIP_RATE and math.isfinite(value):
        rate = wilson_rate(round(min(max(value, 0.0), 1.0) * explained), explained)
        return f" (95 %: {rate.low:.2f} to {rate.high:.2f}, {explained} explained)"
    return f" ({explained} explained)"


def judge_generator(rules: GeneratorGateSettings, figures: Mapping[str, float], concepts: int) -> Verdict:
    """Judge the counterfactuals of a trained explainer on the gate split; every rule is absolute.

    A generator belongs to one detector version, so there is no champion to compare with. Each rule stands for a failure
    that the others let pass (docs/explanation/methods.md, "Diverse counterfactuals"): the detector's score alone
    accepts blank images, a small distance to the normals alone accepts the same image for each concept. With one
    concept the two rules of diversity do not apply. A figure that is missing or not a finite number breaks its rule.
    """
    broken: list[str] = []
    kept: list[str] = []
    diverse = [
        (LIKENESS, rules.max_likeness, "max", "its concepts make the same edit"),
        (APART, rules.min_apart, "min", "its concepts give the same image"),
    ]
    for name, limit, kind, what in (
        (SHARE_NORMAL, rules.min_share_normal, "min", "the detector does not call its images normal"),
        *(diverse if concepts > 1 else ()),
        (FRECHET, rules.max_frechet, "max", "its images are hardly nearer to the normals than the anomalies are"),
        (CHANGE_OF_NORMALS, rules.max_change_of_normals, "max", "it changes what is normal already"),
    ):
        value, key = figures.get(name, math.nan), f"gate.generator.{kind}_{name}"
        side = ("below", "at least") if kind == "min" else ("above", "at most")
        if not math.isfinite(value):
            broken.append(f"{name} was not measured ({_seen(figures, name)}), so {key} cannot be judged.")
        elif (limit - value if kind == "min" else value - limit) > _SLACK:
            broken.append(f"{name} is {value:.4g}, {side[0]} {limit:g} ({key}): {what}.")
        else:
            kept.append(f"{name} is {value:.4g}, {side[1]} {limit:g} ({key}).")
    return Verdict(not broken, tuple(broken or kept))


def judge_transfer(
    least: float, figures: Mapping[str, float], absent: str | None = None, *, wanted: bool = True
) -> Verdict:
    """Judge how many counterfactuals of the gate's anomalies a held-out judge calls normal (gate.min_transfer).

    Args:
        least: the rule.
        figures: those of :func:`xadflow.models.judges.transfer_figures`.
        absent: why there is no judge, None where one was asked.
        wanted: params.yaml asks for a judge. One that is switched off is no rule; one that should be there and is not
            breaks it. Where the judge itself flags too few of the anomalies, it can say nothing and the rule is not
            asked.
    """
    if absent is not None:
        told = (
            f"{TRANSFER} was not measured, so {MIN_TRANSFER} {'cannot be judged' if wanted else 'is not asked'}: "
            f"{absent}"
        )
        return Verdict(False, (told,)) if wanted else Verdict(True, (), (told,))
    value, flagged = figures.get(TRANSFER, math.nan), int(figures.get("judge_flagged", 0.0))
    if not math.isfinite(value):
        return Verdict(
            True,
            (),
            (
                f"{TRANSFER} was not measured, so {MIN_TRANSFER} is not asked: the judge itself flags only "
                f"{flagged} of the explained anomalies.",
            ),
        )
    rate = wilson_rate(round(min(max(value, 0.0), 1.0) * flagged), flagged)
    sure = f" (95 %: {rate.low:.2f} to {rate.high:.2f}, {flagged} anomalies)" if flagged else ""
    if value < least - _SLACK:
        return Verdict(
            False,
            (
                f"{TRANSFER} is {value:.4f}{sure}, below {least:g} ({MIN_TRANSFER}): a "
                "detector that had no part in it still calls its counterfactuals anomalous.",
            ),
        )
    return Verdict(True, (f"{TRANSFER} is {value:.4f}{sure}, at least {least:g} ({MIN_TRANSFER}).",))


def joined(*verdicts: Verdict) -> Verdict:
    """Several verdicts as one: passed when all are; the reasons are those of the failed ones, or of all, and every
    note. What was not measured comes first of them where it decides.
    """
    passed, broken = all(one.passed for one in verdicts), any(one.reasons for one in verdicts if not one.passed)
    reasons = [reason for one in verdicts if not broken or not one.passed for reason in one.reasons]
    notes = [note for one in verdicts for note in one.notes]
    unmeasured = tuple(said for one in verdicts for said in one.unmeasured)
    if passed or broken:
        return Verdict(passed, (*reasons, *unmeasured, *notes), (), unmeasured)
    return Verdict(False, (), (*unmeasured, *reasons, *notes), unmeasured)


def _seen(figures: Mapping[str, float], name: str) -> str:
    return repr(figures[name]) if name in figures else "missing"
