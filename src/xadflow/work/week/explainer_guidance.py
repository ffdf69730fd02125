"""What a trained explainer wants beside images: pairs, further detectors, a trunk to measure differences in, held-out
normals.

Pairs are a train normal with a drawn defect and that normal, and an anomaly and its transplants
(docs/explanation/methods.md, "Transplants", section 3). Nothing here is of the splits gate or test; val normals say
what heat is usual, and set the companions' thresholds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xadflow.datasets.manifest import ManifestRow
from xadflow.defects.synthesisers import synthetic_rounds
from xadflow.detectors.base import CARD, Detector, FitRun, TrainingData, build_detector, load_detector, traits
from xadflow.explainers.trained import Guidance, Pairs, Wanted
from xadflow.explainers.transplant.bank import DonorBank, DonorList, Symmetries
from xadflow.explainers.transplant.explainer import TransplantExplainer
from xadflow.images import as_float
from xadflow.models.judges import donor_half
from xadflow.networks.pretrained import Trunk
from xadflow.training.seeds import seeded

MOST_PAIRS = 8192  # as of the anomalies: all of them lie in memory
MOST_TRANSPLANTED = 64  # anomalies: a transplant is a search
TRANSPLANTED_SHARE = 0.25  # of the pairs where there are any: few images, each shown often
_AT_ONCE = 64
_SEARCHED_AT_ONCE = 16


def guidance(
    wanted: Wanted,
    detector: Detector,
    data: TrainingData,
    run: FitRun,
    *,
    bank: DonorBank | None = None,
    symmetries: Symmetries = "none",
    apart: Sequence[int] | None = None,
) -> Guidance:
    """What is wanted for a training in `run.folder`, of what the explained detector learned from.

    The known defects are transplanted from `bank`; without one, of a detector version that has no donors, pairs are
    synthetic alone. Copies by the product's `symmetries` are pairs too. `apart` are rows of the train normals that
    companions are fitted on, None for all: those that give donors, on which no judge is fitted.

    Raises:
        UnknownName, BadSettings: a companion or a trunk that there is not.
        BadInput, TooFewNormals: a companion cannot be fitted on these images.
    """
    device = torch.device(run.device)
    drawn_by = traits(detector).synthesiser
    pairs = synthetic_pairs(data.normals, drawn_by, wanted.rounds, run.seed) if wanted.rounds else None
    if pairs is not None and wanted.transplants and bank is not None:
        found = transplant_pairs(
            detector, data.known[:MOST_TRANSPLANTED].to(device), bank, wanted.transplants, symmetries
        )
        pairs = pairs if found is None else together(pairs, found, TRANSPLANTED_SHARE)
    normals = data.normals if apart is None else data.normals[list(apart)]
    companions = tuple(
        _companion(method, settings, data, normals, run, number)
        for number, (method, settings) in enumerate(wanted.companions)
    )
    trunk = Trunk(*wanted.features).to(device) if wanted.features else None
    return Guidance(
        pairs,
        companions,
        None if trunk is None else trunk.stage_features,
        data.val_normals if wanted.held_out else None,
    )


def synthetic_pairs(normals: Tensor, synthesiser: str, rounds: int, seed: int) -> Pairs:
    """`rounds` drawn defects of each normal uint8 [N,C,H,W], at most MOST_PAIRS in all, each a pair with
    that normal.
    """
    some = normals[:MOST_PAIRS]
    rounds = max(1, min(rounds, MOST_PAIRS // max(len(some), 1)))
    flawed, _ = synthetic_rounds(some, synthesiser, rounds, _AT_ONCE, torch.device("cpu"), seeded(seed, "pairs"))
    return Pairs(flawed, some, (torch.arange(len(flawed)) % len(some))[:, None])


def transplant_pairs(
    detector: Detector, anomalies: Tensor, bank: DonorBank, count: int, symmetries: Symmetries
) -> Pairs | None:
    """Anomalies uint8 [N,C,H,W] with up to `count` transplants of each that the detector calls normal; None without
    any.

    One that it calls normal itself, or that no donor mends, gives no pair.
    """
    explainer = TransplantExplainer(alternatives=count).with_donors(bank)
    flawed, mended, of = list[Tensor](), list[Tensor](), list[list[int]]()
    for part in torch.split(anomalies, _SEARCHED_AT_ONCE):
        for image, told in zip(part.cpu(), explainer.explain(detector, as_float(part)), strict=True):
            made = [
                torch.from_numpy(one.image)
                for one in told.counterfactuals
                if one.is_normal and one.donor_id is not None
            ]
            if not made:
                continue
            for copied in _copies(torch.stack([image, *made]), symmetries):
                rows = list(range(len(mended), len(mended) + len(made)))
                flawed.append(copied[0])
                mended += list(copied[1:])
                of.append([rows[place % len(rows)] for place in range(count)])
    return Pairs(torch.stack(flawed), torch.stack(mended), torch.tensor(of)) if flawed else None


def together(many: Pairs, few: Pairs, share: float) -> Pairs:
    """Both in one; the rows of `few` are repeated until they are about `share` of all, since pairs are drawn evenly."""
    times = max(1, round(share / (1.0 - share) * len(many.flawed) / len(few.flawed)))
    width = max(many.of.shape[1], few.of.shape[1])
    of = torch.cat([_widened(many.of, width), _widened(few.of, width).repeat(times, 1) + len(many.mended)])
    return Pairs(torch.cat([many.flawed, few.flawed.repeat(times, 1, 1, 1)]), torch.cat([many.mended, few.mended]), of)


def donors_of(detector_folder: Path, ids: Sequence[str], normals: Tensor) -> DonorBank | None:
    """The bank of a saved detector, whose pixels are train normals [N,C,H,W] with these `ids`; None where it has no
    donors.

    Raises BadWeights for a list of donors that cannot be read.
    """
    listed = DonorList.load(detector_folder)
    places = {image_id: place for place, image_id in enumerate(ids)}
    found = [one for one in listed.ids if one in places] if listed is not None else []
    return (
        DonorBank.of(listed, found, normals[[places[one] for one in found]]) if listed is not None and found else None
    )


def rows_of_donors(rows: Sequence[ManifestRow]) -> list[int]:
    """Places of the train normals `rows` that may give donors, on which no judge is fitted; all of them where there are
    few.
    """
    donors = {row.image_id for row in donor_half(rows).donors}
    return [place for place, row in enumerate(rows) if row.image_id in donors]


def _widened(of: Tensor, width: int) -> Tensor:
    """Rows [M,A] to [M,width], their own repeated."""
    return of[:, torch.arange(width) % of.shape[1]]


def _copies(images: Tensor, symmetries: Symmetries) -> list[Tensor]:
    """Images [N,C,H,W] as they are, and by the symmetries of the product; quarter turns of squares only."""
    flipped = [images, images.flip(3), images.flip(2), images.flip(2, 3)]
    if symmetries == "none":
        return flipped[:1]
    if symmetries == "flips" or images.shape[2] != images.shape[3]:
        return flipped
    return [*flipped, *(one.transpose(2, 3).contiguous() for one in flipped)]


def _companion(
    method: str, settings: Mapping[str, Any], data: TrainingData, normals: Tensor, run: FitRun, number: int
) -> Detector:
    """Fitted, or what an interrupted training has left of it."""
    folder = run.folder / f"companion-{number}"
    if not (folder / CARD).is_file():
        detector = build_detector(method, **settings)
        none = data.known[:0]
        own = TrainingData(normals, data.val_normals, none, None, none, data.outliers)
        with tempfile.TemporaryDirectory() as scratch:
            detector.fit(own, FitRun(Path(scratch), run.seed, run.false_alarm_rate, run.device))
        partial = folder.with_name(f"{folder.name}-partial")
        detector.save(partial)
        partial.replace(folder)
    return load_detector(folder).to(run.device)
