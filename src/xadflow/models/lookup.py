"""Which version is meant, and where its files are, for commands that only read: without loading MLflow where they can.

Loading MLflow and its database layer costs more processor time than scoring an image. What is asked here is a look at
four of its tables, so the embedded store is opened read-only and looked at, if its schema is the one that is known
here. All else is MLflow's to answer: a server, another database or schema, and whatever is not found, with its error.
The files are checked alike, whoever said where they are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from xadflow.errors import NoChampion, WrongUse
from xadflow.models.places import folder_of
from xadflow.models.registry import CHAMPION, Registry
from xadflow.models.tracking_store import is_server, sqlite_file, sqlite_revision
from xadflow.models.versions import ModelRef, checked_folder, dataset_of, parse_spec

SCHEMA = "dc11669786a5"
"""Revision of MLflow's tables, those of the version in requirements.lock; another one is left to MLflow itself."""
_WAIT_S = 5.0
Answer = TypeVar("Answer")
_OURS = "workspace = 'default'"  # MLflow's own, for who names none


def find_detector(registry: Registry, spec: str) -> tuple[ModelRef, Path]:
    """The detector version that `name@alias` or `name/3` means, and the folder of its files, as they were registered.

    Raises WrongUse, UnknownName, NoChampion, BadWeights, RegistryUnavailable: as :class:`Registry` does.
    """
    name, which = parse_spec(spec)
    found = _ask(registry.uri, lambda database: _version(database, name, which))
    if found is not None:
        ref, address = found
        folder = folder_of(ref, address, registry.artifacts) if ref.part == "detector" else None
        if folder is not None:
            return ref, checked_folder(folder, ref)
    ref = registry.resolve(spec)
    return ref, registry.detector_folder(ref)


def champions(registry: Registry) -> dict[str, int]:
    """Versions in service, by the names of the detectors' models; {} before there is a store, which is not made.

    Raises RegistryUnavailable.
    """
    if registry.uri.startswith("sqlite:///") and sqlite_revision(sqlite_file(registry.uri)) is None:
        return {}
    query = f"select name, version from registered_model_aliases where alias = ? and {_OURS}"
    rows = _ask(registry.uri, lambda database: database.execute(query, (CHAMPION,)).fetchall())
    found = registry.carrying(CHAMPION) if rows is None else {str(name): int(version) for name, version in rows}
    return {name: found[name] for name in sorted(found) if name.startswith("xad.") and name.count(".") == 2}


def count_versions(registry: Registry, dataset: str) -> dict[str, int]:
    """How many versions each model of a data set has, judges and explainers included; {} before there is a store."""
    if registry.uri.startswith("sqlite:///") and sqlite_revision(sqlite_file(registry.uri)) is None:
        return {}
    query = (
        "select name, count(*) from model_versions where substr(name, 1, ?) = ? "
        f"and current_stage != 'Deleted_Internal' and {_OURS} group by name order by name"
    )
    prefix = f"xad.{dataset}."
    rows = _ask(registry.uri, lambda database: database.execute(query, (len(prefix), prefix)).fetchall())
    if rows is not None:
        return {str(name): int(count) for name, count in rows}
    return {one.name: len(one.versions) for one in registry.models() if one.name.startswith(prefix)}


def only_champion(registry: Registry, datasets: Collection[str], first: str) -> str:
    """`name@champion` of the one detector that is in service for any of these data sets.

    Raises:
        NoChampion: there is none; `first` is the data set to train.
        WrongUse: there are several; each is named.
    """
    found = [f"{name}@{CHAMPION}" for name in champions(registry) if dataset_of(name) in datasets]
    if not found:
        raise NoChampion(
            "no detector of any data set is in service",
            seen="no model with the alias champion",
            next_step=f"run `xadflow retrain --dataset {first}`, or name a version by --model",
        )
    if len(found) > 1:
        raise WrongUse(
            "several detectors are in service, and nothing says which of them these images are for",
            seen=", ".join(found),
            next_step=f"name one, e.g. `--model {found[0]}`",
        )
    return found[0]


def _version(database: sqlite3.Connection, name: str, which: str | int) -> tuple[ModelRef, str] | None:
    """A version and the address of its files, as MLflow's tables have them; None where they have no such version."""
    number = which
    if isinstance(which, str):
        query = f"select version from registered_model_aliases where name = ? and alias = ? and {_OURS}"
        alias = database.execute(query, (name, which)).fetchone()
        if alias is None:
            return None
        number = int(alias[0])
    query = (
        "select run_id, coalesce(nullif(storage_location, ''), source) from model_versions "
        f"where name = ? and version = ? and current_stage != 'Deleted_Internal' and {_OURS}"
    )
    found = database.execute(query, (name, number)).fetchone()
    if found is None:
        return None
    query = f"select key, value from model_version_tags where name = ? and version = ? and {_OURS}"
    tags = dict(database.execute(query, (name, number)).fetchall())
    return ModelRef(name, int(number), str(found[0]), tags), str(found[1])


def _ask(uri: str, question: Callable[[sqlite3.Connection], Answer]) -> Answer | None:
    """The embedded store's answer; None where MLflow is to be asked: no such store, or tables not known here."""
    if is_server(uri) or not uri.startswith("sqlite:///") or not (file := sqlite_file(uri)).is_file():
        return None
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=_WAIT_S)) as database:
            known = database.execute("select version_num from alembic_version").fetchall() == [(SCHEMA,)]
            return question(database) if known else None
    except sqlite3.Error:
        return None  # MLflow says what is wrong with it
