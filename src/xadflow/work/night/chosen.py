"""Which explainers a night runs: those that suit the detector, and those that were trained for the version
in service.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xadflow.digests import sha256_json
from xadflow.errors import NoChampion, NoDonors, WrongUse
from xadflow.models.service import explainer_in_service, why_none
from xadflow.models.versions import ModelRef
from xadflow.project import Project


@dataclass(frozen=True)
class Chosen:
    """Explainers by name: `settings` and `versions` of all, and of a trained one its registered model (see `trained`).

    `left_out` gives the reason for each of params.yaml that has nothing in service, or needs donors and has none.
    """

    settings: Mapping[str, Mapping[str, Any]]
    versions: Mapping[str, str]
    trained: Mapping[str, Mapping[str, Any]]
    left_out: Mapping[str, str]


def choose_explainers(
    project: Project, dataset: str, detector: str, champion: ModelRef, named: Sequence[str] | None = None
) -> Chosen:
    """The explainers of a night; by default those of params.yaml that have something to say of detectors of this
    method, less the trained ones that have nothing in service and, where this version has no donors, those that need
    them.

    Raises:
        NoChampion: one was named and has nothing in service.
        NoDonors: one was named that needs donors, and this version has none.
        WrongUse: one was named that does not suit the detector.
        BadWeights: what is in service was trained for another version of the detector, or its files changed.
    """
    from xadflow.explainers import build_explainer, load_explainer, needs_training, why_unfit  # brings torch in
    from xadflow.explainers.base import takes_donors
    from xadflow.models.donors import opened_bank

    settings, registry = project.settings, project.registry
    given: dict[str, Mapping[str, Any]] = {}
    versions: dict[str, str] = {}
    trained: dict[str, Mapping[str, Any]] = {}
    left_out: dict[str, str] = {}
    for name in named or settings.nightly_explainers(dataset, detector):
        its = settings.explainer_for(name, dataset, detector)
        if (reason := why_unfit(name, settings.detector(detector).method)) is not None:
            if named:
                raise WrongUse(
                    f"the explainer {name} has nothing to say of {champion.name}",
                    seen=reason,
                    next_step=f"leave out --explainer {name}, or name another --detector",
                )
            continue
        if takes_donors(name):
            opened = opened_bank(project.home, settings, registry.detector_folder(champion), dataset)
            if opened.bank is None:
                left_out[name] = opened.why_none
                if named:
                    raise NoDonors(
                        f"{name} has no donors for {champion.name} version {champion.version}",
                        seen=opened.why_none,
                        next_step=f"leave out --explainer {name}, or run `xadflow "
                        f"retrain --dataset {dataset} --detector {detector}`",
                    )
                continue
        if not needs_training(name):
            given[name], versions[name] = its, build_explainer(name, **its).version
            continue
        ref = explainer_in_service(registry, champion, name)
        if ref is None:
            left_out[name] = why_none(registry, champion, name)
            if named:
                raise NoChampion(
                    f"no {name} explainer is in service for {champion.name} version {champion.version}",
                    seen=left_out[name],
                    next_step=f"run `xadflow retrain --dataset {dataset} --detector "
                    f"{detector}`, or leave out --explainer {name}",
                )
            continue
        folder = registry.explainer_folder(ref)
        given[name], versions[name] = its, load_explainer(folder).version
        trained[name] = {
            "folder": str(folder),
            "model_name": ref.name,
            "model_version": ref.version,
            "files": sha256_json(ref.files),
        }
    return Chosen(given, versions, trained, left_out)
