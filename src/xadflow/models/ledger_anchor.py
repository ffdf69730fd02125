"""The ledger's head, remembered in MLflow: outside the folder that somebody might rewrite.

Every head is a parameter of a run in the experiment `xadflow.ledger`, and MLflow lets nobody change a
parameter. The metric `seq` (its step is seq too) says which head is the highest, whatever the order in which writers
came.
"""

from __future__ import annotations

from typing import Any

from xadflow.errors import AuditFailed
from xadflow.models.tags import LEDGER_BLOCK

EXPERIMENT = "xadflow.ledger"
_HEADS_A_RUN = 1000  # a run is read as a whole, so it must stay small


def write_anchor(client: Any, experiment_id: str, seq: int, digest: str) -> None:
    """Remember one head; the same head again changes nothing. `client` is an MlflowClient.

    Raises:
        AuditFailed: another digest is anchored for this number already.
    """
    key, block = _key(seq), str(seq // _HEADS_A_RUN)
    runs = client.search_runs([experiment_id], f"tags.`{LEDGER_BLOCK}` = '{block}'")
    known = {run.data.params[key] for run in runs if key in run.data.params}
    if known - {digest}:
        raise AuditFailed(
            f"MLflow has another digest for line {seq} of the ledger",
            seen=digest[:16],
            next_step="run `xadflow audit verify`",
        )
    if runs:
        run_id = runs[0].info.run_id
    else:
        run_id = client.create_run(experiment_id, tags={LEDGER_BLOCK: block}, run_name=f"block {block}").info.run_id
        client.set_terminated(run_id, "FINISHED")
    if not known:
        client.log_param(run_id, key, digest, synchronous=True)
    if not any(run.data.metrics.get("seq", 0) >= seq for run in runs):  # also after a crash between the two
        client.log_metric(run_id, "seq", float(seq), step=seq, synchronous=True)


def read_anchor(client: Any, experiment_id: str) -> dict[str, Any] | None:
    """{"seq", "digest"} of the highest head ever anchored, or None."""
    runs = client.search_runs([experiment_id], "metrics.seq > 0", order_by=["metrics.seq DESC"], max_results=1)
    if not runs:
        return None
    seq = int(runs[0].data.metrics["seq"])
    return {"seq": seq, "digest": str(runs[0].data.params[_key(seq)])}


def _key(seq: int) -> str:
    return f"head.{seq:09d}"
