"""What `xadflow doctor` looks at in MLflow: the store or server itself, and which version is in service."""

from __future__ import annotations

from collections.abc import Iterator

from xadflow.commands.doctor_checks import Finding
from xadflow.errors import BadWeights, RegistryUnavailable
from xadflow.settings import Home, Settings


def mlflow_database(home: Home) -> Iterator[Finding]:
    """The embedded database's schema, or the server's health."""
    from xadflow.tracking.tracking_store import ask_health, is_server, shown, sqlite_file, sqlite_revision

    uri = home.mlflow_uri
    try:
        if is_server(uri):
            ask_health(uri)
            yield Finding("mlflow", "ok", f"server {shown(uri)} answers")
        elif not uri.startswith("sqlite:///"):
            yield Finding("mlflow", "ok", f"database {shown(uri)} (not opened)")
        elif revision := sqlite_revision(sqlite_file(uri)):
            yield Finding("mlflow", "ok", f"embedded database, schema {revision}")
        else:
            yield Finding("mlflow", "warn", "no database yet", "made by the first `xadflow retrain`")
    except RegistryUnavailable as err:
        yield Finding("mlflow", "fail", f"{err.wrong}: {err.seen}", err.next_step)


def champions(home: Home, settings: Settings) -> Iterator[Finding]:
    """The version in service of each data set that is explained, and whether its files are those registered."""
    from xadflow.tracking.tracking_store import is_server, sqlite_file, sqlite_revision

    uri = home.mlflow_uri
    names = [(one, f"xad.{one}.{detector}") for one in settings.explain.datasets for detector in settings.retrain.detectors]
    try:
        if uri.startswith("sqlite:///") and sqlite_revision(sqlite_file(uri)) is None:
            registry = None  # looking must not create the database
        else:
            from xadflow.registry import Registry

            registry = Registry(uri, home.mlflow_artifacts)
        for dataset, name in names:
            found = registry.alias(name, "champion") if registry is not None else None
            if registry is None or found is None:
                yield Finding("champion", "warn", f"{name} has none", f"xadflow retrain --dataset {dataset}")
                continue
            try:
                registry.detector_folder(found)
            except BadWeights as err:
                yield Finding("champion", "fail", f"{err.wrong}: {err.seen}", err.next_step)
            else:
                yield Finding("champion", "ok", f"{name} version {found.version}")
    except RegistryUnavailable as err:
        if not is_server(uri):  # of a server that is down mlflow_database tells already
            yield Finding("champion", "fail", f"{err.wrong}: {err.seen}", err.next_step)
