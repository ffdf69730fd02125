"""What is in service: a detector's champion and the explainers that were trained for it, which move together.

MLflow moves one alias at a time. So the old explainers leave first, then the detector changes, then its own explainers
come: whoever reads between two steps, or after a kill, finds a detector without explainer, never one with another's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from xadflow.errors import BadWeights, UnknownName, WrongUse
from xadflow.models.registry import CHAMPION, Registry
from xadflow.models.tags import BY_HAND, GATE, PASSED, REFUSED
from xadflow.models.versions import ModelRef, dataset_of, detector_of


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

    What cannot be loaded and measured does not serve: a detector must score one image here and now, and an explainer
    that cannot be loaded does not come along.

    Raises:
        UnknownName: no such version.
        WrongUse: an explainer of a detector version that is not in service.
        BadWeights: its files are not there, are not those registered, or give no finite score; nothing is moved then.
    """
    ref = registry.resolve(f"{name}/{version}")
    before = registry.alias(name, CHAMPION)
    was = before.version if before is not None else None
    if ref.explains is not None:
        _check_detector(registry, ref)
        prove(registry, ref)
        registry.tag(name, version, BY_HAND, "true")
        registry.set_alias(name, CHAMPION, version)
        return Moved(name, version, was, {})
    if was != version:
        prove(registry, ref)
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


def prove(registry: Registry, ref: ModelRef) -> None:
    """Load a version, and score one grey image if it is of a detector.

    Raises BadWeights when its files cannot be loaded, or the score is no finite number; UnknownName when the package
    that it is of is not installed.
    """
    import torch  # not paid by whoever only asks what is in service

    from xadflow.detectors.base import load_detector
    from xadflow.explainers.trained import load_explainer

    if ref.part == "explainer":
        load_explainer(registry.explainer_folder(ref))
        return
    detector = load_detector(registry.detector_folder(ref))
    with torch.no_grad():
        score = float(detector.score(torch.full((1, *detector.input_shape), 0.5)).image[0])
    if not math.isfinite(score):
        raise BadWeights(
            f"{ref.name} version {ref.version} gives no finite score",
            seen=f"{score} of a grey image",
            next_step="choose another version of `xadflow models list`, or run "
            f"`xadflow retrain --dataset {dataset_of(ref.name)}`",
        )


def fitting_explainer(registry: Registry, model: str, detector: ModelRef) -> ModelRef | None:
    """The newest version of an explainer's model that may serve beside this detector version, and can be loaded."""
    for one in registry.versions(model):
        if one.explains == detector.as_explained and (one.tags.get(GATE) == PASSED or BY_HAND in one.tags):
            with suppress(BadWeights, UnknownName):
                prove(registry, one)
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
    dataset = dataset_of(detector.name)
    for one in registry.versions(f"{detector.name}.{explainer}"):
        if one.explains == detector.as_explained:
            if one.tags.get(GATE) == REFUSED:
                reasons = " ".join(one.gate_reasons)
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
