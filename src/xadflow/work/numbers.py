"""Rows belong to weights, not to a number: a registry that was lost, or put back from a backup, gives numbers again.
So do the words of judges, which stand beside counterfactuals under the judge's number.

The evidence outlives it and still has rows under them. A night that met such rows would find every image scored
already, by a model that is gone; so it refuses, and a new version gets a number that no row has.
"""

from __future__ import annotations

import logging
from pathlib import Path

from xadflow.cards import read_card
from xadflow.detectors.base import CARD, WEIGHTS, load_detector
from xadflow.digests import sha256_file
from xadflow.evidence.store import EvidenceStore
from xadflow.models.registry import Registry
from xadflow.models.versions import ModelRef, dataset_of, is_judge

logger = logging.getLogger(__name__)


def rows_of_another(store: EvidenceStore, ref: ModelRef, folder: Path) -> str | None:
    """What says that rows under a version's number were made by another model than the one in `folder`; None if none.

    Raises StoreBroken when the tables cannot be read.
    """
    return _of_another(store, ref.name, ref.version, folder)


def take_a_free_number(store: EvidenceStore, registry: Registry, model_name: str, folder: Path) -> None:
    """See that the next version of a model, the detector in `folder`, gets a number with no rows of another, and say
    so.

    Raises RegistryUnavailable, StoreBroken.
    """
    taken, held = _taken(store, model_name), registry.versions(model_name)
    due = held[0].version + 1 if held else 1
    if not any(_of_another(store, model_name, number, folder) for number in taken if number >= due):
        return
    registry.skip_numbers(model_name, max(taken))
    logger.warning(
        "%s: the tables have rows of versions up to %d, which this registry does not know: the new version gets %d",
        model_name,
        max(taken),
        max(taken) + 1,
    )


def _taken(store: EvidenceStore, model_name: str) -> set[int]:
    """Versions of a model that rows are of; of a judge those whose words stand beside counterfactuals."""
    if not is_judge(model_name):
        return store.versions(model_name)
    return {version for name, version in store.judges(dataset_of(model_name)) if name == model_name}


def _of_another(store: EvidenceStore, model_name: str, version: int, folder: Path) -> str | None:
    if is_judge(model_name):
        ours = sha256_file(folder / WEIGHTS)
        others = store.judges(dataset_of(model_name)).get((model_name, version), set()) - {ours}
        return f"weights {min(others)[:12]}, this version has {ours[:12]}" if others else None
    if version not in store.versions(model_name):
        return None
    return store.of_another(model_name, version, sha256_file(folder / WEIGHTS), _threshold(folder))


def _threshold(folder: Path) -> float:
    calibration = read_card(folder / CARD).get("calibration")
    if isinstance(calibration, dict) and isinstance(calibration.get("threshold"), int | float):
        return float(calibration["threshold"])
    return load_detector(folder).calibration.threshold  # another package's card
