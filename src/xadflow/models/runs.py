"""What goes into one MLflow run. The client and `mlflow.entities` are handed in, so no MLflow is imported here."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from xadflow.models.versions import Part

_METRICS_A_BATCH, _PARAMS_A_BATCH = 900, 100  # MLflow takes 1000 entries, of which 100 parameters
_PARAM_CHARACTERS = 6000
_WARNINGS = threading.RLock()

T = TypeVar("T")


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings from MLflow's imports and loggers; one thread at a time, because the filters are global."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def open_run(client: Any, experiment_id: str, name: str, tags: Mapping[str, str]) -> Iterator[str]:
    """A new run's id. The block must end the run; if it raises anything, the run is marked FAILED."""
    run_id = str(client.create_run(experiment_id, tags=dict(tags), run_name=name).info.run_id)
    try:
        yield run_id
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise


def log_model(
    client: Any,
    entities: Any,
    run_id: str,
    folder: Path,
    files: Iterable[str],
    input_shape: tuple[int, int, int] | None,
    part: Part,
) -> str:
    """Log what is saved in `folder` as a model of the run; returns the model's id.

    A detector becomes a pyfunc model, which MLflow can serve. A trained explainer is its files alone: without its
    detector there is nothing that it could answer.
    """
    experiment_id = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(experiment_id, name=part, source_run_id=run_id, model_type=part)
    model_id = str(logged.model_id)
    try:
        with quiet(), tempfile.TemporaryDirectory() as staging:
            target = Path(staging) / "model"
            staged = Path(staging) / part if input_shape is not None else target / "artifacts" / part
            for name in files:
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, staged / name)
            if input_shape is not None:
                from xadflow.models.pyfunc import save_pyfunc

                save_pyfunc(target, staged, input_shape, run_id, model_id)
            client.log_model_artifacts(model_id, str(target))
        client.log_outputs(run_id, [entities.LoggedModelOutput(model_id, step=0)])
        client.finalize_logged_model(model_id, "READY")
    except BaseException:
        client.finalize_logged_model(model_id, "FAILED")
        raise
    return model_id


def log_batches(
    client: Any,
    entities: Any,
    run_id: str,
    metrics: Mapping[str, float],
    *,
    params: Mapping[str, object] | None = None,
    history: Sequence[tuple[int, str, float]] = (),
    model_id: str | None = None,
) -> None:
    """Metrics, their history and parameters, in one request as a rule (one by one a metric costs 26 ms).

    `metrics` are also shown at the model, if one is named.
    """
    now = int(time.time() * 1000)
    points = [entities.Metric(name, float(value), now, step) for step, name, value in history]
    points += [entities.Metric(name, float(value), now, 0, model_id=model_id) for name, value in metrics.items()]
    words = [entities.Param(name, str(value)[:_PARAM_CHARACTERS]) for name, value in (params or {}).items()]
    batches = zip_longest(_chunks(points, _METRICS_A_BATCH), _chunks(words, _PARAMS_A_BATCH), fillvalue=())
    for some_points, some_words in batches:
        client.log_batch(run_id, metrics=some_points, params=some_words)


def log_dataset(client: Any, entities: Any, run_id: str, described: Mapping[str, Any]) -> None:
    """The data set that the run was trained on; `described` is what an mlflow.data data set says of itself."""
    context = entities.InputTag("mlflow.data.context", "training")
    client.log_inputs(run_id, [entities.DatasetInput(entities.Dataset(**described), [context])])


def log_files(client: Any, run_id: str, figures: Mapping[str, Path], lineage: Mapping[str, object] | None) -> None:
    """Figures as figures/<name>.<suffix>, and lineage.json."""
    with tempfile.TemporaryDirectory() as folder:
        for name, path in figures.items():
            target = Path(folder) / "figures" / f"{name}{path.suffix}"
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
        if lineage is not None:
            (Path(folder) / "lineage.json").write_text(json.dumps(lineage, sort_keys=True, indent=2))
        client.log_artifacts(run_id, folder)


def _chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
