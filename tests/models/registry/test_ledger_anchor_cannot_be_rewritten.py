from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_store import Store

from xadflow.errors import AuditFailed
from xadflow.models.ledger_anchor import EXPERIMENT
from xadflow.models.registry import Registry
from xadflow.models.tags import HEADS, LEDGER_BLOCK

LAST = 1003


def digest(seq: int) -> str:
    return f"{seq:064x}"


@pytest.fixture
def anchored(tmp_path: Path, put_mlflow_database) -> Registry:
    """A registry that holds the heads 1, 999, 1002 and 1003: two runs, and a late writer."""
    put_mlflow_database(tmp_path)
    registry = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "mlartifacts")
    for seq in (1, 999, LAST, 1002):
        registry.anchor_head(seq, digest(seq))
    return registry


def test_the_highest_head_is_remembered_by_a_new_process_and_never_changed(store: Store) -> None:
    assert store.registry.anchored_head() is None
    for seq in (1, 999, LAST, 1002):
        store.registry.anchor_head(seq, digest(seq))
    store.registry.anchor_head(LAST, digest(LAST))  # the same again changes nothing
    reopened = Registry(store.registry.uri, store.registry.artifacts)
    assert reopened.anchored_head() == {"seq": LAST, "digest": digest(LAST)}
    with pytest.raises(AuditFailed, match="line 999"):
        reopened.anchor_head(999, digest(7))
    assert reopened.anchored_head() == {"seq": LAST, "digest": digest(LAST)}


def attacks() -> list[tuple[str, Any]]:
    """What MLflow's API lets anybody do to what it holds, by what it aims at."""

    def of_runs(change):
        return lambda client, experiment, runs: [change(client, run.info.run_id) for run in runs]

    return [
        ("seq set back", of_runs(lambda c, r: c.log_metric(r, "seq", 1.0, step=10**15))),
        ("seq absurd", of_runs(lambda c, r: c.log_metric(r, "seq", 1e300, step=10**15))),
        ("seq no number", of_runs(lambda c, r: c.log_metric(r, "seq", float("nan"), step=10**15))),
        ("tags changed", of_runs(lambda c, r: c.set_tag(r, LEDGER_BLOCK, "77"))),
        ("tags taken away", of_runs(lambda c, r: c.delete_tag(r, LEDGER_BLOCK))),
        ("runs deleted", of_runs(lambda c, r: c.delete_run(r))),
        ("runs failed", of_runs(lambda c, r: c.set_terminated(r, "FAILED"))),
        ("experiment deleted", lambda c, e, _: c.delete_experiment(e)),
        ("experiment renamed", lambda c, e, _: c.rename_experiment(e, "archive")),
        (
            "renamed, and another in its place",
            lambda c, e, _: (c.rename_experiment(e, "archive"), c.create_experiment(EXPERIMENT)),
        ),
        (
            "a run beside it with a lower head",
            lambda c, e, _: c.log_param(c.create_run(e, tags={LEDGER_BLOCK: "9"}).info.run_id, "head.000000005", "x"),
        ),
    ]


@pytest.mark.parametrize(("what", "attack"), attacks(), ids=[what for what, _ in attacks()])
def test_nothing_that_mlflows_api_can_do_sets_it_back(anchored: Registry, what: str, attack: Any) -> None:
    client = anchored._client
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    attack(client, experiment, client.search_runs([experiment]))
    assert anchored.anchored_head() == {"seq": LAST, "digest": digest(LAST)}
    with pytest.raises(AuditFailed, match="another digest for line 999"):
        anchored.anchor_head(999, digest(7))
    anchored.anchor_head(LAST + 1, digest(LAST + 1))  # honest work goes on
    assert anchored.anchored_head() == {"seq": LAST + 1, "digest": digest(LAST + 1)}


def test_runs_that_older_versions_wrote_are_read(anchored: Registry) -> None:
    """They carry no mark of their own: experiment, or tag, tells that they hold heads."""
    client = anchored._client
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    old = client.create_run(experiment, tags={LEDGER_BLOCK: "2"}).info.run_id
    client.log_param(old, "head.000002500", digest(2500))
    assert anchored.anchored_head() == {"seq": 2500, "digest": digest(2500)}
    client.delete_tag(old, LEDGER_BLOCK)
    assert anchored.anchored_head() == {"seq": 2500, "digest": digest(2500)}
    client.set_tag(old, LEDGER_BLOCK, "2")
    client.rename_experiment(experiment, "archive")
    assert anchored.anchored_head() == {"seq": 2500, "digest": digest(2500)}
    client.rename_experiment(experiment, EXPERIMENT)
    anchored.anchor_head(2501, digest(2501))
    assert client.get_run(old).data.params[HEADS] == "xadflow"


@pytest.mark.parametrize("value", ["x", "0" * 63, digest(9).upper() + "A", digest(4)])
def test_a_head_that_somebody_added_is_said_in_one_line(anchored: Registry, value: str) -> None:
    """A second digest of the highest line, or one that is none; a higher head is found by the ledger, which
    lacks it.
    """
    client = anchored._client
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    client.log_param(client.create_run(experiment).info.run_id, f"head.{LAST:09d}", value)
    with pytest.raises(AuditFailed, match=f"one digest for line {LAST}") as said:
        anchored.anchored_head()
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("key", ["head.1", "head.9999999999", "head.-00000001", "head.00000000x", "tail.000009999"])
def test_what_is_no_head_is_none(anchored: Registry, key: str) -> None:
    client = anchored._client
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    client.log_param(client.search_runs([experiment])[0].info.run_id, key, digest(9))
    assert anchored.anchored_head() == {"seq": LAST, "digest": digest(LAST)}


@pytest.mark.parametrize("seq", [0, -1, 10**9, 10**30])
def test_a_number_that_no_line_has_is_not_anchored(store: Store, seq: int) -> None:
    with pytest.raises(AuditFailed, match="number that cannot be"):
        store.registry.anchor_head(seq, digest(1))
