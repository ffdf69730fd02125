"""Results of benchmarks: benchmarks/results/<name>.json in the form that docs tables are generated from."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def write_results(
    name: str, figures: Mapping[str, object], *, seeds: Sequence[int], seconds: float, quick: bool = False
) -> Path:
    """Write {name, date, commit, device, seeds, seconds, figures}; a quick run goes beside it as <name>-quick.json."""
    content = {
        "name": name,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "device": _device(),
        "seeds": list(seeds),
        "seconds": round(seconds, 1),
        "figures": figures,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}{'-quick' if quick else ''}.json"
    path.write_text(json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
    return path


def commit() -> str:
    """The commit that was measured, with a plus sign when tracked files differ from it; "unknown" outside git."""
    try:
        head, changed = (
            subprocess.run(
                ["git", *command], cwd=RESULTS.parent, capture_output=True, text=True, check=True
            ).stdout.strip()
            for command in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu, {torch.get_num_threads()} threads"
