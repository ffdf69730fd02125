"""Fit the judge of a data set and register it: never gated, never champion, asked about other detectors'
counterfactuals.
"""

from __future__ import annotations

from dataclasses import dataclass

from xadflow.datasets.manifest import Split, read_manifest
from xadflow.models.judges.halves import donor_half
from xadflow.models.judges.panel import JUDGE
from xadflow.project import Project
from xadflow.work.numbers import rows_of_another
from xadflow.work.week.order import judge_order
from xadflow.work.week.register import register_judge
from xadflow.work.week.train import Update, train_detector


@dataclass(frozen=True)
class FittedJudge:
    """The version that is asked from now on; `fitted`: this call made it. `apart`: no donor was fitted on."""

    model_name: str
    version: int
    fitted: bool
    apart: bool


def fit_judge(project: Project, dataset: str, update: Update | None = None) -> FittedJudge | None:
    """Bring the judge of a data set up to date; None for a data set without one.

    It learns from the train normals that give no donors (see :func:`xadflow.models.judges.donor_half`) and gets its
    threshold from the val normals, at the same false-alarm rate as every detector. When nothing changed, the registered
    version stays.

    Raises:
        BadManifest: the data set has not been built by DVC.
        TooFewNormals, BadInput, BadSettings, TrainingFailed: as the fit of any detector.
    """
    order = judge_order(project, dataset)
    if order is None:
        return None
    apart = donor_half(read_manifest(project.home.dataset(dataset)).rows(Split.TRAIN, label=0)).apart
    known = project.registry.find_trained(order.model_name, order.registered_key)
    if known is not None and rows_of_another(project.records, known, project.registry.detector_folder(known)):
        known = None  # its number stands in rows beside words of a judge that is gone
    ref = known
    if ref is None:
        train_detector(project, order, update)
        ref = register_judge(project, order, apart)
    now = project.registry.alias(order.model_name, JUDGE)
    if now is None or now.version != ref.version:
        project.registry.set_alias(order.model_name, JUDGE, ref.version)
    return FittedJudge(ref.name, ref.version, known is None, apart)
