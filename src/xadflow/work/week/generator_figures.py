"""What a trained explainer makes of the gate split, in figures.

Realism is measured with a network that took no part (params.yaml, gate.generator.features): a detector, the explained
one or any other, calls images normal that no person would.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from xadflow.datasets.manifest import Split, read_manifest
from xadflow.detectors.base import Detector
from xadflow.detectors.scoring import score_images
from xadflow.errors import BadInput
from xadflow.explainers import TrainedExplainer
from xadflow.explainers.base import Explanation
from xadflow.explainers.trained import Placed
from xadflow.images import as_float
from xadflow.metrics.perceptual import perceptual_distances
from xadflow.metrics.realism import normalised_frechet
from xadflow.metrics.stability import noise_stability, noisy_copies
from xadflow.models.gate import APART, CHANGE_OF_NORMALS, FRECHET, LIKENESS, SHARE_NORMAL
from xadflow.models.judges import Judge
from xadflow.networks.pretrained import Trunk
from xadflow.project import Project
from xadflow.work.week.evaluate import score_split, transferred

SMALLEST_PX = 96  # images are enlarged to this for the features: the network's last cells cover 32 px
BATCH = 32
LOOKED_AT = 32  # anomalies of the figures that are reported and not judged: noise asks for five explanations of each


def generator_figures(
    project: Project,
    dataset: str,
    explainer: TrainedExplainer,
    detector: Detector,
    others: dict[str, Detector],
    judges: Sequence[Judge] = (),
) -> tuple[dict[str, float], int]:
    """Figures that the gate judges, on split `gate`, and how many concepts there are.

    share_normal        of the counterfactuals of flagged anomalies, by the explained detector, of the worst concept;
                        share_normal_of.k of concept k, reported only
    likeness, apart     mean over images of the explanation's likeness_max and apart_min
    frechet             normalised Frechet distance, one concept an image in turn, so that all sets have about one size
    change_of_normals   mean |change| of normals that are not flagged, as a share of that of the anomalies, where every
                        place may change: a mask of places keeps normals as they are whatever a generator has learned
    change_of_normals_as_served  the same with that mask, reported only, of explainers that have one
    transfer            share of counterfactuals that a held-out judge calls normal, of anomalies that it flags too;
                        with judge_flagged and judge_recall, see xadflow.models.judges.transfer
    share_normal_by.*   share of all counterfactuals that another detector calls normal; reported only
    perceptual          mean perceptual distance of the counterfactuals to their images, in the stages of the feature
                        network; not comparable with published LPIPS; reported only, of the first 32 anomalies, as are
                        the next two
    noise_pixels        mean squared difference, on the [-1,1] scale, of counterfactuals of copies with noise
                        (stability.py)
    noise_probability   Jensen-Shannon divergence of their calibrated anomaly probabilities, in nats
    """
    rules = project.settings.gate.generator
    scored = score_split(project, detector, read_manifest(project.home.dataset(dataset)), dataset, Split.GATE)
    flagged = scored.scores > detector.calibration.threshold
    anomalies = scored.images[torch.from_numpy(np.flatnonzero((scored.labels == 1) & flagged)[: rules.images])]
    normals = scored.images[torch.from_numpy(np.flatnonzero((scored.labels == 0) & ~flagged)[: rules.images])]
    told = _explained(project, explainer, detector, anomalies)
    concepts = len(told[0].counterfactuals) if told else 0
    if not told or not concepts:
        return {"anomalies": float(len(anomalies))}, concepts
    made = np.stack([[found.image for found in one.counterfactuals] for one in told])  # (N, K, C, H, W)
    is_normal = np.array([[found.is_normal for found in one.counterfactuals] for one in told])  # (N, K)
    changes = _mean_change(told)
    shares = change_of_normals(project, explainer, detector, anomalies, normals, changes)
    figures = {
        SHARE_NORMAL: float(is_normal.mean(axis=0).min()),
        LIKENESS: _mean(told, "likeness_max"),
        APART: _mean(told, "apart_min"),
        FRECHET: _frechet(project, made, normals, anomalies),
        "change_of_anomalies": changes,
        "anomalies": float(len(anomalies)),
        "normals": float(len(normals)),
    }
    figures |= transferred(judges, told, anomalies)
    figures |= shares | _reported(project, explainer, detector, anomalies[:LOOKED_AT], made[:LOOKED_AT])
    figures |= {f"share_normal_of.{concept}": float(share) for concept, share in enumerate(is_normal.mean(axis=0))}
    stored = torch.from_numpy(made.reshape(-1, *made.shape[2:]))
    for name, other in others.items():
        if tuple(other.input_shape) == tuple(detector.input_shape):
            scores = score_images(other, stored, project.settings.explain.batch_size, project.device)
            figures[f"share_normal_by.{name}"] = float((scores <= other.calibration.threshold).mean())
    return figures, concepts


def _explained(project: Project, explainer: TrainedExplainer, detector: Detector, images: Tensor) -> list[Explanation]:
    told: list[Explanation] = []
    for batch in torch.split(images, project.settings.explain.batch_size):
        told += explainer.explain(detector, as_float(batch.to(project.device))) if len(batch) else []
    return told


def change_of_normals(
    project: Project,
    explainer: TrainedExplainer,
    detector: Detector,
    anomalies: Tensor,
    normals: Tensor,
    changes: float,
) -> dict[str, float]:
    """Both shares of :func:`generator_figures`; `changes` is the mean change of the anomalies as served."""
    served = _share(_mean_change(_explained(project, explainer, detector, normals)), changes)
    free = explainer.anywhere() if isinstance(explainer, Placed) else explainer
    if free is explainer:
        return {CHANGE_OF_NORMALS: served}
    theirs, ours = (_mean_change(_explained(project, free, detector, images)) for images in (normals, anomalies))
    return {CHANGE_OF_NORMALS: _share(theirs, ours), "change_of_normals_as_served": served}


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")


def _reported(
    project: Project, explainer: TrainedExplainer, detector: Detector, images: Tensor, made: NDArray[np.uint8]
) -> dict[str, float]:
    """Figures of `made` uint8 [N,K,C,H,W] that no rule is for."""
    copies = torch.from_numpy(noisy_copies(images.numpy(), seed=0))
    told = _explained(project, explainer, detector, copies.flatten(0, 1))
    noisy = np.stack([[found.image for found in one.counterfactuals] for one in told]).reshape(len(copies), *made.shape)
    stability = noise_stability(made, noisy, *(_anomaly_probability(project, detector, part) for part in (made, noisy)))
    trunk = Trunk(project.settings.gate.generator.features).to(project.device)
    before = _layers(trunk, images.repeat_interleave(made.shape[1], dim=0), project.device)
    after = _layers(trunk, torch.from_numpy(made).flatten(0, 1), project.device)
    return {
        "perceptual": float(perceptual_distances(before, after).mean()),
        "noise_pixels": stability.pixels,
        "noise_probability": stability.probability,
    }


@torch.no_grad()
def _anomaly_probability(project: Project, detector: Detector, made: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Calibrated, of uint8 [...,C,H,W]; [...]."""
    flat_images = torch.from_numpy(made.reshape(-1, *made.shape[-3:]))
    logits = [
        detector.normal_logit(as_float(part.to(project.device))).double().cpu()
        for part in torch.split(flat_images, BATCH)
    ]
    return np.asarray(torch.sigmoid(-torch.cat(logits)).numpy().reshape(made.shape[:-3]))


