"""Sanity controls: what counterfactuals say of a detector that knows nothing, and of one that knows something else.

After Adebayo et al., "Sanity Checks for Saliency Maps" (NeurIPS 2018): an explanation that comes out the same for
another detector does not explain the detector.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.counterfactuals_kit.factors import Reading
from benchmarks.counterfactuals_kit.images import COLOUR_NAMES, ORIGINAL, RELABELLED, Coloured, Definition, test_images
from benchmarks.counterfactuals_kit.measures import anomalies, readers
from benchmarks.counterfactuals_kit.training import Cell, relabelled_generator, untrained_detector
from benchmarks.kit.baselines import searched
from benchmarks.kit.judging import scores_of, scores_of_made, told
from xadflow.metrics.edits import edit_sizes
from xadflow.metrics.ranks import auroc

UNTRAINED_IMAGES, RELABELLED_IMAGES = 256, 500


def control_figures(cell: Cell) -> dict[str, Any]:
    """Of the cell's detector with random weights, and of one that was trained with another definition of normal."""
    return {"random_weights": _random_weights(cell), "relabelled": _relabelled(cell)}


def anomalous_by_both(of: Coloured) -> NDArray[np.intp]:
    """Rows of what is normal by neither definition: whatever is normal of their counterfactuals was made so."""
    return np.flatnonzero(~(of.normal_by(ORIGINAL) | of.normal_by(RELABELLED)))


def shares_normal(reading: Reading) -> dict[str, float]:
    """Share of counterfactuals that show something, and something normal, by each definition."""
    definitions = {"original": ORIGINAL, "relabelled": RELABELLED}
    return {name: float(read_as_normal(reading, of).mean()) for name, of in definitions.items()}


def read_as_normal(reading: Reading, definition: Definition) -> NDArray[np.bool_]:
    """[N,K]: legible, and of the normal colour or digit."""
    colour, digit = definition
    return np.asarray(reading.legible & ((reading.first == colour) | (reading.second == digit)))


def _random_weights(cell: Cell) -> dict[str, float]:
    """Sparse counterfactuals reach the threshold of any network; they must not show what is normal for all that."""
    detector, of = untrained_detector(cell.method, cell.seed), anomalies(UNTRAINED_IMAGES)
    made = searched(detector, of.images)
    threshold = detector.calibration.threshold
    flagged = scores_of(detector, of.images) > threshold
    normal = read_as_normal(readers().read(made), ORIGINAL)[:, 0]
    images = test_images()
    return {
        "auroc": auroc(scores_of(detector, images.images), ~images.is_normal),
        "images": len(of),
        "flagged": float(flagged.mean()),
        "flipped": float((scores_of(detector, made[:, 0]) <= threshold).mean()),
        "normal_by_definition": float(normal.mean()),
        "normal_by_definition_flagged": float(normal[flagged].mean()) if flagged.any() else 0.0,
        "l1": float(edit_sizes(of.images, made).mean()),
    }


def _relabelled(cell: Cell) -> dict[str, Any]:
    """The same training for another definition of normal: its counterfactuals must be normal by that one."""
    detector, explainer = relabelled_generator(cell, RELABELLED)
    images = test_images()
    of = images[anomalous_by_both(images)[:RELABELLED_IMAGES]]
    made = told(explainer, detector, of.images)
    colour, digit = RELABELLED
    return {
        "definition": f"{COLOUR_NAMES[colour]} or {digit}",
        "images": len(of),
        "steps": cell.steps,
        "auroc": auroc(scores_of(detector, images.images), ~images.normal_by(RELABELLED)),
        "flipped": float((scores_of_made(detector, made) <= detector.calibration.threshold).mean()),
        "share_normal": shares_normal(readers().read(made)),
        "l1": float(edit_sizes(of.images, made).mean()),
    }
