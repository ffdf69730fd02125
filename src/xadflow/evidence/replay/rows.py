"""`replay`: form a row again from its lineage, with the model version that it names, and compare it with the stored
one.

What the lineage records is put back as far as this machine can: device, threads, the batch of the explanation, size and
place in the batch of the score. What it does not record, or this machine cannot put back, is told beside the answer.
When and for which run a row was written (run_id, run_date, created_at, image_path) follows from no computation and is
taken over; so is the lineage, once what can be checked of it has been.

Rows of `scores` carry no lineage: that of an explanation of the same run is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xadflow.detectors.base import Detector
from xadflow.detectors.scoring import score_images
from xadflow.evidence.comparing import Difference, differences
from xadflow.evidence.decisions import rows_of_image
from xadflow.evidence.replay.lineages import CannotReplay, Notes, as_recorded, lineage_of, threads_of
from xadflow.evidence.replay.sources import Sources, original_of
from xadflow.evidence.rows import explanation_row
from xadflow.evidence.store import EvidenceStore
from xadflow.evidence.tables import SCHEMA_VERSION, SCORES
from xadflow.images import as_float, encode_png
from xadflow.models.judges import with_words
from xadflow.models.registry import Registry
from xadflow.settings import Home, Settings

COUNTS_OF_DONORS = frozenset({"donors", "donors_missing"})  # metrics of an explanation
IDENTICAL, WITHIN, DIFFERS, IMPOSSIBLE = "identical", "equal within tolerance", "differs", "cannot be replayed"
ASSUMED = "identical under an assumption"
_NO_FILE = "its file is not here any more, or has other bytes: the stored original stands for it"


@dataclass(frozen=True)
class Replayed:
    """What became of one row.

    `outcome` is IDENTICAL, ASSUMED (the same, but something was taken on trust), WITHIN, DIFFERS or IMPOSSIBLE;
    `missing` says what the last one lacks. `conditions` are what could not be as the lineage says, by name; `assumed`
    is what the lineage does not tell.
    """

    table: str
    model_name: str
    model_version: int
    explainer: str | None
    explainer_version: str | None
    outcome: str
    differences: tuple[Difference, ...] = ()
    conditions: Mapping[str, str] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    missing: str | None = None

    @property
    def ok(self) -> bool:
        """The row came out as it is stored."""
        return self.outcome in (IDENTICAL, ASSUMED, WITHIN)


def replay(
    home: Home,
    settings: Settings,
    registry: Registry,
    store: EvidenceStore,
    image_id: str,
    progress: Callable[[int, int], None] | None = None,
) -> list[Replayed]:
    """Every row of one image, regenerated and compared, scores first; `progress` is called with (rows done, rows).

    Raises:
        StoreBroken: there are no tables yet, or they cannot be read.
        RegistryUnavailable: MLflow cannot be reached.
    """
    sources = Sources(home, settings, registry, store)
    rows = list(rows_of_image(store, image_id))
    explained = [row for table, row in rows if table == "explanations"]
    told: list[Replayed] = []
    for table, row in rows:
        notes = Notes()
        whose = (table, row["model_name"], row["model_version"], row.get("explainer"), row.get("explainer_version"))
        try:
            if table == "explanations":
                again, detector = _explanation(sources, row, settings.device, notes)
            else:
                again, detector = _score(sources, row, explained, settings.device, notes)
        except CannotReplay as err:
            told.append(Replayed(*whose, IMPOSSIBLE, (), notes.conditions, tuple(notes.assumed), str(err)))
        else:
            rank = 1.0 / (len(detector.calibration.normal_scores) + 1)
            found = differences(row, again, tolerant=bool(notes.conditions), rank=rank)
            same = ASSUMED if notes.assumed else IDENTICAL
            outcome = same if not found else WITHIN if all(one.within for one in found) else DIFFERS
            told.append(Replayed(*whose, outcome, found, notes.conditions, tuple(notes.assumed)))
        if progress:
            progress(len(told), len(rows))
    return told


def _explanation(
    sources: Sources, row: Mapping[str, Any], device: str, notes: Notes
) -> tuple[dict[str, Any], Detector]:
    """A row of `explanations` anew. Its figures follow from the stored original; that one is compared with its file."""
    lineage = lineage_of(row)
    where = as_recorded(lineage, device, notes)
    detector = sources.detector(row, lineage, where)
    explainer = sources.explainer(row, lineage, where, notes)
    original = _fitting(original_of(row), detector)
    batch, position = sources.batch(row, lineage, original, notes)
    batch = [_fitting(one, detector) for one in batch]
    judges = sources.judges(lineage, where)
    with threads_of(lineage):
        left = _left(row, lineage, detector, original, where, notes)
        images = torch.from_numpy(np.stack(batch))
        told = with_words(judges, explainer.explain(detector, as_float(images.to(where))), images)[position]
    again = explanation_row(
        left,
        explainer=row["explainer"],
        explainer_version=explainer.version,
        seed=explainer.seed,
        original=original,
        explanation=told,
        lineage=row["lineage"],
    )
    if "donors" in notes.conditions:  # it has said how many there are now
        counts = {one["name"]: one for one in row["metrics"] or () if one["name"] in COUNTS_OF_DONORS}
        again["metrics"] = [counts.get(one["name"], one) for one in again["metrics"]]
    shown = sources.from_file(row, detector)
    if shown is None:
        notes.assumed.append(_NO_FILE)
    else:
        again["original"] = {"bytes": encode_png(shown), "path": None}
    return again, detector


def _score(
    sources: Sources, row: Mapping[str, Any], explained: Sequence[Mapping[str, Any]], device: str, notes: Notes
) -> tuple[dict[str, Any], Detector]:
    """A row of `scores` anew, from the image's file, else from the original that an explanation of it stores."""
    version = (row["model_name"], row["model_version"])
    of_image = [one for one in explained if (one["model_name"], one["model_version"]) == version]
    lineage = sources.lineage_of_run(row, of_image)
    if lineage is None:
        lineage = {}
        notes.conditions["lineage"] = (
            "no explanation of its run holds one: only the registered hashes of the model are checked"
        )
    where = as_recorded(lineage, device, notes)
    detector = sources.detector(row, lineage, where)
    original = sources.from_file(row, detector)
    if original is None and of_image:
        original = _fitting(original_of(of_image[0]), detector)
        notes.assumed.append(_NO_FILE)
    if original is None:
        raise CannotReplay(
            f"no row holds its pixels, and no file with these bytes is at {row['image_path']} or in the "
            f"manifest of {row['dataset']}; `dvc checkout` brings the files of a data set back"
        )
    with threads_of(lineage):
        return _left(row, lineage, detector, original, where, notes), detector


