"""What a registered model is, without MLflow: names, versions, and the rule for a model's files.

A detector is xad.<dataset>.<detector>, an explainer that was trained for it xad.<dataset>.<detector>.<explainer>, and
xad.<dataset>.judge is the data set's judge, a detector that never serves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Literal

from xadflow.cards import checked_calibration, checked_shape, read_card
from xadflow.digests import sha256_file
from xadflow.errors import BadWeights, WrongUse
from xadflow.models.tags import EXPLAINS_VERSION, EXPLAINS_WEIGHTS, FILES, GATE_REASONS, RECALIBRATED_FROM

SAFE = frozenset({".json", ".safetensors"})
Part = Literal["detector", "explainer"]
DETECTOR_WEIGHTS = "weights.safetensors"
NEEDED: Mapping[Part, tuple[str, ...]] = {
    "detector": ("detector.json", DETECTOR_WEIGHTS),
    "explainer": ("explainer.json",),
}
_DIGEST = re.compile(r"[0-9a-f]{64}")
_DIGITS = 10
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True)
class Explains:
    """The detector version that a trained explainer belongs to, and the sha256 of that version's weight file."""

    version: int
    weights: str

    def as_tags(self) -> dict[str, str]:
        """As an explainer's version carries it."""
        return {EXPLAINS_VERSION: str(self.version), EXPLAINS_WEIGHTS: self.weights}


@dataclass(frozen=True)
class ModelRef:
    """One version of a registered model, its training run and its tags."""

    name: str
    version: int
    run_id: str
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, str]:
        """Its registered files by sha256; {} where its tag does not tell, and no file of it is loaded then."""
        return _listed(self.tags.get(FILES, ""))

    @property
    def explains(self) -> Explains | None:
        """Whom a trained explainer explains; None for a detector."""
        if EXPLAINS_VERSION not in self.tags:
            return None
        number = self.tags[EXPLAINS_VERSION]
        whom = int(number) if number.isascii() and number.isdigit() and len(number) < _DIGITS else 0
        return Explains(whom, self.tags.get(EXPLAINS_WEIGHTS, ""))  # no version is 0: it explains none

    @property
    def recalibrated_from(self) -> int | None:
        """The version whose weights it has with another threshold; None for one that was trained."""
        number = self.tags.get(RECALIBRATED_FROM, "")
        return int(number) if number.isascii() and number.isdigit() and len(number) < _DIGITS else None

    @property
    def gate_reasons(self) -> tuple[str, ...]:
        """What the gate gave as reasons; () where it was not asked, or its tag does not tell."""
        try:
            reasons = json.loads(self.tags.get(GATE_REASONS, "[]"))
        except (ValueError, RecursionError):
            return ()
        return tuple(map(str, reasons)) if isinstance(reasons, list) else ()

    @property
    def is_judge(self) -> bool:
        """Whether it is a data set's judge, which is asked about counterfactuals and never serves."""
        return is_judge(self.name)

    @property
    def part(self) -> Part:
        """What is registered."""
        return "detector" if self.explains is None else "explainer"

    @property
    def as_explained(self) -> Explains:
        """This detector version, as an explainer of it names it."""
        return Explains(self.version, self.files.get(DETECTOR_WEIGHTS, ""))


@dataclass(frozen=True)
class VersionSummary:
    """One version for listings: `figures` are its run's metrics, `verdict` what the gate said ("" when not asked).

    `explains` is the detector version that a trained explainer belongs to, `recalibrated_from` the one that a version
    has its weights of.
    """

    version: int
    run_id: str
    created: datetime
    figures: Mapping[str, float]
    verdict: str
    explains: int | None = None
    recalibrated_from: int | None = None


@dataclass(frozen=True)
class ModelSummary:
    """One registered model for listings: aliases to version numbers, and its versions, newest first."""

    name: str
    aliases: Mapping[str, int]
    versions: tuple[VersionSummary, ...]


def checked_name(name: str) -> str:
    """`name`, if it can name a model: letters, digits, dot, dash, underscore. Raises WrongUse."""
    if not _NAME.fullmatch(name):
        raise WrongUse(
            "a model name holds letters, digits, dots, dashes and underscores only",
            seen=name,
            next_step="use xad.<dataset>.<detector>; `xadflow models list` shows the names",
        )
    return name


