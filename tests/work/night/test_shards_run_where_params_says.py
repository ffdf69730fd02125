"""`task_runner` of params.yaml: the flow's own threads, or a Dask or Ray cluster by Prefect's package for it."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from tasks import runtime
from xadflow.errors import BadSettings


@pytest.fixture(autouse=True)
def server(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).touch()
    monkeypatch.setenv("XADFLOW_PROJECT", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://head:8786")


@pytest.mark.parametrize("name", ["dask", "ray"])
def test_a_package_that_is_missing_is_named_with_its_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, f"prefect_{name}", None)
    with pytest.raises(BadSettings, match=rf"task_runner {name}, and no prefect-{name}.*pip install prefect-{name}"):
        runtime.cluster_runner(name)


def test_a_cluster_without_a_common_prefect_server_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL")
    with pytest.raises(BadSettings, match="each of its workers would start its own.*make server"):
        runtime.cluster_runner("dask")


@pytest.mark.parametrize(
    ("name", "kind", "address"), [("dask", "DaskTaskRunner", "tcp://head:8786"), ("ray", "RayTaskRunner", None)]
)
def test_the_runner_is_prefects_own_at_the_clusters_address(name, kind, address, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, f"prefect_{name}", SimpleNamespace(**{kind: SimpleNamespace}))
    assert runtime.cluster_runner(name) == SimpleNamespace(address=address)
