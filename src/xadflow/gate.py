"""The promotion gate: may a challenger become champion? Rules from params.yaml, figures from the gate split only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from xadflow.settings.params import GateSettings

AUROC = "auroc"
FLIP_RATE = "flip_rate"
CHANGE_INSIDE = "change_inside"
FIGURES = (AUROC, FLIP_RATE, CHANGE_INSIDE)

_SLACK = 1e-12  # .90 - .89 is 0.010000000000000009, and must count as a drop of .01


@dataclass(frozen=True)
class Verdict:
    """Whether the challenger passed, and why: the rules it broke, or when it passed every rule it kept."""

    passed: bool
    reasons: tuple[str, ...]


def judge(rules: GateSettings, challenger: Mapping[str, float], champion: Mapping[str, float] | None) -> Verdict:
    """Judge a challenger's figures on the gate split.

    `champion` holds the present champion's figures on the same images, re-evaluated now; None when there is none, and
    then the absolute rules alone decide. All figures are higher-is-better shares named by `FIGURES`. A figure that is
    missing or not a finite number breaks its rule: nothing is promoted on what was not measured.
    """
    broken: list[str] = []
    kept: list[str] = []
    for name, least, key in (
        (AUROC, rules.min_auroc, "gate.min_auroc"),
        (FLIP_RATE, rules.min_flip_rate, "gate.min_flip_rate"),
        (CHANGE_INSIDE, rules.min_change_inside, "gate.min_change_inside"),
    ):
        value = challenger.get(name, math.nan)
        if not math.isfinite(value):
            broken.append(f"{name} was not measured ({_seen(challenger, name)}), so {key} cannot be judged.")
        elif value < least - _SLACK:
            broken.append(f"{name} is {value:.4f}, below {least:g} ({key}).")
        else:
            kept.append(f"{name} is {value:.4f}, at least {least:g} ({key}).")
    if champion is not None:
        for name, most, key in (
            (AUROC, rules.max_auroc_drop, "gate.max_auroc_drop"),
            (FLIP_RATE, rules.max_flip_rate_drop, "gate.max_flip_rate_drop"),
        ):
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
    return Verdict(not broken, tuple(broken or kept))


def _seen(figures: Mapping[str, float], name: str) -> str:
    return repr(figures[name]) if name in figures else "missing"
