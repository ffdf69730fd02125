"""One shard of a night: decode, score, explain, encode, validate, publish. At most one commit a table.

`explanations` is committed first and `scores` last, so that an image with a score row is complete.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xadflow.detectors.base import Detector, bit_depth_of
from xadflow.detectors.scoring import open_detector, score_images
from xadflow.digests import sha256_json
from xadflow.errors import BadImage, BadWeights
from xadflow.evidence.rows import as_tables, explanation_row, score_row
from xadflow.evidence.store import EvidenceStore, shard_app
from xadflow.explainers import Explainer, build_explainer, load_explainer
from xadflow.explainers.base import Explanation
from xadflow.explainers.settings import settings_of
from xadflow.images import ImageLimits, as_float, load_input
from xadflow.lineage import RunIdentity
from xadflow.models.donors import given_donors
from xadflow.models.judges import Heard, judges_lineage, open_judges, with_words
from xadflow.project import Project
from xadflow.settings import Home
from xadflow.settings.blocks import at_once
from xadflow.training.lanes import portions, side_by_side
from xadflow.work.night.plan import NightPlan, PlannedImage, resolve_root

DECODE_THREADS = 4

Update = Callable[[int, int, Mapping[str, float]], None]
DeviceSlot = Callable[[], AbstractContextManager[None]]


@dataclass
class ShardFigures:
    """What one shard did: counts, seconds a phase, refused images with their reasons, and the commits it made."""

    shard: int
    images: int = 0
    anomalous: int = 0
    explained: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    commits: dict[str, int | None] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the wall time of a block to `seconds[name]`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class _Scored:
    """The images of a shard that could be read, uint8 [N,C,H,W], with the detector that scored them and raw figures."""

    plan: NightPlan
    planned: Sequence[PlannedImage]
    images: torch.Tensor
    detector: Detector
    scores: NDArray[np.float64]

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """Which are anomalous."""
        return self.scores > self.detector.calibration.threshold

    def rows(self) -> list[dict[str, Any]]:
        """Their rows of `scores`, those that are stored already included."""
        now, calibration = dt.datetime.now(dt.UTC), self.detector.calibration
        p_values = calibration.p_value(self.scores)
        return [
            score_row(self.plan, image, float(score), calibration.threshold, float(p_value), now)
            for image, score, p_value in zip(self.planned, self.scores, p_values, strict=True)
        ]


@lru_cache(maxsize=4)
def _detector(folder: str, weights: str, device: torch.device) -> Detector:
    """One detector a process; the weights' digest is part of the key, so a folder written anew is read anew."""
    return open_detector(Path(folder), device)


@lru_cache(maxsize=4)
def _trained(folder: str, files: str, weights: str, device: torch.device) -> Explainer:
    """One trained explainer a process; `files`, the digest of its files, makes a folder written anew be read anew."""
    explainer = load_explainer(Path(folder)).to(device)
    if explainer.explained.weights != weights:
        raise BadWeights(
            "the explainer was trained for another detector",
            seen=f"it explains weights {explainer.explained.weights[:12]}, in service are {weights[:12]}",
            next_step="train it again by `xadflow retrain`",
        )
    return explainer


def _explainer(plan: NightPlan, name: str, weights: str, device: torch.device) -> Explainer:
    """An explainer of the plan, in the very version that was planned. Raises BadWeights."""
    of = plan.trained.get(name)
    if of is None:
        return build_explainer(name, **plan.explainers[name])
    explainer = _trained(of["folder"], of["files"], weights, device)
    if explainer.version != plan.explainer_versions[name]:
        raise BadWeights(
            "the explainer's files changed since the night was planned",
            seen=explainer.version,
            next_step="run the same command again",
        )
    return explainer


def explain_shard(
    project: Project, plan: NightPlan, index: int, update: Update | None = None, device_slot: DeviceSlot = nullcontext
) -> ShardFigures:
    """Do shard `index` of a plan and publish it; doing it again adds nothing.

    An image that cannot be read any more, or has other bytes than its image_id says, is reported in `refused` and gets
    no row, so that a later night does it once its file is back; the others are done.
    `device_slot` is entered for the work on the device only: another shard decodes or writes meanwhile.

    Raises:
        ValidationFailed: Great Expectations refused the shard; nothing of it is visible.
        StoreConflict, StoreBroken: the tables could not be written.
    """
    figures = ShardFigures(index)
    detector = _detector(plan.detector_folder, plan.identity["weights"], project.device)
    with figures.phase("decode"):
        planned, images = _decode(project, detector, plan.shards[index], figures)
    figures.images = len(planned)
    if planned:
        with device_slot():
            with figures.phase("score"):
                scores = score_images(
                    detector, images, project.settings.explain.batch_of(images.shape[1:]), project.device
                )
            scored = _Scored(plan, planned, images, detector, scores)
            left = scored.rows()
            explanations = _explanations(project, scored, left, figures, update)
        figures.anomalous = int(scored.flagged.sum())
        new = [row for row, image in zip(left, planned, strict=True) if not image.scored]
        _publish(project.store, plan, planned, figures, new, explanations)
    _write_figures(project.home, plan, figures)
    return figures


def _decode(
    project: Project, detector: Detector, shard: Sequence[PlannedImage], figures: ShardFigures
) -> tuple[list[PlannedImage], torch.Tensor]:
    channels, height, width = detector.input_shape
    limits = ImageLimits(**project.settings.limits.model_dump(), max_bits=bit_depth_of(detector))

    def load(image: PlannedImage) -> NDArray[np.uint8] | BadImage:
        try:
            path = resolve_root(project.home, image.root) / image.path
            return load_input(path, (height, width), channels, limits, image_id=image.image_id)
        except BadImage as err:
            return err

    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        loaded = list(pool.map(load, shard))
    good = [(image, one) for image, one in zip(shard, loaded, strict=True) if not isinstance(one, BadImage)]
    figures.refused = {
        image.path: one.wrong for image, one in zip(shard, loaded, strict=True) if isinstance(one, BadImage)
    }
    stacked = np.stack([one for _, one in good]) if good else np.zeros((0, channels, height, width), np.uint8)
    return [image for image, _ in good], torch.from_numpy(stacked)


