"""Where a replay gets its parts: registered models, explainers in the row's version, pixels, and the mates of a batch.

Nothing is taken on trust: models are the registered bytes and those of the lineage, an explainer has the row's version,
a file has the bytes that its image_id names, a batch has the digest of the lineage.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from xadflow.datasets.manifest import inside, read_manifest
from xadflow.detectors.base import WEIGHTS, Detector, bit_depth_of
from xadflow.detectors.scoring import open_detector
from xadflow.digests import sha256_file, sha256_json
from xadflow.errors import BadImage, BadManifest, BadSettings, BadWeights, UnknownName, WrongUse
from xadflow.evidence.replay.lineages import CannotReplay, Notes, commit_of, lineage_of
from xadflow.evidence.store import EvidenceStore
from xadflow.explainers import Explainer, build_explainer, load_explainer
from xadflow.explainers.base import TakesDonors, traits
from xadflow.explainers.settings import ExplainerSettings
from xadflow.images import ImageLimits, decode_png, load_input
from xadflow.models.donors import opened_bank
from xadflow.models.judges import Judge, JudgeRef, open_judges
from xadflow.models.registry import Registry
from xadflow.models.versions import ModelRef
from xadflow.settings import Home, Settings

_OF_ITS_IMAGE = (
    "batch",
    "score_batch",
    "explainer",
    "judge",
)  # keys of a lineage that another image of the run does not share


class Sources:
    """The parts of one project; a detector is opened once. Every method raises CannotReplay for what is gone."""

    def __init__(self, home: Home, settings: Settings, registry: Registry, store: EvidenceStore) -> None:
        self._home, self._settings, self._registry, self._store = home, settings, registry, store
        self._detectors: dict[tuple[str, int, torch.device], tuple[Detector, str]] = {}

    def detector(self, row: Mapping[str, Any], lineage: Mapping[str, Any], device: torch.device) -> Detector:
        """The detector version that a row names, its weights those of the lineage."""
        name, version = str(row["model_name"]), int(row["model_version"])
        if (name, version) != (lineage.get("model_name", name), lineage.get("model_version", version)):
            raise CannotReplay(
                f"its lineage names {lineage['model_name']} version {lineage['model_version']}, the row "
                f"{name} version {version}"
            )
        if (name, version, device) not in self._detectors:
            folder = self._files(self._registered(name, version))
            try:
                self._detectors[name, version, device] = open_detector(folder, device), sha256_file(folder / WEIGHTS)
            except (BadWeights, UnknownName, OSError) as err:
                raise CannotReplay(f"{name} version {version} cannot be opened: {err}"[:300]) from err
        detector, weights = self._detectors[name, version, device]
        if weights != lineage.get("weights", weights):
            raise CannotReplay(
                f"the weights of {name} version {version} are {weights[:16]}, its lineage names "
                f"{lineage['weights'][:16]}"
            )
        return detector

    def judges(self, lineage: Mapping[str, Any], device: torch.device) -> tuple[Judge, ...]:
        """The judges that were asked, in the versions and with the weights that the lineage names."""
        refs = []
        told = lineage.get("judges", [])
        for one in told if isinstance(told, list) else [told]:
            try:
                name, version, weights = str(one["model_name"]), int(one["model_version"]), str(one["weights"])
            except (TypeError, KeyError, ValueError) as err:
                raise CannotReplay(f"its lineage does not tell which judge was asked: {one!r}"[:200]) from err
            ref = self._registered(name, version)
            if ref.files.get(WEIGHTS) != weights:
                raise CannotReplay(
                    f"the weights of the judge {name} version {version} are not those of its lineage, {weights[:16]}"
                )
            refs.append(JudgeRef(name, version, str(self._files(ref)), weights, bool(one.get("apart"))))
        try:
            return open_judges(refs, device)
        except (BadWeights, UnknownName, OSError) as err:
            raise CannotReplay(f"a judge cannot be opened: {err}"[:300]) from err

    def explainer(
        self, row: Mapping[str, Any], lineage: Mapping[str, Any], device: torch.device, notes: Notes
    ) -> Explainer:
        """The explainer in the very version of the row."""
        try:
            trained = "explainer_model_name" in lineage
            built = self._trained(lineage, device) if trained else self._untrained(row, lineage, notes)
        except (UnknownName, BadSettings, BadWeights) as err:
            raise CannotReplay(f"its explainer cannot be built: {err.wrong} ({err.seen})") from err
        if built.version != row["explainer_version"]:
            raise CannotReplay(
                f"it was made by {row['explainer']} {row['explainer_version']}, here is {built.version}: check "
                f"out {commit_of(lineage)}, with the params.yaml of then"
            )
        return self._with_donors(built, row, lineage, notes)

    def _with_donors(
        self, built: Explainer, row: Mapping[str, Any], lineage: Mapping[str, Any], notes: Notes
    ) -> Explainer:
        """The explainer with the donors of the row's model version, if it takes any; those of the row must still be
        there.
        """
        if not isinstance(built, TakesDonors):
            return built
        folder = self._files(self._registered(str(row["model_name"]), int(row["model_version"])))
        try:
            opened = opened_bank(self._home, self._settings, folder, str(row["dataset"]))
        except BadWeights as err:
            raise CannotReplay(f"{err.wrong} ({err.seen})") from err
        if opened.bank is None:
            raise CannotReplay(f"its donors: {opened.why_none}")
        bank = opened.bank
        used = dict.fromkeys(str(one["donor_id"]) for one in row["counterfactuals"] or () if one.get("donor_id"))
        if gone := [one[:12] for one in used if one not in bank.ids]:
            raise CannotReplay(
                f"the image that it took pixels from, {', '.join(gone)}, is gone from {row['dataset']}, or "
                "changed since"
            )
        if bank.digest != lineage.get("donors"):
            then = lineage.get("donors_missing")
            notes.conditions["donors"] = (
                f"{bank.missing} of {len(opened.listed)} donors are gone" + (f", {then} were then" if then else "")
                if bank.missing or then
                else "other donors than then"
            )
        explainer: Explainer = built.with_donors(bank)
        return explainer

    def _trained(self, lineage: Mapping[str, Any], device: torch.device) -> Explainer:
        ref = self._registered(str(lineage["explainer_model_name"]), int(lineage.get("explainer_model_version", 0)))
        if sha256_json(ref.files) != lineage.get("explainer_files"):
            raise CannotReplay(f"the files of {ref.name} version {ref.version} are not those of its lineage")
        trained = load_explainer(self._files(ref)).to(device)
        if trained.explained.weights != lineage["weights"]:
            raise CannotReplay(f"{ref.name} version {ref.version} was trained for another detector")
        return trained

    def _untrained(self, row: Mapping[str, Any], lineage: Mapping[str, Any], notes: Notes) -> Explainer:
        name, given = str(row["explainer"]), lineage.get("explainer_settings")
        if given is None:
            given = self._settings.explainer(name)
            notes.assumed.append(
                f"the settings of {name} are not recorded: those of params.yaml, which must give its version"
            )
        built = build_explainer(name, **given)
        if built.version == row["explainer_version"]:
            return built
        kept = traits(built).settings
        later = kept.came_later if isinstance(kept, ExplainerSettings) else {}  # the row may be older than a setting
        return build_explainer(name, **{**later, **given})

    def _registered(self, name: str, version: int) -> ModelRef:
        try:
            return self._registry.resolve(f"{name}/{version}")
        except (UnknownName, WrongUse) as err:
            raise CannotReplay(f"{name} version {version} is not registered") from err

    def _files(self, ref: ModelRef) -> Path:
        try:
            if ref.part == "detector":
                return self._registry.detector_folder(ref)
            return self._registry.explainer_folder(ref)
        except BadWeights as err:
            raise CannotReplay(f"{err.wrong} ({err.seen})") from err

    def batch(
        self, row: Mapping[str, Any], lineage: Mapping[str, Any], original: NDArray[np.uint8], notes: Notes
    ) -> tuple[list[NDArray[np.uint8]], int]:
        """The images that were explained together, in order, and the place of this one; filled up with it if they are
        unknown.

        Each of them has a row of its own in the same commit, and in it its image.
        """
        size, position = lineage["batch_size"], lineage["batch_position"]
        where = _same_run(row) & (pc.field("explainer") == row["explainer"])
        places: dict[int, str] = {}
        for one in self._store.read("explanations", ["image_id", "lineage"], where=where).to_pylist():
            its = json.loads(one["lineage"])
            if its.get("batch_members") == lineage["batch_members"]:
                places[its.get("batch_position")] = str(one["image_id"])
        ids = [places.get(place, "") for place in range(size)]
        if "" in ids or sha256_json(ids) != lineage["batch_members"] or ids[position] != row["image_id"]:
            notes.conditions["batch"] = f"{len(places)} of its {size} images are known; filled up with this one"
            return [original] * size, position
        found = self._store.read("explanations", ["image_id", "original"], where=where & pc.field("image_id").isin(ids))
        pixels = {one["image_id"]: original_of(one) for one in found.to_pylist()}
        return [pixels[one] for one in ids], position

    def lineage_of_run(self, row: Mapping[str, Any], of_image: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        """The lineage of an explanation of this image and run, else what those of other images of its run share.

        Then the size of its batch is not known: the largest of the run stands for it, all but the last have that.
        """
        for one in of_image:
            if one["run_id"] == row["run_id"]:
                return lineage_of(one)
        others = self._store.read("explanations", ["image_id", "lineage"], where=_same_run(row)).to_pylist()
        if not others:
            return None
        each = [lineage_of(one) for one in others]
        size = max(one.get("score_batch_size", 1) for one in each)
        shared = {key: value for key, value in each[0].items() if not key.startswith(_OF_ITS_IMAGE)}
        return {**shared, "score_batch_size": size, "score_batch_position": 0, "score_batch_assumed": size}

    def from_file(self, row: Mapping[str, Any], detector: Detector) -> NDArray[np.uint8] | None:
        """The detector's input [C,H,W] from the image's file; None where no file has the bytes that its
        image_id names.
        """
        limits = ImageLimits(**self._settings.limits.model_dump(), max_bits=bit_depth_of(detector))
        channels, height, width = detector.input_shape
        for path in self._files_of(row):
            try:
                return load_input(path, (height, width), channels, limits, image_id=str(row["image_id"]))
            except BadImage:
                continue
        return None

    def _files_of(self, row: Mapping[str, Any]) -> Iterator[Path]:
        for root in (self._home.project, self._home.state):
            try:
                yield inside(root, str(row["image_path"]))
            except (BadManifest, OSError, ValueError):
                continue
        if row["dataset"] in self._settings.datasets:  # a forged row may hold any text there
            try:
                manifest = read_manifest(self._home.dataset(str(row["dataset"])))
                yield from (manifest.path_of(one) for one in manifest.rows() if one.image_id == row["image_id"])
            except BadManifest:
                return


def original_of(row: Mapping[str, Any]) -> NDArray[np.uint8]:
    """The uint8 [C,H,W] that a row stores as its original. Raises CannotReplay."""
    picture = row["original"]
    if picture is None or picture["bytes"] is None:
        raise CannotReplay("it holds no original")
    try:
        return decode_png(picture["bytes"])
    except BadImage as err:
        raise CannotReplay(f"its original cannot be decoded: {err.wrong}") from err


def _same_run(row: Mapping[str, Any]) -> Any:
    names = ("run_date", "run_id", "model_name", "model_version")
    first, *others = (pc.field(name) == row[name] for name in names)
    for other in others:
        first = first & other
    return first
