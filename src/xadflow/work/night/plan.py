"""What a night has to do: every (image, model version, explainer, explainer version) that has no row yet.

A plan is a JSON file; the tasks hand its path around, never images or models. It is formed once a run: champion,
lineage, explainers and shards are fixed in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from xadflow.datasets.manifest import Manifest, Split, read_manifest
from xadflow.digests import sha256_file, sha256_json
from xadflow.errors import WorkFailed
from xadflow.images import ImageLimits
from xadflow.lineage import NIGHT_CODE, RunIdentity, code_digest, dvc_hashes, git_commit, library_versions
from xadflow.models.judges import JudgeRef, find_judges
from xadflow.models.versions import ModelRef
from xadflow.project import Project
from xadflow.settings import Home
from xadflow.work.night.chosen import choose_explainers
from xadflow.work.numbers import rows_of_another


@dataclass(frozen=True)
class PlannedImage:
    """One image to do; `path` is relative to the project or state folder named by `root`; `scored` needs no
    new score.
    """

    image_id: str
    root: str
    path: str
    scored: bool
    missing: tuple[str, ...]


@dataclass(frozen=True)
class NightPlan:
    """One night of one data set; `trained` and `left_out` are those of :class:`xadflow.work.night.chosen.Chosen`.

    `judges` are asked about every counterfactual, in the versions named here; `no_judge` says why there is none.
    """

    dataset: str
    detector: str
    run_date: str
    run_id: str
    model_name: str
    model_version: int
    model_run: str
    detector_folder: str
    explainers: Mapping[str, Mapping[str, Any]]
    explainer_versions: Mapping[str, str]
    identity: Mapping[str, Any]
    shards: tuple[tuple[PlannedImage, ...], ...]
    already: int
    admitted: int
    quarantined: Mapping[str, str] = field(default_factory=dict)
    trained: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    judges: tuple[JudgeRef, ...] = ()
    no_judge: str | None = None

    @property
    def explainers_digest(self) -> str:
        """Digest of the explainers' versions: part of a shard's idempotence key."""
        return sha256_json(dict(self.explainer_versions))

    @property
    def images(self) -> int:
        """How many images the plan holds."""
        return sum(len(shard) for shard in self.shards)


@dataclass(frozen=True)
class NightOrder:
    """What one night is asked to do.

    detector    whose champion; None is the first of retrain.detectors
    inbox       folder of new images, None is var/inbox/<dataset>; they enter by the border checks into a dated manifest
    sample      (anomalies, normals): only so many labelled images of split `test`, by image_id, and no inbox
    only_dates  only images that the inbox brought on these dates (a backfill), nothing new
    only_inbox  leave out the data set's test images
    explainers  which to run, None is explain.explainers and those trained for this detector; what is left out now is
                done by a later night that names it
    """

    dataset: str
    run_date: date
    run_id: str
    detector: str | None = None
    inbox: Path | None = None
    sample: tuple[int, int] | None = None
    only_dates: Sequence[date] | None = None
    only_inbox: bool = False
    explainers: Sequence[str] | None = None


def plan_night(project: Project, order: NightOrder) -> Path:
    """Resolve the champion once, admit new images, list the work and write plan.json; returns its path.

    Raises:
        NoChampion, BadManifest, WorkFailed (an inbox that is not a folder, rows under the champion's number that
        another model made), BadWeights (files that are not those registered, or an explainer of another detector
        version).
    """
    settings, registry = project.settings, project.registry
    dataset, detector = order.dataset, order.detector or settings.retrain.detectors[0]
    its = settings.dataset(dataset)
    champion = registry.champion(f"xad.{dataset}.{detector}")
    folder = registry.detector_folder(champion)
    if (odd := rows_of_another(project.store, champion, folder)) is not None:
        raise WorkFailed(
            f"rows under {champion.name} version {champion.version} are of another model",
            seen=odd,
            next_step=f"restore var/mlflow.db from a backup, or run `xadflow retrain --dataset {dataset}`: it takes a "
            "number that no row has",
        )
    chosen = choose_explainers(project, dataset, detector, champion, order.explainers)
    panel = find_judges(settings, registry, dataset, folder)

    manifests, quarantined, admitted = _manifests(project, order)
    if order.only_inbox:
        manifests = manifests[1:]
    done = project.store.scored(champion.name, champion.version)
    explained = project.store.explained(champion.name, champion.version)
    shards, already = _shards(
        _candidates(project.home, manifests, order.sample),
        done,
        explained,
        chosen.versions,
        settings.explain.shard_of((its.channels, *its.shape_px)),
    )
    plan = NightPlan(
        dataset=dataset,
        detector=detector,
        run_date=order.run_date.isoformat(),
        run_id=order.run_id,
        model_name=champion.name,
        model_version=champion.version,
        model_run=champion.run_id,
        detector_folder=str(folder),
        explainers=chosen.settings,
        explainer_versions=chosen.versions,
        identity=asdict(_identity(project, dataset, champion, folder)),
        shards=shards,
        already=already,
        admitted=admitted,
        quarantined=quarantined,
        trained=chosen.trained,
        left_out=chosen.left_out,
        judges=panel.judges,
        no_judge=panel.why_none,
    )
    path = project.home.runs / "explain" / order.run_id / "plan.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(plan), sort_keys=True))
    return path


def read_plan(path: Path) -> NightPlan:
    """Read what `plan_night` wrote."""
    raw = json.loads(path.read_text())
    shards = tuple(
        tuple(PlannedImage(**{**image, "missing": tuple(image["missing"])}) for image in shard)
        for shard in raw.pop("shards")
    )
    judges = tuple(JudgeRef(**one) for one in raw.pop("judges", ()))
    return NightPlan(**raw, shards=shards, judges=judges)


def resolve_root(home: Home, root: str) -> Path:
    """Folder that a planned image's path is relative to; only the two known roots are accepted."""
    return {"project": home.project, "state": home.state}[root]


