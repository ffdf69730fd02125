"""What is in service: a detector's champion and the explainers that were trained for it, which move together.

MLflow moves one alias at a time. So the old explainers leave first, then the detector changes, then its own explainers
come: whoever reads between two steps, or after a kill, finds a detector without explainer, never one with another's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from xadflow.errors import BadWeights, WrongUse
from xadflow.models.registry import CHAMPION, Registry
from xadflow.models.tags import BY_HAND, GATE, GATE_REASONS, PASSED, REFUSED
from xadflow.models.versions import ModelRef, detector_of


@dataclass(frozen=True)
class Moved:
    """What is champion now. `explainers` holds each explainer's model with its version, None: none fits
    this detector.
    """

    model: str
    version: int
    before: int | None
    explainers: Mapping[str, int | None]


def put_in_service(registry: Registry, name: str, version: int) -> Moved:
    """Make a version champion: of a detector, together with its explainers; of an explainer, if its detector is
    champion.

    An explainer's version belongs to a detector's when it explains exactly these weights, and the gate let it pass or a
    person promoted it; the newest is taken.

    Raises:
        UnknownName: no such version.
        WrongUse: an explainer of a detector version that is not in service.
    """
    ref = registry.resolve(f"{name}/{version}")
    before = registry.alias(name, CHAMPION)
    was = before.version if before is not None else None
    if ref.explains is not None:
        _check_detector(registry, ref)
        registry.tag(name, version, BY_HAND, "true")
        registry.set_alias(name, CHAMPION, version)
        return Moved(name, version, was, {})
    fitting: dict[str, int | None] = {}
    for model in registry.explainer_models(name):
        found, now = fitting_explainer(registry, model, ref), registry.alias(model, CHAMPION)
        fitting[model] = found.version if found is not None else None
        if now is not None and now.version != fitting[model]:
            registry.drop_alias(model, CHAMPION)
    if was != version:
        registry.set_alias(name, CHAMPION, version)
    for model, its in fitting.items():
        if its is not None:
            registry.set_alias(model, CHAMPION, its)
    return Moved(name, version, was, fitting)


def roll_back(registry: Registry, name: str) -> Moved:
    """Make the previous champion of a detector champion again, its explainers with it; a second time undoes it.

    Raises:
        NoChampion: no earlier one is remembered.
        WrongUse: an explainer's name.
    """
    champion = registry.alias(name, CHAMPION)
    if champion is not None and champion.explains is not None:
        raise WrongUse(
            "an explainer goes back together with its detector",
            seen=name,
            next_step=f"run `xadflow models rollback {detector_of(name)}`, or choose another version that explains "
            f"the same detector by `xadflow models promote {name} VERSION`",
        )
    return put_in_service(registry, name, registry.previous_champion(name).version)


def fitting_explainer(registry: Registry, model: str, detector: ModelRef) -> ModelRef | None:
    """The newest version of an explainer's model that may serve beside this detector version."""
    for one in registry.versions(model):
        if one.explains == detector.as_explained and (one.tags.get(GATE) == PASSED or BY_HAND in one.tags):
            return one
    return None


def explainer_in_service(registry: Registry, detector: ModelRef, explainer: str) -> ModelRef | None:
    """The champion of an explainer of this detector version, or None.

    Raises BadWeights when the champion explains another version: somebody moved one alias without the other.
    """
    found = registry.alias(f"{detector.name}.{explainer}", CHAMPION)
    if found is None or found.explains == detector.as_explained:
        return found
    of = found.explains
    raise BadWeights(
        f"{found.name} version {found.version} does not explain {detector.name} version {detector.version}",
        seen=f"it was trained for version {of.version}, weights {of.weights[:12]}"
        if of
        else "no detector named in its tags",
        next_step=f"run `xadflow models promote {detector.name} {detector.version}`, which moves both together",
    )


def why_none(registry: Registry, detector: ModelRef, explainer: str) -> str:
    """Why a detector version has no such explainer in service, in a sentence."""
    dataset = detector.name.split(".")[1] if detector.name.count(".") >= 2 else "NAME"
    for one in registry.versions(f"{detector.name}.{explainer}"):
        if one.explains == detector.as_explained:
            if one.tags.get(GATE) == REFUSED:
                reasons = " ".join(json.loads(one.tags.get(GATE_REASONS, "[]")))
                return (
                    f"The gate refused its version {one.version} for {detector.name} version {detector.version}: "
                    f"{reasons}"
                )
            return (
                f"Its version {one.version} has not been through the gate; `xadflow retrain --dataset {dataset}` "
                f"asks it."
            )
    return (
        f"None was trained for {detector.name} version {detector.version}; `xadflow retrain --dataset {dataset}` does "
        "it where retrain.explainers names data set and detector."
    )


def _check_detector(registry: Registry, explainer: ModelRef) -> None:
    name, of = detector_of(explainer.name), explainer.explains
    champion = registry.alias(name, CHAMPION)
    if of is None or champion is None or champion.as_explained != of:
        raise WrongUse(
            "this explainer was trained for a detector version that is not in service",
            seen=(
                f"it explains version {of.version if of else '?'}, champion is "
                f"{champion.version if champion else 'none'}"
            ),
            next_step=f"run `xadflow models promote {name} {of.version if of else 'VERSION'}` first: it brings its "
            "explainers along",
        )
