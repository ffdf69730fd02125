"""Whether params.yaml gives a data set a judge; apart from xadflow.models.judges, which brings torch in and says which
one.
"""

from __future__ import annotations

from xadflow.settings.params import Settings


def why_no_judge(settings: Settings, dataset: str) -> str | None:
    """Why params.yaml gives a data set no judge, in a sentence; None where it does. Raises UnknownName."""
    its = settings.dataset(dataset)
    if its.judge is None:
        return f"datasets.{dataset}.judge is switched off in params.yaml."
    if its.classes and "judge" not in its.model_fields_set:
        return (
            f"{dataset} holds scenes, where the same place of two normal images shows different things, so it has no "
            f"judge unless datasets.{dataset}.judge names one."
        )
    return None
