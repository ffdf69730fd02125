"""The checkpoint of a training: one file that is whole or absent, and that is continued only by the work it is of."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"


def read_checkpoint(path: Path, identity: str, names: Set[str]) -> dict[str, Any] | None:
    """What `write_checkpoint` wrote under this identity, which holds these names; None where there is nothing, damage,
    other work or the same work of another version of xadflow.
    """
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not look at the checksums of what it reads
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(damaged)
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # both raise many kinds on a damaged archive; each means "no checkpoint"
        log.warning("checkpoint %s cannot be read (%s); training starts over", path.name, type(err).__name__)
        return None
    if saved.get("identity") != identity:
        log.info("checkpoint %s is of other work; training starts over", path.name)
        return None
    if (held := saved.keys() - {"identity"}) != names:
        log.warning("checkpoint %s is of another xadflow: it holds %s; training starts over", path.name, sorted(held))
        return None
    return saved


def write_checkpoint(path: Path, identity: str, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save({"identity": identity, **state}, partial)
    partial.replace(path)  # a kill leaves the old checkpoint or the new one, never half of one
