"""Champion against challenger, on the same gate images, by the rules of params.yaml."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xadflow.detectors.scoring import open_detector
from xadflow.digests import sha256_json
from xadflow.errors import BadWeights, WrongUse
from xadflow.explainers.base import build_explainer
from xadflow.lineage import dvc_hashes
from xadflow.models.donors import open_bank
from xadflow.models.gate import FLIP_RATE, Verdict, joined, judge, judge_transfer
from xadflow.models.judges import Judge, find_judges, open_judges
from xadflow.models.registry import CHAMPION, Registry
from xadflow.models.service import Moved, put_in_service
from xadflow.models.tags import GATE, GATE_KEY, GATE_REASONS, PASSED, REFUSED
from xadflow.models.versions import ModelRef
from xadflow.settings import Home, Settings
from xadflow.work.week.evaluate import TRANSPLANT, flat, gate_figures


@dataclass(frozen=True)
class GateOutcome:
    """What the gate said of one version; `judged` is False where the same question had been answered before.

    `serves` is the detector version that is in service with this outcome, None without any. `key` is the question: it
    is kept by :func:`settle` once its answer is in force, so that a crash before that asks again.
    """

    model_name: str
    version: int
    passed: bool
    reasons: tuple[str, ...]
    judged: bool
    figures: Mapping[str, float]
    serves: int | None = None
    key: str = ""


def judge_challenger(
    home: Home, settings: Settings, registry: Registry, dataset: str, challenger: ModelRef, *, hold: bool = False
) -> GateOutcome:
    """Measure challenger and present champion on split `gate`, move the alias `champion` if every rule holds.

    With `hold` nothing is moved yet: the caller trains its explainers first, and then calls :func:`settle`.

    The same challenger against the same champion, rules and data is not measured twice. A challenger that is champion
    already stays it. A champion whose files are not those registered cannot be measured, nor serve: the absolute rules
    decide alone, and the reasons say so. Held-out judges are asked about the explanations: of sparse ones that is
    reported, of transplants gate.min_transfer is a rule.

    Raises WrongUse for a judge.
    """
    if challenger.is_judge:
        raise WrongUse(
            "a judge is not gated: it never becomes champion",
            seen=challenger.name,
            next_step="name a detector; `xadflow models list` shows them",
        )
    champion = registry.alias(challenger.name, CHAMPION)
    in_service = champion.version if champion is not None else None
    if in_service == challenger.version:
        return GateOutcome(challenger.name, challenger.version, True, ("is champion already",), False, {}, in_service)
    panel = find_judges(settings, registry, dataset, registry.detector_folder(challenger))
    key = sha256_json(
        {
            "rules": settings.gate.model_dump(mode="json", exclude={"generator"}),
            "data": dvc_hashes(home.project, dataset),
            "sparse": build_explainer("sparse", **settings.explainers["sparse"]).version,  # its code decides too
            **(
                {TRANSPLANT: build_explainer(TRANSPLANT, **settings.explainers[TRANSPLANT]).version}
                if transplants_are_used(settings)
                else {}
            ),
            "champion": in_service,
            "judges": [[one.name, one.version] for one in panel.judges],
        }
    )
    if challenger.tags.get(GATE_KEY) == key:
        reasons = tuple(json.loads(challenger.tags.get(GATE_REASONS, "[]")))
        return GateOutcome(
            challenger.name, challenger.version, challenger.tags.get(GATE) == PASSED, reasons, False, {}, in_service
        )
    judges = open_judges(panel.judges, settings.device)
    mine = _figures(home, settings, registry, dataset, challenger, judges)
    theirs, broken = None, list[str]()
    if champion is not None:
        try:
            theirs = _figures(home, settings, registry, dataset, champion)
        except BadWeights as err:
            broken.append(f"The champion could not be measured: {err.wrong}.")
    judged = judge(settings.gate, mine, theirs)
    if f"{TRANSPLANT}.{FLIP_RATE}" in mine:
        # Without a judge the rule is not asked of a detector: it was measured by itself, and gets no worse by that.
        judged = joined(
            judged, judge_transfer(settings.gate.min_transfer, _of_transplants(mine), panel.why_none, wanted=False)
        )
    verdict = Verdict(judged.passed, (*broken, *judged.reasons))
    registry.log_metrics(challenger.run_id, flat("gate", mine))
    registry.tag(challenger.name, challenger.version, GATE, PASSED if verdict.passed else REFUSED)
    registry.tag(challenger.name, challenger.version, GATE_REASONS, json.dumps(verdict.reasons))
    outcome = GateOutcome(
        challenger.name,
        challenger.version,
        verdict.passed,
        verdict.reasons,
        True,
        mine,
        serves=challenger.version if verdict.passed else in_service,
        key="" if broken else key,  # a champion that is restored is asked after again
    )
    if not hold:
        settle(registry, outcome.model_name, outcome.version, outcome.serves, outcome.key)
    return outcome


def settle(registry: Registry, model: str, version: int, serves: int | None, key: str) -> Moved | None:
    """Put what the gate decided into force: version `serves` of a detector's model with the explainers that fit it.

    `key` is the question that was answered of `version`; "" of one that is not to be remembered.
    """
    moved = put_in_service(registry, model, serves) if serves is not None else None
    if key:
        registry.tag(model, version, GATE_KEY, key)  # last: a crash before it asks the question again
    return moved


def _figures(
    home: Home, settings: Settings, registry: Registry, dataset: str, ref: ModelRef, judges: Sequence[Judge] = ()
) -> dict[str, float]:
    folder = registry.detector_folder(ref)
    detector = open_detector(folder, settings.device)
    bank = open_bank(home, settings, folder, dataset) if transplants_are_used(settings) else None
    return gate_figures(home, settings, dataset, detector, judges, bank)


def transplants_are_used(settings: Settings) -> bool:
    """Whether nights explain by transplants: only then is the gate asked about them."""
    return TRANSPLANT in settings.explain.explainers and TRANSPLANT in settings.explainers


def _of_transplants(figures: Mapping[str, float]) -> dict[str, float]:
    start = f"{TRANSPLANT}."
    return {name.removeprefix(start): value for name, value in figures.items() if name.startswith(start)}
