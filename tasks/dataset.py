"""Data set stages: one task runs one `dvc repro` as a child process, under the limit `dvc`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.runtime import DVC, RETRY_DELAYS, is_transient, slot
from xadflow.errors import StageFailed
from xadflow.lineage import dvc_hashes
from xadflow.settings import Home


@task(
    name="dvc repro", task_run_name="dvc repro {dataset}", cache_policy=NO_CACHE, retries=len(RETRY_DELAYS),
    retry_delay_seconds=RETRY_DELAYS, retry_condition_fn=is_transient, timeout_seconds=3600,
)  # fmt: skip
def build_dataset(dataset: str) -> dict[str, str]:
    """Bring a data set up to date (images, manifest, validation); DVC skips what did not change. Returns DVC hashes."""
    home = Home.find()
    with slot(DVC):
        run_stage(home.project, f"validate@{dataset}")
    return dvc_hashes(home.project, dataset)


def run_stage(project: Path, target: str) -> None:
    """`dvc repro TARGET` as a child process.

    Raises StageFailed with the last lines it printed; transient when another DVC is busy or a signal ended the child.
    """
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "--quiet", target], cwd=project, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return
    killed = done.returncode < 0
    said = (done.stderr.strip() or done.stdout.strip())[-2000:]
    raise StageFailed(
        f"the DVC stage {target} {f'was ended by signal {-done.returncode}' if killed else 'failed'}", seen=said,
        next_step=f"run `dvc repro {target}` to see it whole",
        transient=killed or "is busy" in said or "Unable to acquire lock" in said,
    )  # fmt: skip
