"""The promotion gate: may a challenger become champion, and may a trained explainer serve beside it?

Rules from params.yaml, figures from the gate split only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from xadflow.settings.blocks import GateSettings, GeneratorGateSettings

AUROC = "auroc"
FLIP_RATE = "flip_rate"
CHANGE_INSIDE = "change_inside"
FIGURES = (AUROC, FLIP_RATE, CHANGE_INSIDE)
SHARE_NORMAL, LIKENESS, APART = "share_normal", "likeness", "apart"
FRECHET, CHANGE_OF_NORMALS = "frechet", "change_of_normals"
TRANSFER, MIN_TRANSFER = "transfer", "gate.min_transfer"

_SLACK = 1e-12  # .90 - .89 is 0.010000000000000009, and must count as a drop of .01


@dataclass(frozen=True)
class Verdict:
    """Whether the challenger passed, and why: the rules it broke, or when it passed every rule it kept.

    `notes` are rules that were not asked, and why; they stand among the reasons either way.
    """

    passed: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()


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

    `unexplained` says why this project has no counterfactuals to measure: the rules about them are then not asked,
    AUROC alone decides, and the verdict notes it.
    """
    broken: list[str] = []
    kept: list[str] = []
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
    for name, least, key in absolute:
        value = challenger.get(name, math.nan)
        if not math.isfinite(value):
            broken.append(f"{name} was not measured ({_seen(challenger, name)}), so {key} cannot be judged.")
        elif value < least - _SLACK:
            broken.append(f"{name} is {value:.4f}, below {least:g} ({key}).")
        else:
            kept.append(f"{name} is {value:.4f}, at least {least:g} ({key}).")
    if champion is not None:
        for name, most, key in drops:
            ours, theirs = challenger.get(name, math.nan), champion.get(name, math.nan)
            if not math.isfinite(theirs):
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
    return Verdict(not broken, tuple(broken or kept), notes)


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
    if value < least - _SLACK:
        return Verdict(
            False,
            (
                f"{TRANSFER} is {value:.4f} over {flagged} anomalies, below {least:g} ({MIN_TRANSFER}): a "
                "detector that had no part in it still calls its counterfactuals anomalous.",
            ),
        )
    return Verdict(True, (f"{TRANSFER} is {value:.4f} over {flagged} anomalies, at least {least:g} ({MIN_TRANSFER}).",))


def joined(*verdicts: Verdict) -> Verdict:
    """Several verdicts as one: passed when all are; the reasons are those of the failed ones, or of all, and every
    note.
    """
    passed = all(one.passed for one in verdicts)
    reasons = [reason for one in verdicts if passed or not one.passed for reason in one.reasons]
    notes = tuple(note for one in verdicts for note in one.notes)
    return Verdict(passed, (*reasons, *notes))


def _seen(figures: Mapping[str, float], name: str) -> str:
    return repr(figures[name]) if name in figures else "missing"
