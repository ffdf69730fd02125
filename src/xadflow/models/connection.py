"""A connection to MLflow: the client, its errors in our words, and how its answers are read.

Everything goes through an explicit client, never through MLflow's global state: two connections, or two threads, do not
disturb each other.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NoReturn

from xadflow.errors import NoChampion, RegistryUnavailable, UnknownName, WorkFailed, no_room
from xadflow.models.runs import quiet
from xadflow.models.tags import GATE
from xadflow.models.tracking_store import is_server, prepare_store, shown
from xadflow.models.versions import ModelRef, ModelSummary, VersionSummary, checked_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

# MLflow's modules import each other in circles: two threads that load it at once leave it half loaded
_LOADING = Lock()
# all of it that is used here, so that nothing is left to be loaded outside of the lock
_ALL_OF_IT = ("mlflow", "mlflow.artifacts", "mlflow.data.pandas_dataset", "mlflow.entities", "mlflow.exceptions")


class Connection:
    """One MLflow store.

    `uri` is a database (sqlite:///... is the embedded store) or an http(s) server; `artifacts` is the folder for files
    when the store is a database, and the cache of what was downloaded when it is a server.
    """

    def __init__(self, uri: str, artifacts: Path) -> None:
        self.uri, self.artifacts = uri, artifacts
        self._remote = is_server(uri)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({shown(self.uri)!r})"

    def prepare(self) -> None:
        """Create the embedded database once, or see that the server answers; see :func:`prepare_store`."""
        prepare_store(self.uri, self.artifacts)

    @cached_property
    def _client(self) -> MlflowClient:
        self.prepare()
        with _LOADING, quiet():
            for module in _ALL_OF_IT:
                importlib.import_module(module)
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException

            for noisy in ("mlflow", "alembic"):
                logging.getLogger(noisy).setLevel(logging.ERROR)
            try:
                client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
                client._get_registry_client()  # type: ignore[no-untyped-call]  # it loads the store's modules when it is first asked for
                return client
            except MlflowException as err:
                raise self._unavailable(err) from err

    @contextmanager
    def _explained(self) -> Iterator[MlflowClient]:
        """The client; MLflow's errors become ours."""
        client = self._client
        from mlflow.exceptions import MlflowException

        try:
            yield client
        except MlflowException as err:
            raise self._unavailable(err) from err

    def _unavailable(self, err: MlflowException) -> WorkFailed:
        """One line of the error: MLflow prints whole arrays and SQL statements."""
        if (full := no_room(err)) is not None:
            return full
        lines = [line.strip() for line in str(err).splitlines() if line.strip()] or [str(err.error_code)]
        return RegistryUnavailable(
            "MLflow refused or could not be reached",
            seen=f"{shown(self.uri)}: {lines[0][:300]}",
            next_step="run `xadflow doctor`",
            transient=err.error_code == "TEMPORARILY_UNAVAILABLE",
        )

    def _experiment(self, client: MlflowClient, name: str) -> str:
        """Id of an experiment, made when it is not there; the embedded store keeps its files below `artifacts`."""
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(name)
        if found is None:
            where = None if self._remote else (self.artifacts.resolve() / name).as_uri()
            try:
                return str(client.create_experiment(name, artifact_location=where))
            except MlflowException:
                found = client.get_experiment_by_name(name)  # another process was quicker
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _ensure_model(self, client: MlflowClient, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(name)
        except MlflowException as err:
            if err.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _model(self, name: str) -> Any:
        with self._explained() as client:
            from mlflow.exceptions import MlflowException

            try:
                return client.get_registered_model(checked_name(name))
            except MlflowException as err:
                if err.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise

    def _version(self, name: str, version: int) -> ModelRef:
        with self._explained() as client:
            from mlflow.exceptions import MlflowException

            try:
                return ref_of(client.get_model_version(checked_name(name), str(version)))
            except MlflowException as err:
                if err.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                raise UnknownName(
                    "no such version of a registered model",
                    seen=f"{name}/{version}",
                    next_step="choose one of `xadflow models list`",
                ) from err

    def _lacking(self, name: str, alias: str) -> NoReturn:
        parts = name.split(".")
        how = f"xadflow retrain --dataset {parts[1]}" if len(parts) >= 3 and parts[0] == "xad" else "xadflow retrain"
        if self._model(name) is not None:
            how = f"{how}` or choose a version by `xadflow models promote {name} VERSION"
        elif len(parts) == 3 and (others := self._detectors_in_service(parts[1], alias)):
            how = f"{how} --detector {parts[2]}`, or take one that has it by `--detector {others[0]}"
        raise NoChampion(
            f"no version of {name} carries the alias {alias}", seen=f"{name}@{alias}", next_step=f"run `{how}`"
        )

    def _detectors_in_service(self, dataset: str, alias: str) -> list[str]:
        """Detectors of a data set that have a version with an alias."""
        return sorted(name.split(".")[2] for name in self.carrying(alias, f"xad.{dataset}.") if name.count(".") == 2)

    def carrying(self, alias: str, prefix: str = "xad.") -> dict[str, int]:
        """Versions that carry an alias, by the names of their models, of those that begin so."""
        query = f"name LIKE '{prefix}%'"
        with self._explained() as client:
            found = pages(lambda token: client.search_registered_models(query, page_token=token))
        return {str(one.name): int(one.aliases[alias]) for one in found if alias in one.aliases}


def summary(client: MlflowClient, model: Any) -> ModelSummary:
    """A registered model as listings show it, with all its versions."""
    query = f"name = '{model.name}'"
    found = pages(lambda token: client.search_model_versions(query, page_token=token))
    versions = [
        VersionSummary(
            int(one.version),
            str(one.run_id),
            datetime.fromtimestamp(one.creation_timestamp / 1000, UTC),
            dict(client.get_run(one.run_id).data.metrics),
            one.tags.get(GATE, ""),
            explains.version if (explains := ref_of(one).explains) else None,
            ref_of(one).recalibrated_from,
        )
        for one in sorted(found, key=lambda one: -int(one.version))
    ]
    return ModelSummary(model.name, {name: int(n) for name, n in model.aliases.items()}, tuple(versions))


def ref_of(found: Any) -> ModelRef:
    """A version as MLflow answers it."""
    return ModelRef(str(found.name), int(found.version), str(found.run_id), dict(found.tags))


def pages(page: Callable[[str | None], Any]) -> list[Any]:
    """All items of a paged MLflow listing."""
    found = page(None)
    items = list(found)
    while found.token:
        found = page(found.token)
        items += found
    return items
