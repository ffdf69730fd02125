"""Where the files of versions and runs lie: below our own folder of artifacts, wherever that has been moved to.

MLflow writes whole addresses into its database, so a project that was moved, copied or renamed keeps those of the old
place. Below the folder of artifacts every file lies alike, <experiment>/<run, or models/model>/artifacts, and by that
it is found again; an address anywhere else is nobody's of ours, and is never opened.
"""

from __future__ import annotations

import sqlite3
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath

from xadflow.errors import BadWeights, RegistryUnavailable
from xadflow.models.tracking_store import is_server, sqlite_file
from xadflow.models.versions import ModelRef, dataset_of

_LEVELS = 4  # <experiment>/models/<model>/artifacts
_OURS = ("xad.", "xadflow.")  # names of our experiments
_WAIT_S = 20.0
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def path_of(address: str) -> Path | None:
    """The path that a file address, or a bare path, means; None for a store that is not of files."""
    found = urllib.parse.urlparse(address)
    return Path(urllib.request.url2pathname(found.path)) if found.scheme in ("", "file") else None


def own_place(path: Path, artifacts: Path) -> Path | None:
    """Where the folder that MLflow knows as `path` lies below `artifacts`; None where nothing of it is there.

    A path below `artifacts` is itself. Of any other its last four parts are looked for there. What a link leads out of
    `artifacts` is not below it.
    """
    root = artifacts.resolve()
    for candidate in (path, root.joinpath(*path.parts[-_LEVELS:])):
        found = candidate.resolve()
        if found.is_relative_to(root) and found != root and found.is_dir():
            return found
    return None


def folder_of(ref: ModelRef, address: str, artifacts: Path) -> Path | None:
    """Folder of a version's own files, which MLflow knows by `address`; None where that is not of files.

    Raises BadWeights when they are not below `artifacts`: what lies elsewhere, anybody may have registered.
    """
    path = path_of(address)
    if path is None:
        return None
    place = own_place(path, artifacts)
    if place is None:
        raise BadWeights(
            f"the files of {ref.name} version {ref.version} are not below {artifacts.name}",
            seen=str(path),
            next_step=f"if they are this project's, copy them to the same place below var/{artifacts.name}; "
            f"else run `xadflow retrain --dataset {dataset_of(ref.name)}`",
        )
    return place / "artifacts" / ref.part


def left_behind(uri: str, artifacts: Path) -> list[str]:
    """Folders of other places that the embedded database names as those of our experiments: it was moved or copied.

    Empty for a server or another database, and before there is one.
    """
    if is_server(uri) or not uri.startswith("sqlite:///") or not (file := sqlite_file(uri)).is_file():
        return []
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=_WAIT_S)) as database:
            return sorted({str(path_of(old)) for old in _old_roots(database, artifacts)})
    except sqlite3.Error:
        return []  # what is wrong with the file is said by whoever opens it


def move_in(uri: str, artifacts: Path) -> None:
    """Give the embedded database the addresses of the place where it lies now, if it lies beside `artifacts`.

    Without that what is logged next would be written to the old place, which may belong to another project by now.

    Raises:
        RegistryUnavailable: it cannot be written.
    """
    old_roots = left_behind(uri, artifacts)
    if not old_roots or sqlite_file(uri).resolve().parent != artifacts.resolve().parent:
        return
    file = sqlite_file(uri)
    try:
        with closing(sqlite3.connect(file, timeout=_WAIT_S, isolation_level=None)) as database:
            database.execute("begin immediate")
            new = artifacts.resolve().as_uri()
            for old in _old_roots(database, artifacts):
                for table, column in _ADDRESSES:
                    database.execute(
                        f"update {table} set {column} = ? || substr({column}, ?) where substr({column}, 1, ?) = ?",
                        (new, len(old) + 1, len(old) + 1, f"{old}/"),
                    )
            database.execute("commit")
    except sqlite3.Error as err:
        raise RegistryUnavailable(
            "MLflow's database was moved here, and the new place of its files cannot be written into it",
            seen=f"{file.name}: {err}; it names {old_roots[0]}",
            next_step="make var/ writable for this user, then run the same command again",
        ) from err


def _old_roots(database: sqlite3.Connection, artifacts: Path) -> Iterator[str]:
    """Addresses of folders that are not `artifacts` and hold one of our experiments by its name or number."""
    root, seen = artifacts.resolve(), set[str]()
    query = "select experiment_id, name, artifact_location from experiments"
    for number, name, address in database.execute(query).fetchall():
        if not str(name).startswith(_OURS) or (path := path_of(str(address))) is None:
            continue
        old = str(address).rstrip("/").rpartition("/")[0]
        known = path.resolve().is_relative_to(root) or PurePosixPath(path).name not in (name, str(number))
        if old and not known and old not in seen:
            seen.add(old)
            yield old
