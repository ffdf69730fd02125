"""One real SQLite store for all registry tests, with one training logged into it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_store import MODEL, Store, TinyDetector, TinyExplainer, training

from xadflow.detectors import base
from xadflow.explainers import base as explainers_base
from xadflow.models.registry import Registry
from xadflow.settings.environment import QUIET


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, put_mlflow_database: Callable[[Path], None]) -> Iterator[Store]:
    state = tmp_path_factory.mktemp("registry") / "var"
    put_mlflow_database(state)
    before = dict(os.environ)
    os.environ.update(QUIET)
    registry = Registry(f"sqlite:///{state / 'mlflow.db'}", state / "mlartifacts")
    detector = TinyDetector(torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)))
    saved, figure = state.parent / "saved", state.parent / "drawn.png"
    detector.save(saved)
    figure.write_bytes(b"\x89PNG")
    ref = registry.log_training(**training(saved, figure))
    yield Store(registry, state, detector, saved, ref)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def tiny_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """The detector `tiny` and the trained explainer `twice` are registered, beside the real ones."""
    known = {**base._methods(), "tiny": SimpleNamespace(load=lambda: TinyDetector)}
    monkeypatch.setattr(base, "_methods", lambda: known)
    explainers = {**explainers_base._explainers(), "twice": SimpleNamespace(load=lambda: TinyExplainer)}
    monkeypatch.setattr(explainers_base, "_explainers", lambda: explainers)


@pytest.fixture
def second_version(store: Store) -> Iterator[int]:
    """Another version of the same files, registered the short way; gone afterwards, with every alias."""
    client = store.registry._client
    first = client.get_model_version(MODEL, str(store.ref.version))
    made = client.create_model_version(MODEL, first.source, store.ref.run_id, tags=dict(first.tags))
    yield int(made.version)
    for alias in client.get_registered_model(MODEL).aliases:
        client.delete_registered_model_alias(MODEL, alias)
    client.delete_registered_model_tag(MODEL, "xadflow.previous_champion")
    client.delete_model_version(MODEL, made.version)
