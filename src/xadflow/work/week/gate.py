"""Ask the gate: champion against challenger on the same gate images, and a trained explainer by itself.

The same question is asked once: its key is kept with the version, and as long as rules, data, champion and judges are
the same, the answer that was given stands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xadflow.datasets.manifest import Split, read_manifest
from xadflow.datasets.smallest_defect import defect_warning
from xadflow.detectors.base import load_detector
from xadflow.detectors.scoring import open_detector
from xadflow.digests import sha256_json
from xadflow.errors import BadImage, BadWeights, WrongUse
from xadflow.explainers import build_explainer, load_explainer
from xadflow.lineage import dvc_hashes
from xadflow.models.donors import open_bank
from xadflow.models.gate import FLIP_RATE, Verdict, joined, judge, judge_generator, judge_transfer
from xadflow.models.judges import Judge, find_judges, open_judges
from xadflow.models.registry import CHAMPION, Registry
from xadflow.models.service import Moved, put_in_service
from xadflow.models.tags import GATE, GATE_FEATURES, GATE_KEY, GATE_REASONS, PASSED, REFUSED, UNMEASURED
from xadflow.models.versions import ModelRef
from xadflow.project import Project
from xadflow.work.week.evaluate import SPARSE, TRANSPLANT, flat, gate_figures
from xadflow.work.week.generator_figures import generator_figures

NO_SPARSE = "params.yaml has no `sparse` under explainers, whose counterfactuals they are about."


@dataclass(frozen=True)
class GateOutcome:
    """What the gate said of one version; `judged` is False where the same question had been answered before.

    `serves` is the detector version that is in service with this outcome, None without any. `key` is the question: it
    is kept by :func:`settle` once its answer is in force, so that a crash before that asks again. `unmeasured`: not
    passed, and no rule is broken: too few labelled images to say more, so that a person promotes it.
    """

    model_name: str
    version: int
    passed: bool
    reasons: tuple[str, ...]
    judged: bool
    figures: Mapping[str, float]
    serves: int | None = None
    key: str = ""
    unmeasured: bool = False

    @property
    def verdict(self) -> str:
        """The value of the tag that says it."""
        return PASSED if self.passed else UNMEASURED if self.unmeasured else REFUSED


def judge_challenger(project: Project, dataset: str, challenger: ModelRef, *, hold: bool = False) -> GateOutcome:
    """Measure challenger and present champion on split `gate`, move the alias `champion` if every rule holds.

    With `hold` nothing is moved yet: the caller trains its explainers first, and then calls :func:`settle`.

    A challenger that is champion already stays it. A champion whose files are not those registered, or that refuses
    images of today, cannot be measured, nor serve: the absolute rules decide alone, and the reasons say so. Held-out
    judges are asked about the explanations: of sparse ones that is reported, of transplants gate.min_transfer is a
    rule.

    Raises WrongUse for a judge.
    """
    if challenger.is_judge:
        raise WrongUse(
            "a judge is not gated: it never becomes champion",
            seen=challenger.name,
            next_step="name a detector; `xadflow models list` shows them",
        )
    settings, registry = project.settings, project.registry
    champion = registry.alias(challenger.name, CHAMPION)
    in_service = champion.version if champion is not None else None
    if in_service == challenger.version:
        return GateOutcome(challenger.name, challenger.version, True, ("is champion already",), False, {}, in_service)
    panel = find_judges(settings, registry, dataset, registry.detector_folder(challenger))
    asked = [name for name in (SPARSE,) if name in settings.explainers]
    asked += [TRANSPLANT] if _transplants_are_used(project) else []
    key = sha256_json(
        {
            "rules": settings.gate.model_dump(mode="json", exclude={"generator"}),
            "data": dvc_hashes(project.home.project, dataset),
            # their code decides too
            **{name: build_explainer(name, **settings.explainers[name]).version for name in asked},
            "champion": in_service,
            "judges": [[one.name, one.version] for one in panel.judges],
        }
    )
    if (known := _answered_before(challenger, key, in_service)) is not None:
        return known
    mine = _measured(project, dataset, challenger, open_judges(panel.judges, project.device))
    theirs, broken = None, list[str]()
    if champion is not None:
        try:
            theirs = _measured(project, dataset, champion)
        except (BadImage, BadWeights) as err:  # of images beyond the bits it was trained on
            broken.append(f"The champion could not be measured: {err.wrong}.")
    verdicts = [judge(settings.gate, mine, theirs, unexplained=None if SPARSE in asked else NO_SPARSE)]
    if f"{TRANSPLANT}.{FLIP_RATE}" in mine:
        start = f"{TRANSPLANT}."
        its = {name.removeprefix(start): value for name, value in mine.items() if name.startswith(start)}
        # Without a judge the rule is not asked of a detector: it was measured by itself, and gets no worse by that.
        verdicts.append(judge_transfer(settings.gate.min_transfer, its, panel.why_none, wanted=False))
    manifest = read_manifest(project.home.dataset(dataset))
    if (note := defect_warning(manifest, manifest.rows(Split.GATE), dataset, settings.dataset(dataset))) is not None:
        verdicts.append(Verdict(True, (), (note,)))
    judged = joined(*verdicts)
    if judged.passed and champion is not None:
        judged = joined(judged, Verdict(True, (), _undoes(project, dataset, challenger, champion)))
    outcome = GateOutcome(
        challenger.name,
        challenger.version,
        judged.passed,
        (*broken, *judged.reasons, *judged.notes),
        True,
        mine,
        serves=challenger.version if judged.passed else in_service,
        key="" if broken else key,  # a champion that is restored is asked after again
        unmeasured=judged.is_open,
    )
    _say(registry, challenger, outcome)
    if not hold:
        settle(registry, outcome.model_name, outcome.version, outcome.serves, outcome.key)
    return outcome


def judge_explainer(project: Project, dataset: str, explainer: ModelRef, detector: ModelRef) -> GateOutcome:
    """Measure one version of an explainer on split `gate` and tag it passed or refused, with the reasons. Moves no
    alias: its detector takes it along.
    """
    settings, registry = project.settings, project.registry
    rules, folder = settings.gate.generator, registry.detector_folder(detector)
    panel = find_judges(settings, registry, dataset, folder)
    key = sha256_json(
        {
            "rules": rules.model_dump(mode="json"),
            "data": dvc_hashes(project.home.project, dataset),
            "min_transfer": settings.gate.min_transfer,
            "judges": [[one.name, one.version] for one in panel.judges],
            "why_none": panel.why_none,
        }
    )
    if (known := _answered_before(explainer, key, None)) is not None:
        return known
    loaded = load_explainer(registry.explainer_folder(explainer)).to(project.device)
    others = {
        name: open_detector(registry.detector_folder(ref), project.device)
        for name, ref in _other_champions(project, dataset, detector).items()
    }
    judges = open_judges(panel.judges, project.device)
    opened = open_detector(folder, project.device)
    figures, concepts = generator_figures(project, dataset, loaded, opened, others, judges)
    verdict = joined(
        judge_generator(rules, figures, concepts),
        judge_transfer(settings.gate.min_transfer, figures, panel.why_none, wanted=panel.wanted),
    )
    outcome = GateOutcome(explainer.name, explainer.version, verdict.passed, verdict.reasons, True, figures)
    _say(registry, explainer, outcome)
    registry.tag(explainer.name, explainer.version, GATE_FEATURES, rules.features)
    settle(registry, explainer.name, explainer.version, None, key)
    return outcome


def settle(registry: Registry, model: str, version: int, serves: int | None, key: str) -> Moved | None:
    """Put what the gate decided into force: version `serves` of a detector's model with the explainers that fit it.

    `key` is the question that was answered of `version`; "" of one that is not to be remembered.
    """
    moved = put_in_service(registry, model, serves) if serves is not None else None
    if key:
        registry.tag(model, version, GATE_KEY, key)  # last: a crash before it asks the question again
    return moved


def rate_line(dataset: str, rate: float) -> str:
    """What to write where so that every training of a data set has this false-alarm rate."""
    return f"false_alarm_rate: {rate!r} under datasets.{dataset} in params.yaml"


def _undoes(project: Project, dataset: str, challenger: ModelRef, champion: ModelRef) -> tuple[str, ...]:
    """What is said where a training takes back the false-alarm rate that a person gave the champion by hand."""
    if champion.recalibrated_from is None or challenger.recalibrated_from is not None:
        return ()
    try:
        was, now = (_rate(project.registry, one) for one in (champion, challenger))
    except BadWeights:
        return ()  # a champion that cannot be read is said already
    if was == now:
        return ()
    return (
        f"The champion until now, version {champion.version}, was recalibrated by hand to a false-alarm rate of "
        f"{was:g}; this version has {now:g}, as params.yaml says. To keep {was:g}, put {rate_line(dataset, was)} and "
        f"run `xadflow models rollback {champion.name}`.",
    )


def _rate(registry: Registry, ref: ModelRef) -> float:
    """The false-alarm rate of a version."""
    return load_detector(registry.detector_folder(ref)).calibration.false_alarm_rate


def _answered_before(ref: ModelRef, key: str, serves: int | None) -> GateOutcome | None:
    """The answer that a version carries, if it is to this question."""
    if ref.tags.get(GATE_KEY) != key:
        return None
    said = ref.tags.get(GATE)
    return GateOutcome(
        ref.name, ref.version, said == PASSED, ref.gate_reasons, False, {}, serves, unmeasured=said == UNMEASURED
    )


def _say(registry: Registry, ref: ModelRef, outcome: GateOutcome) -> None:
    """Keep the answer with the version, and its figures with the run."""
    registry.log_metrics(ref.run_id, flat("gate", outcome.figures))
    registry.tag(ref.name, ref.version, GATE, outcome.verdict)
    registry.tag(ref.name, ref.version, GATE_REASONS, json.dumps(outcome.reasons))


def _measured(project: Project, dataset: str, ref: ModelRef, judges: Sequence[Judge] = ()) -> dict[str, float]:
    folder = project.registry.detector_folder(ref)
    detector = open_detector(folder, project.device)
    is_used = _transplants_are_used(project)
    bank = open_bank(project.home, project.settings, folder, dataset) if is_used else None
    return gate_figures(project, dataset, detector, judges, bank)


def _transplants_are_used(project: Project) -> bool:
    """Whether nights explain by transplants: only then is the gate asked about them."""
    return TRANSPLANT in project.settings.explain.explainers and TRANSPLANT in project.settings.explainers


def _other_champions(project: Project, dataset: str, detector: ModelRef) -> dict[str, ModelRef]:
    """Champions of this data set's other detectors: another view on the counterfactuals, reported and not judged."""
    found = {name: project.registry.alias(f"xad.{dataset}.{name}", CHAMPION) for name in project.settings.detectors}
    return {name: ref for name, ref in found.items() if ref is not None and ref.name != detector.name}
