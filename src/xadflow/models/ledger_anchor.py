"""The ledger's head, remembered in MLflow: outside the folder that somebody might rewrite.

Every head is a parameter of a run, and MLflow lets nobody change or remove a parameter. Everything else of a run its
API lets anybody change: metrics are logged anew with any step, tags and names are set, runs and experiments are deleted
and renamed. So a head is looked for by parameters alone, among all runs, the deleted ones too; nothing that can be set
back says which is the highest. Metric `seq` and tag `xadflow.ledger.block` are for people and for where to write next.

What a stranger can do is add a head: a higher one, or another digest of the same line. Both are found: no line of the
ledger fits them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from xadflow.errors import AuditFailed
from xadflow.models.tags import HEADS, LEDGER_BLOCK

EXPERIMENT = "xadflow.ledger"
_HEADS_A_RUN = 1000  # a run is read as a whole, so it must stay small
_OF_HEADS = "xadflow"  # the value of HEADS on every run that holds heads
_ALL = 3  # mlflow.entities.ViewType.ALL: deleted runs and experiments too
_KEY, _DIGEST = re.compile(r"head\.(\d{9})"), re.compile(r"[0-9a-f]{64}")
_MOST = 10**9 - 1  # what a key has room for
_VERIFY = "run `xadflow audit verify`"


def write_anchor(client: Any, experiment_id: str, seq: int, digest: str) -> None:
    """Remember one head; the same head again changes nothing. `client` is an MlflowClient.

    Raises:
        AuditFailed: another digest is anchored for this number already.
    """
    key, block = _key(seq), str(seq // _HEADS_A_RUN)
    known = {run.data.params[key] for run in _runs(client, _experiments(client), f"params.`{key}` LIKE '%'")}
    if known - {digest}:
        raise AuditFailed(
            f"MLflow has another digest for line {seq} of the ledger", seen=digest[:16], next_step=_VERIFY
        )
    runs = client.search_runs([experiment_id], f"tags.`{LEDGER_BLOCK}` = '{block}'")
    if runs:
        run_id = runs[0].info.run_id
    else:
        run_id = client.create_run(experiment_id, tags={LEDGER_BLOCK: block}, run_name=f"block {block}").info.run_id
        client.set_terminated(run_id, "FINISHED")
    if not any(HEADS in run.data.params for run in runs[:1]):
        client.log_param(run_id, HEADS, _OF_HEADS, synchronous=True)
    if not known:
        client.log_param(run_id, key, digest, synchronous=True)
    if not any(run.data.metrics.get("seq", 0) >= seq for run in runs):  # also after a crash between the two
        client.log_metric(run_id, "seq", float(seq), step=seq, synchronous=True)


def read_anchor(client: Any) -> dict[str, Any] | None:
    """{"seq", "digest"} of the highest head ever anchored, or None. Costs 3.6 CPU seconds for 100,000 heads.

    Raises:
        AuditFailed: two digests are anchored for that line, or one that is none.
    """
    experiments = _experiments(client)
    own = [one for one in experiments if one.name == EXPERIMENT]
    others = [one for one in experiments if one.name != EXPERIMENT]
    runs = [
        *_runs(client, own, ""),  # runs of before they were marked are found by their experiment
        *_runs(client, others, f"params.`{HEADS}` = '{_OF_HEADS}'"),
        *_runs(client, others, f"tags.`{LEDGER_BLOCK}` LIKE '%'"),
    ]
    heads = [
        (int(found.group(1)), str(value))
        for run in {run.info.run_id: run for run in runs}.values()
        for name, value in run.data.params.items()
        if (found := _KEY.fullmatch(name))
    ]
    if not heads:
        return None
    seq = max(number for number, _ in heads)
    digests = sorted({digest for number, digest in heads if number == seq})
    if len(digests) > 1 or not _DIGEST.fullmatch(digests[0]):
        raise AuditFailed(
            f"MLflow does not hold one digest for line {seq} of the ledger: somebody wrote to it beside xadflow",
            seen=[digest[:16] for digest in digests[:3]],
            next_step="keep var/mlflow.db as it is and compare it with a backup",
        )
    return {"seq": seq, "digest": digests[0]}


def _experiments(client: Any) -> list[Any]:
    """All experiments, deleted ones too: one that was renamed holds its runs still."""
    found = client.search_experiments(view_type=_ALL)
    experiments = list(found)
    while found.token:
        found = client.search_experiments(view_type=_ALL, page_token=found.token)
        experiments += found
    return experiments


def _runs(client: Any, experiments: Iterable[Any], where: str) -> list[Any]:
    """Runs of these experiments, deleted ones too."""
    ids = [one.experiment_id for one in experiments]
    if not ids:
        return []
    found = client.search_runs(ids, where, run_view_type=_ALL)
    runs = list(found)
    while found.token:
        found = client.search_runs(ids, where, run_view_type=_ALL, page_token=found.token)
        runs += found
    return runs


def _key(seq: int) -> str:
    if not 0 < seq <= _MOST:
        raise AuditFailed("a line of the ledger has a number that cannot be", seen=seq, next_step=_VERIFY)
    return f"head.{seq:09d}"
