"""What `xadflow doctor` looks at in MLflow: the store or server itself, and which version is in service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from xadflow.cli.doctor.checks import Finding
from xadflow.errors import BadWeights, RegistryUnavailable
from xadflow.settings import Home, Settings

if TYPE_CHECKING:
    from xadflow.models.registry import Registry
    from xadflow.models.versions import ModelRef


def mlflow_database(home: Home) -> Iterator[Finding]:
    """The embedded database's schema, or the server's health."""
    from xadflow.models.tracking_store import ask_health, is_server, shown, sqlite_file, sqlite_revision

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
    """What is in service for each data set that is explained, and whether its files are those registered."""
    from xadflow.models.tracking_store import is_server

    names = [(one, detector) for one in settings.explain.datasets for detector in settings.retrain.detectors]
    try:
        registry = _registry(home)
        for dataset, detector in names:
            name = f"xad.{dataset}.{detector}"
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
            for explainer in settings.trained_explainers(dataset, detector):
                yield _explainer(registry, dataset, found, explainer)
    except RegistryUnavailable as err:
        if not is_server(home.mlflow_uri):  # of a server that is down mlflow_database tells already
            yield Finding("champion", "fail", f"{err.wrong}: {err.seen}", err.next_step)


def judges(home: Home, settings: Settings) -> Iterator[Finding]:
    """The judge of each data set that is trained for: its version in service and its files, or why there is none."""
    from xadflow.models.tracking_store import is_server
    from xadflow.models.versions import judge_of
    from xadflow.settings.judges import why_no_judge

    try:
        registry = _registry(home)
        for dataset in settings.retrain.datasets:
            name = judge_of(dataset)
            if (reason := why_no_judge(settings, dataset)) is not None:
                yield Finding("judge", "ok", f"{dataset} has none: {reason}")
                continue
            found = registry.alias(name, "judge") if registry is not None else None
            if registry is None or found is None:
                yield Finding(
                    "judge",
                    "warn",
                    f"{name} is not registered: nobody is asked about the counterfactuals of {dataset}",
                    f"xadflow retrain --dataset {dataset}",
                )
                continue
            try:
                registry.detector_folder(found)
            except BadWeights as err:
                yield Finding("judge", "fail", f"{err.wrong}: {err.seen}", f"xadflow retrain --dataset {dataset}")
            else:
                yield Finding("judge", "ok", f"{name} version {found.version}")
    except RegistryUnavailable as err:
        if not is_server(home.mlflow_uri):  # of a server that is down mlflow_database tells already
            yield Finding("judge", "fail", f"{err.wrong}: {err.seen}", err.next_step)


def _registry(home: Home) -> Registry | None:
    """None where there is no database yet: looking must not create it. Raises RegistryUnavailable."""
    from xadflow.models.tracking_store import sqlite_file, sqlite_revision

    uri = home.mlflow_uri
    if uri.startswith("sqlite:///") and sqlite_revision(sqlite_file(uri)) is None:
        return None
    from xadflow.models.registry import Registry

    return Registry(uri, home.mlflow_artifacts)


def _explainer(registry: Registry, dataset: str, detector: ModelRef, explainer: str) -> Finding:
    """What is in service of an explainer that is trained for this detector."""
    from xadflow.models.service import explainer_in_service, why_none

    name = f"{detector.name}.{explainer}"
    try:
        found = explainer_in_service(registry, detector, explainer)
        if found is None:
            return Finding(
                "champion",
                "warn",
                f"{name} has none. {why_none(registry, detector, explainer)}",
                f"xadflow retrain --dataset {dataset}",
            )
        registry.explainer_folder(found)
    except BadWeights as err:
        return Finding("champion", "fail", f"{err.wrong}: {err.seen}", err.next_step)
    return Finding("champion", "ok", f"{name} version {found.version}")