def parse_spec(spec: str) -> tuple[str, str | int]:
    """Model name and alias, or version number, of `name@alias` or `name/3`. Raises WrongUse."""
    name, at, alias = spec.partition("@")
    if at and alias:
        return checked_name(name), alias
    name, slash, number = spec.partition("/")
    if slash and number.isascii() and number.isdigit():
        return checked_name(name), int(number)
    meant = found.group() if (found := _NAME.match(spec)) else "xad.elpv.fcdd"
    raise WrongUse(
        "a model is named by alias or version: name@alias or name/3", seen=spec, next_step=f"use e.g. {meant}@champion"
    )


def judge_of(dataset: str) -> str:
    """Name of the model of a data set's judge."""
    return f"xad.{dataset}.judge"


def is_judge(model_name: str) -> bool:
    """Whether a model of this name is the judge of a data set."""
    return model_name.count(".") == 2 and model_name.endswith(".judge")


def detector_of(explainer_model: str) -> str:
    """Name of the detector's model, of the name of its explainer's."""
    return explainer_model.rpartition(".")[0]


def saved_files(folder: Path, part: Part) -> dict[str, str]:
    """Relative path to sha256 of every file that a detector or trained explainer saved.

    Raises:
        BadWeights: a needed file is missing, or one is there that is neither JSON nor safetensors (a pickle can run
            code when it is loaded), or is not a plain file.
    """
    if missing := [name for name in NEEDED[part] if not (folder / name).is_file()]:
        raise BadWeights(
            f"the folder holds no saved {part}",
            seen=f"{folder.name} without {missing}",
            next_step="save it by its own `save`, or run `xadflow retrain`",
        )
    entries = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    unsafe = [path for path in entries if path.is_symlink() or not path.is_file() or path.suffix.lower() not in SAFE]
    if unsafe:
        raise BadWeights(
            f"a saved {part} may hold JSON and safetensors only, never pickle",
            seen=[path.relative_to(folder).as_posix() for path in unsafe][:5],
            next_step="save tensors by safetensors and settings as JSON in `save`",
        )
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in entries}


def check_files(folder: Path, ref: ModelRef) -> None:
    """See that `folder` holds the files that a version was registered with, byte for byte, and no other that is loaded.

    Raises:
        BadWeights: that names the first odd one, or says that the version's tag does not cover the files it needs.
    """
    registered, what = ref.files, f"{ref.name} version {ref.version}"
    if missing := [name for name in NEEDED[ref.part] if name not in registered]:
        raise BadWeights(
            f"{what} was not registered with the digests of the files it needs",
            seen=f"tag {FILES} without {missing}: {ref.tags.get(FILES, 'no tag')[:80]}",
            next_step=_another(ref, "or take the version away in MLflow"),
        )
    for file, digest in registered.items():
        path = folder / file
        seen = sha256_file(path) if path.is_file() else "missing"
        if seen != digest:
            raise BadWeights(
                f"a file of {what} is not the one that was registered",
                seen=f"{file}: {seen[:16]}",
                next_step=_another(ref, "or restore var/mlartifacts from a backup"),
            )
    loadable = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SAFE)
    if more := [name for path in loadable if (name := path.relative_to(folder).as_posix()) not in registered]:
        raise BadWeights(
            f"a file lies with {what} that was not registered with it",
            seen=more[:5],
            next_step=f"take it away, {_another(ref, 'or restore var/mlartifacts from a backup')}",
        )


def checked_folder(folder: Path, ref: ModelRef) -> Path:
    """`folder`, seen to hold the registered bytes of a version, with a card that can be used. Raises BadWeights."""
    check_files(folder, ref)
    for name in NEEDED[ref.part]:
        if name.endswith(".json"):
            card = read_card(folder / name)
            checked_calibration(card, folder / name)
            checked_shape(card, folder / name)
    return folder


def dataset_of(name: str) -> str:
    """The data set that a model's name holds, or NAME as it stands in a command."""
    return name.split(".")[1] if name.count(".") >= 2 else "NAME"


def _another(ref: ModelRef, last: str) -> str:
    """What to do about a version that cannot be loaded."""
    return (
        f"make a new version by `xadflow retrain --dataset {dataset_of(ref.name)}`, "
        f"go back by `xadflow models rollback {ref.name}`, {last}"
    )


def _listed(tag: str) -> dict[str, str]:
    """Files by sha256 of a version's tag; {} of one that is anything else, or names a file outside its folder."""
    try:
        files = json.loads(tag)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(files, dict):
        return {}
    for name, digest in files.items():
        path = PurePosixPath(name)
        inside = not path.is_absolute() and ".." not in path.parts and path.suffix.lower() in SAFE
        if not inside or not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            return {}
    return files
