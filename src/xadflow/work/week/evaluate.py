"""Measure a trained detector: detection on a split, and the quality of its explanations on the gate split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from xadflow.datasets.loading import load_images
from xadflow.datasets.manifest import Manifest, ManifestRow, Split, read_manifest
from xadflow.defects.synthesisers import synthetic_rounds
from xadflow.detectors.base import Detector, as_seen_by
from xadflow.detectors.scoring import score_images
from xadflow.explainers.base import Explanation, TakesDonors, build_explainer
from xadflow.explainers.transplant import DonorBank
from xadflow.images import as_float
from xadflow.metrics.detection import DetectionSummary, auroc, rates_at, summarise_detection
from xadflow.metrics.explanation import flip_rate
from xadflow.models.gate import ANOMALIES, AUROC, AUROC_HIGH, AUROC_LOW, CHANGE_INSIDE, FLIP_RATE, NORMALS
from xadflow.models.judges import Heard, Judge, ask, transfer_figures
from xadflow.project import Project
from xadflow.settings.blocks import at_once
from xadflow.training.lanes import portions, side_by_side
from xadflow.training.seeds import seeded

SPARSE, TRANSPLANT = "sparse", "transplant"


@dataclass(frozen=True)
class Scored:
    """Raw scores of labelled images, row by row."""

    rows: tuple[ManifestRow, ...]
    images: torch.Tensor
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]

    @property
    def can_be_ranked(self) -> bool:
        """Whether there are normals and anomalies: without both there is no AUROC."""
        return 0 < int(self.labels.sum()) < len(self.labels)

    def figures(self, threshold: float, seed: int) -> dict[str, float]:
        """Every figure that these images give, by name: of one class alone its count, and its rate at the threshold."""
        if self.can_be_ranked:
            return self.summary(threshold, seed).as_metrics()
        return rates_at(threshold, self.scores, self.labels)

    def summary(self, threshold: float, seed: int) -> DetectionSummary:
        """Detection figures on these images. Raises BadInput without normals or without anomalies."""
        return summarise_detection(
            self.scores,
            self.labels,
            threshold=threshold,
            seed=seed,
            defects=[row.defect for row in self.rows],
            categories=[row.category for row in self.rows],
        )


def score_split(project: Project, detector: Detector, manifest: Manifest, dataset: str, *splits: Split) -> Scored:
    """Score every labelled image of the given splits, batch by batch on the detector's device.

    Raises BadImage, also for one beyond the bits that the detector was trained on.
    """
    rows = tuple(row for row in manifest.rows(*splits) if row.label is not None)
    images = load_images(manifest, rows, as_seen_by(detector, project.settings.dataset(dataset)))
    return Scored(
        rows,
        images,
        score_images(detector, images, project.settings.explain.batch_of(images.shape[1:]), project.device),
        np.array([row.label for row in rows], dtype=np.int64),
    )


def explain_some(
    project: Project, detector: Detector, scored: Scored, explainer: str, most: int, bank: DonorBank | None = None
) -> tuple[list[int], list[Explanation]]:
    """Explanations of the first `most` flagged anomalies by image_id; also their positions in `scored`.

    `bank`: for an explainer that takes donors.
    """
    flagged = np.flatnonzero((scored.labels == 1) & (scored.scores > detector.calibration.threshold))[:most]
    chosen = [int(i) for i in flagged]
    if not chosen:
        return [], []
    built = build_explainer(explainer, **project.settings.explainers.get(explainer, {}))
    if bank is not None:
        built = cast(TakesDonors, built).with_donors(bank)

    def explain(batch: Sequence[int]) -> list[Explanation]:
        return built.explain(detector, as_float(scored.images[list(batch)].to(project.device)))

    shape, its = scored.images.shape[1:], project.settings.explain
    batches = portions(chosen, its.batch_of(shape), project.device)
    told = side_by_side(explain, batches, project.device, at_once(shape, its.batch_px))
    return chosen, [one for batch in told for one in batch]


def explanation_figures(told: list[Explanation]) -> dict[str, float]:
    """Quality of counterfactuals over a set: flip rate, share of change inside the heatmap's mask, size of
    the change.
    """
    first = [one.counterfactuals[0] for one in told if one.counterfactuals]
    inside = [one.metrics["change_inside"] for one in told if "change_inside" in one.metrics]
    changed = [one for one in first if one.l1 > 0]
    return {
        FLIP_RATE: flip_rate([one.is_normal for one in first]) if first else float("nan"),
        CHANGE_INSIDE: float(np.nanmean(inside)) if inside else float("nan"),
        "changed_fraction": float(np.median([one.changed_fraction for one in changed])) if changed else float("nan"),
        "l1": float(np.median([one.l1 for one in changed])) if changed else float("nan"),
        "explained": float(len(told)),
    }


def transferred(
    judges: Sequence[Judge], told: Sequence[Explanation], images: torch.Tensor, heard: Heard | None = None
) -> dict[str, float]:
    """What held-out judges say of counterfactuals of uint8 images [N,C,H,W]; see `xadflow.models.judges.transfer`.

    `heard` of the images themselves serves the next explainer too, see `xadflow.models.judges.ask`.
    """
    made = [found.image for one in told for found in one.counterfactuals]
    if not judges or not made:
        return {}
    words = iter(ask(judges, np.stack(made)))
    after = [[next(words) for _ in one.counterfactuals] for one in told]
    return transfer_figures(told, ask(judges, images, heard), after)


def gate_figures(
    project: Project, dataset: str, detector: Detector, judges: Sequence[Judge] = (), bank: DonorBank | None = None
) -> dict[str, float]:
    """Figures that the gate judges, all on split `gate`: AUROC, flip rate, share of change inside the mask.

    The last two are of sparse counterfactuals, and left out without `sparse` under `explainers` of params.yaml. What
    `judges` say of these is reported beside them, as `sparse.transfer` and so on: they are small changes that one
    detector asks for, and no other one sees. With the donors of the detector version the same
    anomalies are explained by transplants, as `transplant.transfer`, `transplant.flip_rate` and so on, which
    gate.min_transfer is for. Of large images no more are explained than a shard of a night holds: all of these pictures
    are in memory together.

    Where the split has fewer than `gate.min_images` anomalies, as a product without known defects has, defects are
    drawn on its normals and explained instead: what explanations are worth can be told from these. How well a detector
    finds drawn ones says little of real ones, so that AUROC is reported as `synthetic.auroc` and is no `auroc`.
    """
    settings = project.settings
    manifest = read_manifest(project.home.dataset(dataset))
    scored = score_split(project, detector, manifest, dataset, Split.GATE)
    figures, heard = detection_figures(scored, detector.calibration.threshold, settings.seed), Heard()
    if figures[ANOMALIES] < settings.gate.min_images and figures[NORMALS]:
        scored = with_drawn_defects(project, detector, scored)
        figures |= {"synthetic.auroc": auroc(scored.scores, scored.labels)}
    most = min(settings.gate.explained, max(settings.gate.min_images, settings.explain.shard_of(detector.input_shape)))
    if SPARSE in settings.explainers:
        chosen, told = explain_some(project, detector, scored, SPARSE, most)
        said = transferred(judges, told, scored.images[chosen], heard)
        figures |= explanation_figures(told) | {f"{SPARSE}.{name}": value for name, value in said.items()}
    if bank is not None:
        chosen, told = explain_some(project, detector, scored, TRANSPLANT, most, bank)
        said = {**explanation_figures(told), **transferred(judges, told, scored.images[chosen], heard)}
        figures |= {f"{TRANSPLANT}.{name}": value for name, value in said.items()}
    return figures


def detection_figures(scored: Scored, threshold: float, seed: int) -> dict[str, float]:
    """What the gate judges of detection: AUROC with its interval where both classes are there, and how many of each."""
    anomalies = int(scored.labels.sum())
    counts = {NORMALS: float(len(scored.labels) - anomalies), ANOMALIES: float(anomalies)}
    if not scored.can_be_ranked:
        return counts
    summary = scored.summary(threshold, seed)
    return {**counts, AUROC: summary.auroc, AUROC_LOW: summary.auroc_low, AUROC_HIGH: summary.auroc_high}


def with_drawn_defects(project: Project, detector: Detector, scored: Scored) -> Scored:
    """The normals of `scored`, and as many drawn defects on them as the gate explains, in place of its anomalies."""
    kept = np.flatnonzero(scored.labels == 0)
    normals = scored.images[torch.from_numpy(kept)]
    its = project.settings.explain
    most, batch = (
        min(project.settings.gate.explained, its.shard_of(detector.input_shape)),
        its.batch_of(detector.input_shape),
    )
    rounds = -(-most // len(kept))
    generator = seeded(project.settings.seed, "defects of the gate", device=project.device)
    drawn, _ = synthetic_rounds(normals, "defects", rounds, batch, project.device, generator)
    drawn = drawn[:most].cpu()
    rows = tuple(scored.rows[place] for place in kept)
    return Scored(
        (*rows, *(rows[number % len(rows)] for number in range(len(drawn)))),
        torch.cat([normals, drawn]),
        np.concatenate([scored.scores[kept], score_images(detector, drawn, batch, project.device)]),
        np.concatenate([np.zeros(len(kept), np.int64), np.ones(len(drawn), np.int64)]),
    )


def flat(prefix: str, figures: Mapping[str, Any]) -> dict[str, float]:
    """Figures named `prefix.name`, without those that are not finite numbers (MLflow has no place for them)."""
    return {f"{prefix}.{name}": float(value) for name, value in figures.items() if np.isfinite(float(value))}