def _left(
    row: Mapping[str, Any],
    lineage: Mapping[str, Any],
    detector: Detector,
    original: NDArray[np.uint8],
    device: torch.device,
    notes: Notes,
) -> dict[str, Any]:
    """The columns of `scores`; the image is scored at its place in a batch of the recorded size, filled up
    with itself.
    """
    size, position = lineage.get("score_batch_size"), lineage.get("score_batch_position")
    if size is None or position is None:
        notes.conditions["score batch"] = "not recorded; scored alone"
        size, position = 1, 0
    elif "score_batch_assumed" in lineage:
        notes.conditions["score batch"] = (
            f"not recorded; scored at the first place of {size}, as the largest of its run"
        )
    score = score_images(detector, torch.from_numpy(np.stack([original] * size)), size, device)[position]
    calibration = detector.calibration
    _, dataset, method = row["model_name"].split(".", 2)
    return {
        **{name: row[name] for name in SCORES.names},
        "schema_version": SCHEMA_VERSION,
        "dataset": dataset,
        "detector": method,
        "score": float(score),
        "threshold": calibration.threshold,
        "p_value": float(calibration.p_value(np.array([score]))[0]),
        "is_anomaly": bool(score > calibration.threshold),
    }


def _fitting(original: NDArray[np.uint8], detector: Detector) -> NDArray[np.uint8]:
    if tuple(original.shape) != tuple(detector.input_shape):
        raise CannotReplay(
            f"a stored original has shape {tuple(original.shape)}, the detector takes {tuple(detector.input_shape)}"
        )
    return original
