"""What a row's lineage says of its computation, read with suspicion, and how much of it this machine can put back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from xadflow.errors import BadSettings
from xadflow.lineage import NIGHT_CODE, code_digest, library_versions
from xadflow.training.devices import resolve_device

MOST_AT_ONCE, MOST_THREADS = 4096, 1024  # a lineage may be forged: it must not fill the memory
_NEEDED: Mapping[str, type] = {
    "model_name": str,
    "model_version": int,
    "weights": str,
    "batch_members": str,
    "batch_size": int,
    "batch_position": int,
    "threads": int,
    "device": str,
    "libraries": dict,
}


class CannotReplay(Exception):
    """Something that a replay needs is gone; says what."""


@dataclass
class Notes:
    """What of a replay was not as its lineage says: `conditions` by name, and what had to be assumed."""

    conditions: dict[str, str] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)


def lineage_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The lineage of an explanation. Raises CannotReplay when it lacks what every replay needs."""
    try:
        lineage = dict(json.loads(row["lineage"]))
    except (ValueError, TypeError) as err:
        raise CannotReplay(f"its lineage is no JSON object: {err}"[:200]) from err
    if odd := [key for key, kind in _NEEDED.items() if type(lineage.get(key)) is not kind]:
        raise CannotReplay(f"its lineage does not tell {', '.join(odd)}")
    for size, position in (("batch_size", "batch_position"), ("score_batch_size", "score_batch_position")):
        of, place = lineage.get(size), lineage.get(position)
        if (of, place) == (None, None):
            continue
        if type(of) is not int or type(place) is not int or not 0 <= place < of <= MOST_AT_ONCE:
            raise CannotReplay(f"its lineage tells {position} {place} of {size} {of}")
    return lineage


def as_recorded(lineage: Mapping[str, Any], device: str, notes: Notes) -> torch.device:
    """The device to replay on, `device` where the recorded one is not here; what differs now goes to the notes."""
    here = there = resolve_device(device)
    try:
        there = resolve_device(lineage.get("device", str(here)))
    except BadSettings:
        notes.conditions["device"] = f"{lineage['device']} then, {here} now"
    installed = library_versions()
    for name, then in lineage.get("libraries", {}).items():
        if (now := installed.get(name, "")) != then:
            notes.conditions[name] = f"{then or 'none'} then, {now or 'none'} now"
    if lineage and lineage.get("code") != code_digest(*NIGHT_CODE):
        notes.conditions["code"] = f"changed since {commit_of(lineage)}"
    if not 1 <= lineage.get("threads", 1) <= MOST_THREADS:
        notes.conditions["threads"] = f"{lineage['threads']} then, {torch.get_num_threads()} now"
    return there


def commit_of(lineage: Mapping[str, Any]) -> str:
    """The commit that a lineage names, in words."""
    commit = str(lineage.get("commit") or "")
    return f"commit {commit[:12]}{'+dirty' * commit.endswith('+dirty')}" if commit else "a commit that it does not tell"


@contextmanager
def threads_of(lineage: Mapping[str, Any]) -> Iterator[None]:
    """As many threads as the lineage names: sums are split among them."""
    before = torch.get_num_threads()
    wanted = int(lineage.get("threads", before))
    torch.set_num_threads(wanted if 1 <= wanted <= MOST_THREADS else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
