"""What installed packages register under a group of entry points: detectors and explainers, ours and third parties'."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from xadflow.errors import WrongUse


@cache
def registered(group: str) -> Mapping[str, EntryPoint]:
    """Entry points of a group by name.

    Raises:
        WrongUse: two packages register one name. Whichever came first would decide, and a stranger's could so take the
            place of ours in every audit.
    """
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        known = found.setdefault(entry.name, entry)
        if known.value != entry.value:
            raise WrongUse(
                f"two installed packages register {entry.name!r} under {group}",
                seen=f"{known.value} of {package_of(known)}, {entry.value} of {package_of(entry)}",
                next_step=f"give yours another name in its pyproject.toml, or `pip uninstall {package_of(entry)}`",
            )
    return found


def package_of(entry: EntryPoint) -> str:
    """The distribution that registers it, by name."""
    return "an unknown package" if entry.dist is None else entry.dist.name
