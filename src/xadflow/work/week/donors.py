"""Choose the donors of a detector version, once, when it is registered: the normals whose pixels a transplant may take.

Donors are train normals of the donor half (see xadflow.models.judges.halves), never images of val, known, gate or test:
val sets the threshold, and on the others explanations are judged. Of these, who is not flagged and scores below the 80
% quantile of those scored; and if that is more than the bank holds, as different ones as can be, by k-centre.

Source: greedy k-centre, Gonzalez, Theoretical Computer Science 38, 1985.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from xadflow.datasets.loading import load_images
from xadflow.datasets.manifest import Manifest, Split
from xadflow.detectors.base import Detector, as_seen_by
from xadflow.detectors.scoring import score_images
from xadflow.explainers.base import build_explainer, takes_donors, traits
from xadflow.explainers.transplant.bank import DonorList
from xadflow.images import as_float
from xadflow.models.judges import donor_half
from xadflow.networks.pretrained import Trunk
from xadflow.project import Project
from xadflow.settings import Settings
from xadflow.settings.blocks import fitting

DEFAULT_BANK = 256  # donors, where an explainer has no setting `bank`
MOST_BYTES = 256 * 2**20  # of a bank's pixels, which lie in memory all night; fewer donors of larger images
LOOKED_AT = 2048  # normals that are scored for it; the first by image_id, which is a hash
LOOKED_AT_BYTES = 2**30
QUIET = 0.8
VAL_MAPS = 512  # held-out normals behind the mean map
BATCH, SMALLEST_PX = 32, 96  # the trunk's last cells cover 32 px
LARGEST_PX = 2**20  # pixels of a larger image are averaged: donors are to be unlike each other, whatever is small


def bank_size(settings: Settings) -> int:
    """How many donors a version may have at most: `bank` of the explainers of params.yaml that take donors; 0 without
    one.

    Raises BadSettings for settings that such an explainer does not know.
    """
    sizes = [0]
    for name, its in settings.explainers.items():
        if takes_donors(name):
            chosen = traits(build_explainer(name, **its)).settings
            sizes.append(int(getattr(chosen, "bank", DEFAULT_BANK)))
    return max(sizes)


def choose_donors(project: Project, detector: Detector, manifest: Manifest, dataset: str, most: int) -> DonorList:
    """At most `most` donors for a fitted detector, in the order they were chosen; none where no normal passes.

    The same data, detector and machine choose the same. Raises BadImage for a file that is gone or changed.
    """
    chosen_set = project.settings.dataset(dataset)
    half = donor_half(manifest.rows(Split.TRAIN, label=0))
    rows = half.donors[: _fitting(LOOKED_AT, LOOKED_AT_BYTES, detector)]
    images = load_images(manifest, rows, as_seen_by(detector, chosen_set))
    scores = score_images(detector, images, project.settings.explain.batch_of(images.shape[1:]), project.device)
    passing = np.flatnonzero((scores <= detector.calibration.threshold) & (scores <= _quantile(scores)))
    most = _fitting(most, MOST_BYTES, detector)
    places = torch.from_numpy(passing)
    if len(passing) > most:
        places = places[k_centre(pooled_features(images[places], project.device), most)]
    return DonorList(
        ids=tuple(rows[place].image_id for place in places.tolist()),
        symmetries=chosen_set.symmetries,
        aligned=chosen_set.aligned,
        chosen_from=len(passing),
        apart=half.apart,
        mean_map=mean_map(project, detector, manifest, dataset),
    )


def mean_map(project: Project, detector: Detector, manifest: Manifest, dataset: str) -> Tensor | None:
    """The detector's mean map of val normals, float32 [H,W] on the CPU; None for one without maps, or without val
    normals.
    """
    rows = manifest.rows(Split.VAL, label=0)[: _fitting(VAL_MAPS, LOOKED_AT_BYTES, detector)]
    images = load_images(manifest, rows, as_seen_by(detector, project.settings.dataset(dataset)))
    total = None
    for batch in torch.split(images, project.settings.explain.batch_of(images.shape[1:])) if len(rows) else ():
        with torch.no_grad():
            found = detector.score(as_float(batch.to(project.device))).map
        if found is None:
            return None
        part = found.double().sum(dim=0).cpu()
        total = part if total is None else total + part
    return None if total is None else (total / len(rows)).to(torch.float32)


def k_centre(features: Tensor, most: int) -> list[int]:
    """Places of at most `most` of features [N,D], each the farthest from those before it; the first is nearest to the
    mean.

    Equal distances go to the earlier place. It ends early when only copies of what was chosen are left.

    >>> k_centre(torch.tensor([[0.0], [1.0], [1.1], [5.0]]), 3)
    [2, 3, 0]
    """
    points = features.double()
    if not len(points) or most < 1:
        return []
    chosen = [int((points - points.mean(dim=0)).square().sum(dim=1).argmin())]
    nearest = (points - points[chosen[0]]).square().sum(dim=1)
    while len(chosen) < most:
        place = int(nearest.argmax())
        if float(nearest[place]) == 0.0:
            break
        chosen.append(place)
        nearest = torch.minimum(nearest, (points - points[place]).square().sum(dim=1))
    return chosen


@torch.no_grad()
def pooled_features(images: Tensor, device: torch.device) -> Tensor:
    """Spatial means of a packaged trunk's last stages, each in standard deviations; float32 [N,D] of uint8
    [N,C,H,W].
    """
    trunk = Trunk("lite0").to(device)
    parts = []
    for batch in torch.split(images, fitting(BATCH, images.shape[1:])):
        pixels = as_float(batch.to(device))
        if (least := min(pixels.shape[2:])) < SMALLEST_PX:
            pixels = F.interpolate(pixels, scale_factor=SMALLEST_PX / least, mode="bilinear", align_corners=False)
        elif (most := pixels.shape[2] * pixels.shape[3]) > LARGEST_PX:
            share = (LARGEST_PX / most) ** 0.5
            size = tuple(max(SMALLEST_PX, round(side * share)) for side in pixels.shape[2:])
            pixels = F.interpolate(pixels, size, mode="area")
        parts.append(trunk.trunk_features(pixels).mean(dim=(2, 3)).cpu())
    found = torch.cat(parts)
    return (found - found.mean(dim=0)) / found.std(dim=0, correction=0).clamp_min(1e-6)


def _quantile(scores: NDArray[np.float64]) -> float:
    return float(np.quantile(scores, QUIET)) if len(scores) else 0.0


def _fitting(most: int, most_bytes: int, detector: Detector) -> int:
    """At most so many images of the detector's size; one at least."""
    channels, height, width = detector.input_shape
    return max(1, min(most, most_bytes // (channels * height * width)))