def _identity(project: Project, dataset: str, champion: ModelRef, folder: Path) -> RunIdentity:
    import torch

    from xadflow.detectors.base import WEIGHTS

    return RunIdentity(
        commit=git_commit(project.home.project),
        code=code_digest(*NIGHT_CODE),
        data=dvc_hashes(project.home.project, dataset),
        parameters=sha256_json(project.settings.model_dump(mode="json")),
        model_name=champion.name,
        model_version=champion.version,
        weights=sha256_file(folder / WEIGHTS),
        seed=project.settings.seed,
        device=str(project.device),
        threads=1 if project.device.type == "cpu" else torch.get_num_threads(),  # see xadflow.training.lanes
        libraries=library_versions(),
    )


def _manifests(project: Project, order: NightOrder) -> tuple[list[Manifest], dict[str, str], int]:
    """The data set's own manifest and those of admitted inboxes; also tonight's refused files with reasons, and
    arrivals.
    """
    nights = project.home.state / "inbox-runs" / order.dataset
    if order.only_dates is not None:
        return [read_manifest(nights / day.isoformat()) for day in order.only_dates if _is_night(nights, day)], {}, 0
    own = read_manifest(project.home.dataset(order.dataset))
    if order.sample is not None:
        return [own], {}, 0
    quarantined: dict[str, str] = {}
    admitted = 0
    folder = order.inbox or project.home.inbox(order.dataset)
    if order.inbox is not None and not folder.is_dir():
        raise WorkFailed("the inbox is not a folder", seen=str(folder), next_step="name a folder of images")
    if folder.is_dir():
        from xadflow.datasets.inbox import admit_inbox

        tonight = nights / order.run_date.isoformat()
        admitted = len(admit_inbox(folder, ImageLimits(**project.settings.limits.model_dump()), tonight).rows())
        quarantined = quarantined_files(tonight)
    earlier = sorted(path.parent for path in nights.glob("*/manifest.parquet"))
    return [own, *(read_manifest(path) for path in earlier)], quarantined, admitted


def _is_night(nights: Path, day: date) -> bool:
    return (nights / day.isoformat() / "manifest.parquet").is_file()


def quarantined_files(folder: Path) -> dict[str, str]:
    """Refused files of a data set or inbox folder, with the reason of each."""
    import pyarrow.parquet as pq

    path = folder / "quarantine.parquet"
    if not path.is_file():
        return {}
    rows = pq.read_table(path, columns=["path", "reason"]).to_pylist()
    return {row["path"]: row["reason"] for row in rows}


def _candidates(
    home: Home, manifests: Iterable[Manifest], sample: tuple[int, int] | None
) -> dict[str, tuple[str, str]]:
    """image_id -> (root, relative path) of every image that a night may do; the first manifest that has it wins."""
    found: dict[str, tuple[str, str]] = {}
    for manifest in manifests:
        if sample is None:
            rows = manifest.rows(Split.TEST, Split.INBOX)
        else:
            anomalies, normals = sample
            rows = manifest.rows(Split.TEST, label=1)[:anomalies] + manifest.rows(Split.TEST, label=0)[:normals]
        for row in rows:
            path = manifest.folder / row.path
            root = "state" if path.is_relative_to(home.state) else "project"
            found.setdefault(row.image_id, (root, path.relative_to(resolve_root(home, root)).as_posix()))
    return found


def _shards(
    candidates: Mapping[str, tuple[str, str]],
    scored: Mapping[str, bool],
    explained: set[tuple[str, str, str]],
    versions: Mapping[str, str],
    size: int,
) -> tuple[tuple[tuple[PlannedImage, ...], ...], int]:
    """Images with anything missing, by image_id, cut into shards; and how many need nothing."""
    work: list[PlannedImage] = []
    for image_id in sorted(candidates):
        root, path = candidates[image_id]
        missing = tuple(
            name for name, version in sorted(versions.items()) if (image_id, name, version) not in explained
        )
        if image_id in scored and (not scored[image_id] or not missing):
            continue
        work.append(PlannedImage(image_id, root, path, image_id in scored, missing))
    shards = tuple(tuple(work[start : start + size]) for start in range(0, len(work), size))
    return shards, len(candidates) - len(work)