def _explanations(
    project: Project, scored: _Scored, left: Sequence[Mapping[str, Any]], figures: ShardFigures, update: Update | None
) -> list[dict[str, Any]]:
    """Rows of `explanations` for what is flagged, explainer by explainer; `left` are the rows of `scores`."""
    plan, identity, device = scored.plan, RunIdentity(**scored.plan.identity), project.device
    judges, heard = open_judges(plan.judges, device), Heard()
    whole = project.settings.explain.batch_of(scored.images.shape[1:])  # of a batch, of scoring and of explaining
    flagged = scored.flagged
    todos = {
        name: [i for i, image in enumerate(scored.planned) if flagged[i] and name in image.missing]
        for name in plan.explainers
    }
    done, total = 0, sum(map(len, todos.values()))
    rows: list[dict[str, Any]] = []
    for name, todo in todos.items():
        explainer = _explainer(plan, name, identity.weights, device)
        of = plan.trained.get(name, {})
        lineage = {f"explainer_{key}": of[key] for key in ("model_name", "model_version", "files") if key in of}
        if not of:  # a trained one keeps its settings in its files
            lineage["explainer_settings"] = settings_of(explainer, plan.explainers[name])
        explainer, given = given_donors(
            explainer, project.home, project.settings, Path(plan.detector_folder), plan.dataset
        )
        lineage |= given | judges_lineage(plan.judges)
        batches = portions(todo, whole, device)
        side = at_once(scored.images.shape[1:], project.settings.explain.batch_px)
        told: list[list[Explanation]] = []
        with figures.phase(f"explain {name}"):
            for one in side_by_side(partial(_told, explainer, scored, device), batches, device, side):
                told.append(one)
                done += len(one)
                if update is not None:
                    update(done, total, {})
        for batch, one in zip(batches, told, strict=True):
            with figures.phase("ask judges"):
                judged = with_words(judges, one, scored.images[list(batch)], heard)
            with figures.phase("encode"):
                lineages = _lineages(scored, identity, batch, judged, lineage, whole)
                rows += _encoded(scored, left, batch, judged, name, explainer, lineages)
    return rows


def _told(explainer: Explainer, scored: _Scored, device: torch.device, batch: Sequence[int]) -> list[Explanation]:
    return explainer.explain(scored.detector, as_float(scored.images[list(batch)].to(device)))


def _lineages(
    scored: _Scored,
    identity: RunIdentity,
    batch: Sequence[int],
    told: Sequence[Explanation],
    lineage: Mapping[str, Any],
    whole: int,
) -> list[str]:
    """What the explanations of one batch follow from; judges only where there are counterfactuals that they saw."""
    members = sha256_json([scored.planned[i].image_id for i in batch])
    return [
        identity.to_json(
            batch_members=members,
            batch_size=len(batch),
            batch_position=position,
            score_batch_size=min(whole, len(scored.planned) - i // whole * whole),
            score_batch_position=i % whole,
            **{key: value for key, value in lineage.items() if one.counterfactuals or not key.startswith("judge")},
        )
        for position, (i, one) in enumerate(zip(batch, told, strict=True))
    ]


def _encoded(
    scored: _Scored,
    left: Sequence[Mapping[str, Any]],
    batch: Sequence[int],
    told: Sequence[Explanation],
    name: str,
    explainer: Explainer,
    lineages: Sequence[str],
) -> list[dict[str, Any]]:
    def encode(position: int) -> dict[str, Any]:
        i = batch[position]
        return explanation_row(
            left[i],
            explainer=name,
            explainer_version=explainer.version,
            seed=explainer.seed,
            original=scored.images[i].numpy(),
            explanation=told[position],
            lineage=lineages[position],
        )

    with ThreadPoolExecutor(DECODE_THREADS) as pool:  # zlib releases the GIL
        return list(pool.map(encode, range(len(batch))))


def _publish(
    store: EvidenceStore,
    plan: NightPlan,
    planned: Sequence[PlannedImage],
    figures: ShardFigures,
    score_rows: list[dict[str, Any]],
    explanation_rows: list[dict[str, Any]],
) -> None:
    from xadflow.datasets.quality import validate_shard  # Great Expectations takes seconds to import

    scores, explanations = as_tables(score_rows, explanation_rows)
    with figures.phase("validate"):
        validate_shard(scores, explanations, {image.image_id: len(image.missing) for image in planned})
    ids = [image.image_id for image in planned]
    with figures.phase("write"):
        for table, rows in (("explanations", explanations), ("scores", scores)):
            if rows.num_rows:
                app = shard_app(table, plan.dataset, plan.model_name, plan.model_version, plan.explainers_digest, ids)
                published = store.publish(table, rows, app=app)
                figures.commits[table] = published.version if published.added else None
    figures.explained = len({row["image_id"] for row in explanation_rows})


def _write_figures(home: Home, plan: NightPlan, figures: ShardFigures) -> None:
    path = home.runs / "explain" / plan.run_id / f"shard-{figures.shard:05d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(figures), sort_keys=True))


def read_figures(home: Home, run_id: str) -> list[ShardFigures]:
    """Figures of every shard of a run that is done, in order."""
    folder = home.runs / "explain" / run_id
    return [ShardFigures(**json.loads(path.read_text())) for path in sorted(folder.glob("shard-*.json"))]
