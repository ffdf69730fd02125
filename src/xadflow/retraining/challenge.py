"""Champion against challenger, on the same gate images, by the rules of params.yaml."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from xadflow.digests import sha256_json
from xadflow.errors import BadWeights
from xadflow.gate import Verdict, judge
from xadflow.lineage import dvc_hashes
from xadflow.registry import Registry
from xadflow.retraining.evaluate import flat, gate_figures
from xadflow.scoring import open_detector
from xadflow.settings import Home, Settings
from xadflow.tracking.model_versions import ModelRef

KEY, VERDICT, REASONS = "xadflow.gate_key", "xadflow.gate", "xadflow.gate_reasons"


@dataclass(frozen=True)
class GateOutcome:
    """What the gate said of one version; `judged` is False where the same question had been answered before."""

    model_name: str
    version: int
    passed: bool
    reasons: tuple[str, ...]
    judged: bool
    figures: Mapping[str, float]


def judge_challenger(
    home: Home, settings: Settings, registry: Registry, dataset: str, challenger: ModelRef
) -> GateOutcome:
    """Measure challenger and present champion on split `gate`, move the alias `champion` if every rule holds.

    The same challenger against the same champion, rules and data is not measured twice. A challenger that is champion
    already stays it. A champion whose files are not those registered cannot be measured, nor serve: the absolute rules
    decide alone, and the reasons say so.
    """
    champion = registry.alias(challenger.name, "champion")
    key = sha256_json({
        "rules": settings.gate.model_dump(mode="json"), "data": dvc_hashes(home.project, dataset),
        "sparse": settings.explainers.get("sparse"),
        "champion": champion.version if champion and champion.version != challenger.version else None,
    })  # fmt: skip
    if champion is not None and champion.version == challenger.version:
        return GateOutcome(challenger.name, challenger.version, True, ("is champion already",), False, {})
    if challenger.tags.get(KEY) == key:
        reasons = tuple(json.loads(challenger.tags.get(REASONS, "[]")))
        return GateOutcome(challenger.name, challenger.version, challenger.tags.get(VERDICT) == "passed", reasons,
                           False, {})  # fmt: skip
    mine = _figures(home, settings, registry, dataset, challenger)
    theirs, broken = None, list[str]()
    if champion is not None:
        try:
            theirs = _figures(home, settings, registry, dataset, champion)
        except BadWeights as err:
            broken.append(f"The champion could not be measured: {err.wrong}.")
    judged = judge(settings.gate, mine, theirs)
    verdict = Verdict(judged.passed, (*broken, *judged.reasons))
    registry.log_metrics(challenger.run_id, flat("gate", mine))
    registry.tag(challenger.name, challenger.version, VERDICT, "passed" if verdict.passed else "refused")
    registry.tag(challenger.name, challenger.version, REASONS, json.dumps(verdict.reasons))
    if verdict.passed:
        registry.set_alias(challenger.name, "champion", challenger.version)
    if not broken:  # a champion that is restored is asked after again
        registry.tag(challenger.name, challenger.version, KEY, key)  # last: a crash before it asks the question again
    return GateOutcome(challenger.name, challenger.version, verdict.passed, verdict.reasons, True, mine)


def _figures(home: Home, settings: Settings, registry: Registry, dataset: str, ref: ModelRef) -> dict[str, float]:
    detector = open_detector(registry.detector_folder(ref), settings.device)
    return gate_figures(home, settings, dataset, detector)
