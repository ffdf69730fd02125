"""Make MLflow's database ready, or say why it cannot be reached; needs no import of MLflow in this process."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

from xadflow.errors import RegistryUnavailable
from xadflow.progress import take_lock

_REACH_S = 5.0
_CREATE_S = 600.0  # 5 s alone, 15 s on a busy machine
_SQLITE = "sqlite:///"
_SERVERS = "server.json"  # beside the database: what `make server` runs, empty when it is not up
_LAST_RESORT = (
    "without one move it away and run `xadflow retrain`, which makes new versions, numbered after those of the tables"
)


def prepare_store(uri: str, locks: Path) -> None:
    """Create MLflow's tables once, before any parallel work; nothing to do when they are there.

    `uri` is sqlite:///<file>, another database URI, or the http(s) address of a server, which is only asked for its
    health. A new SQLite file gets its name when it is complete, so a killed creation leaves no half database. Writers
    that start together wait for the first, by a lock file beside the database or in `locks`.

    Raises:
        RegistryUnavailable: no answer from the server, or a file that cannot be used.
    """
    if is_server(uri):
        ask_health(uri)
    elif uri.startswith(_SQLITE):
        path = sqlite_file(uri)
        if not sqlite_revision(path):
            _create_sqlite(path)
    else:
        _create_database(uri, locks)


def is_server(uri: str) -> bool:
    """Whether a tracking URI means a server rather than a database."""
    return uri.startswith(("http://", "https://"))


def sqlite_file(uri: str) -> Path:
    """File of a sqlite:/// URI."""
    return Path(uri.removeprefix(_SQLITE).partition("?")[0])


def sqlite_revision(path: Path) -> str | None:
    """Schema revision of an MLflow database file; None when there is no file, or an empty one.

    Raises:
        RegistryUnavailable: the file is something else.
    """
    try:
        if not path.exists() or path.stat().st_size == 0:
            return None
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=20)) as database:
            found = database.execute("select version_num from alembic_version").fetchone()
    except (sqlite3.Error, OSError) as err:
        raise RegistryUnavailable(
            "MLflow's database cannot be used",
            seen=f"{path.name}: {err}",
            next_step=f"restore {path.name} from a backup; {_LAST_RESORT}",
        ) from err
    if found is None:
        raise RegistryUnavailable(
            "MLflow's database was never completed",
            seen=path.name,
            next_step=f"restore {path.name} from a backup; {_LAST_RESORT}",
        )
    return str(found[0])


def ask_health(uri: str) -> None:
    """Ask an MLflow server for its health. Raises RegistryUnavailable when it does not answer in 5 s."""
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_REACH_S) as answer:
            answer.read()
    except (urllib.error.URLError, OSError, ValueError) as err:
        reason = str(getattr(err, "reason", err))
        raise RegistryUnavailable(
            "the MLflow server does not answer",
            seen=f"{shown(uri)}: {reason}",
            next_step="start it by `make server`, or mend MLFLOW_TRACKING_URI",
            transient=True,
        ) from err


def pages_at(uri: str) -> str | None:
    """Where MLflow's pages can be opened now: at the server itself, named without its login, or for the embedded store
    at the `make server` of its folder; None where neither answers.
    """
    if is_server(uri):
        return re.sub(r"//[^/@]*@", "//", uri.rstrip("/"))
    if not uri.startswith(_SQLITE):
        return None
    try:
        address = str(json.loads((sqlite_file(uri).parent / _SERVERS).read_bytes()[:100_000])["mlflow"])
        ask_health(address)
    except (OSError, ValueError, KeyError, TypeError, RegistryUnavailable):
        return None  # none is up, or it was killed
    return address


def shown(uri: str) -> str:
    """The URI without a password, fit for logs and messages."""
    return re.sub(r"(//[^/@:]*):[^@/]*@", r"\1:***@", uri)


def _create_sqlite(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            take_lock(lock, "another run, which makes MLflow's database")
            if sqlite_revision(path):
                return
            fresh = path.with_name(f".{path.name}.new")
            fresh.unlink(missing_ok=True)
            _upgrade(f"{_SQLITE}{fresh}")
            fresh.replace(path)
    except OSError as err:
        raise RegistryUnavailable(
            "MLflow's database cannot be created",
            seen=f"{path.name}: {err.strerror}",
            next_step="make its folder writable, or set XADFLOW_HOME",
        ) from err


def _create_database(uri: str, locks: Path) -> None:
    import sqlalchemy

    locks.mkdir(parents=True, exist_ok=True)
    with (locks / ".database.lock").open("w") as lock:
        take_lock(lock, "another run, which makes MLflow's database")
        try:
            engine = sqlalchemy.create_engine(uri)
            try:
                ready = sqlalchemy.inspect(engine).has_table("alembic_version")
            finally:
                engine.dispose()
        except (sqlalchemy.exc.SQLAlchemyError, ImportError) as err:
            raise RegistryUnavailable(
                "MLflow's database cannot be reached",
                seen=f"{shown(uri)}: {type(err).__name__}",
                next_step="start it, or mend MLFLOW_TRACKING_URI",
            ) from err
        if not ready:
            _upgrade(uri)


def _upgrade(uri: str) -> None:
    """MLflow's own command, in a child: its logging stays there, and a kill leaves this process sound."""
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", uri]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_CREATE_S, check=False)
    except subprocess.TimeoutExpired as err:
        raise RegistryUnavailable(
            "MLflow's database was not ready in time",
            seen=f"{_CREATE_S:.0f} s",
            next_step="run the command again on a less busy machine",
        ) from err
    if done.returncode != 0:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        raise RegistryUnavailable(
            "MLflow could not create its database",
            seen=" ".join(last)[:300],
            next_step=f"run `mlflow db upgrade {shown(uri)}` and read its output",
        )
