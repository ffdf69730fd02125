"""The bank of donors of an explained detector, by the rules of `retrain`, from one half of the train normals."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.transplant_kit.detectors import maps_of, scores_of
from benchmarks.transplant_kit.sets import TestedSet, gives_donors, pixel_id
from xadflow.detectors.base import Detector
from xadflow.explainers.transplant import DonorBank, TransplantSettings
from xadflow.work.week.donors import QUIET, k_centre, pooled_features


def bank_of(detector: Detector, tested: TestedSet, *, of_judges: bool = False) -> DonorBank:
    """Normals that are not flagged and below the 80 % quantile of the scores, by k-centre where the bank holds fewer.

    `of_judges`: from the half that the judges were fitted on, for the control.
    """
    normals, most = tested.data.normals, TransplantSettings().bank
    half = normals[gives_donors(normals) ^ of_judges]
    scores = scores_of(detector, half)
    quiet = half[torch.from_numpy((scores <= detector.calibration.threshold) & (scores <= np.quantile(scores, QUIET)))]
    if len(quiet) > most:
        quiet = quiet[k_centre(pooled_features(quiet, "cpu"), most)]
    maps = maps_of(detector, tested.data.val_normals)
    return DonorBank(
        tuple(map(pixel_id, quiet)),
        quiet,
        tested.symmetries,
        tested.aligned,
        None if maps is None else torch.from_numpy(maps.mean(axis=0)),
    )