def _mean(told: list[Explanation], metric: str) -> float:
    """Mean of a metric over the images that have it; NaN where none has."""
    values = [one.metrics[metric] for one in told if metric in one.metrics]
    return float(np.mean(values)) if values else float("nan")


def _mean_change(told: list[Explanation]) -> float:
    """Mean |change| of a value on the [0,1] scale, over all counterfactuals; NaN of none."""
    sizes = [found.l1 / found.image.size for one in told for found in one.counterfactuals]
    return float(np.mean(sizes)) if sizes else float("nan")


def _frechet(project: Project, made: NDArray[np.uint8], normals: Tensor, anomalies: Tensor) -> float:
    """NaN where there are too few images, or the features tell anomalies and normals not apart."""
    count = len(made)
    union = torch.from_numpy(made[np.arange(count), np.arange(count) % made.shape[1]])
    trunk = Trunk(project.settings.gate.generator.features).to(project.device)
    try:
        return normalised_frechet(*(_features(trunk, images, project.device) for images in (union, normals, anomalies)))
    except BadInput:
        return float("nan")


@torch.no_grad()
def _features(trunk: Trunk, images: Tensor, device: torch.device) -> NDArray[np.float64]:
    """Spatial means of the trunk's stages, [N,D]."""
    found = [trunk.trunk_features(pixels).mean(dim=(2, 3)).double().cpu() for pixels in _enlarged(images, device)]
    return torch.cat(found).numpy() if found else np.zeros((0, trunk.channels))


@torch.no_grad()
def _layers(trunk: Trunk, images: Tensor, device: torch.device) -> list[NDArray[np.float32]]:
    """The trunk's stages, each [N,C,u,v]."""
    found = [trunk.stage_features(pixels) for pixels in _enlarged(images, device)]
    return [torch.cat(stage).float().cpu().numpy() for stage in zip(*found, strict=True)]


def _enlarged(images: Tensor, device: torch.device) -> Iterator[Tensor]:
    """Batches of float pixels, large enough for the trunk."""
    for batch in torch.split(images, BATCH):
        pixels = as_float(batch.to(device))
        least = min(pixels.shape[2:])
        if least < SMALLEST_PX:
            pixels = F.interpolate(pixels, scale_factor=SMALLEST_PX / least, mode="bilinear", align_corners=False)
        yield pixels
