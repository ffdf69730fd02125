"""What a source of images is: candidates for one data set, each with a proposed split; nothing is decoded here.

A source only says what there is. The border (`xadflow.datasets.border`) reads, checks, hashes and writes the files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from xadflow.datasets.manifest import Split
from xadflow.errors import unknown_name
from xadflow.settings import DatasetSettings
from xadflow.settings.params_errors import explained


@dataclass(frozen=True)
class Candidate:
    """One image that a source offers.

    `content` is the file, or its bytes where the source makes them; `origin` is its name in the source, as quarantine
    states it; `target`, `mask_target` and `labels_target` are where image, mask and, of a scene, the map of class ids
    go, relative to images/, with forward slashes. Ids are below `classes`, or VOID. `root`: a link at or below it is
    refused; None for files of an installed package.
    """

    origin: str
    target: str
    content: bytes | Path
    split: Split
    label: int | None
    category: str
    defect: str | None
    source: str
    licence: str
    mask: bytes | Path | None = None
    mask_target: str | None = None
    labels: bytes | Path | None = None
    labels_target: str | None = None
    classes: int = 0
    root: Path | None = None


@dataclass(frozen=True)
class Refused:
    """One row of quarantine: `reason` is a short code, `detail` a sentence for people.

    `image_id` is known when the file was read whole; `bytes` is its size where that is known.
    """

    path: str
    reason: str
    detail: str
    image_id: str | None = None
    bytes: int | None = None


class Source(Protocol):
    """Where the images of one data set come from."""

    def raw_sets(self) -> tuple[str, ...]:
        """Names of the public sets whose raw files it reads, which `xadflow data fetch` brings."""

    def origin(self) -> str:
        """One line that changes whenever the images may have changed. Raises DataUnavailable."""

    def candidates(self) -> Iterator[Candidate | Refused]:
        """Every image offered, and what is left out with the reason, in a fixed order. Raises DataUnavailable."""


class Options(BaseModel):
    """Base of a source's options: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


OptionsKind = TypeVar("OptionsKind", bound=Options)


def read_options(kind: type[OptionsKind], name: str, options: Mapping[str, Any]) -> OptionsKind:
    """`datasets.<name>.options` as typed values. Raises BadSettings that names the key."""
    try:
        return kind.model_validate(dict(options))
    except ValidationError as err:
        raise explained(err, kind, place=f"datasets.{name}.options") from err


_BUILT_IN = {
    "coloured_mnist": "xadflow.datasets.sources.coloured_mnist:ColouredMnist",
    "elpv": "xadflow.datasets.sources.elpv:Elpv",
    "folder": "xadflow.datasets.sources.folder:Folder",
    "letters": "xadflow.datasets.sources.letters:Letters",
    "mosaic": "xadflow.datasets.sources.mosaic:Mosaic",
    "one_vs_rest": "xadflow.datasets.sources.one_vs_rest:OneVsRest",
    "photo_crops": "xadflow.datasets.sources.photo_crops:PhotoCrops",
    "scenes": "xadflow.datasets.sources.scenes:Scenes",
    "textures": "xadflow.datasets.sources.textures:Textures",
}


def open_source(name: str, dataset: DatasetSettings) -> Source:
    """The source of data set `name`. Raises UnknownName for a source that is not there, BadSettings for its options."""
    if dataset.source not in _BUILT_IN:
        raise unknown_name(f"datasets.{name}.source names no source of images", dataset.source, _BUILT_IN)
    module, _, kind = _BUILT_IN[dataset.source].partition(":")
    build: Callable[[str, Mapping[str, Any]], Source] = getattr(import_module(module), kind)
    return build(name, dataset.options)
