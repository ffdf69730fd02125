"""params.yaml as plain values, whoever wrote it: what explodes, repeats or is no number is refused before it is built.

YAML lets a few lines stand for gigabytes (anchors of anchors), for a value that holds itself, and for the same key
twice, of which the last one silently wins. The events of the parser tell all of it without building anything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import yaml

from xadflow.errors import BadSettings

CHECK = "`xadflow doctor` checks the file"
MOST_CHARACTERS = 1_000_000
MOST_VALUES = 100_000  # after anchors are followed
DEEPEST = 40
MOST_BITS, MOST_DIGITS = 63, 19  # decimal numbers above it are not even built, that takes time
_WHOLE = re.compile(r"[-+]?[0-9][0-9_]*")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class _Open:
    """A list or mapping that has not ended: how many values are in it, its anchor, and the keys so far."""

    is_mapping: bool
    anchor: str | None
    path: tuple[str, ...]
    size: int = 1
    keys: set[str] = field(default_factory=set)
    key: str | None = None
    awaits_key: bool = True
    items: int = 0


def plain_values(text: str) -> Any:
    """The values of a YAML text, built from plain mappings, lists, texts, finite numbers, dates, true, false and null.

    Raises:
        BadSettings: text that is no YAML or too much of it; lists and mappings nested too deep; anchors that hold
            themselves or stand for too many values; a key twice in one mapping; a number that is no finite one or too
            long. It names the place, and never quotes a line, which may hold a secret.
    """
    if len(text) > MOST_CHARACTERS:
        raise _refused("is too long", f"{len(text)} characters, at most {MOST_CHARACTERS}")
    try:
        with suppress(yaml.YAMLError):  # in its own words below
            _check(text)
        values = yaml.load(text, Loader=yaml.SafeLoader)  # noqa: S506 the safe loader
    except yaml.MarkedYAMLError as err:  # its own text quotes the line
        mark = err.problem_mark or err.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "no place given"
        raise BadSettings(
            "params.yaml is not valid YAML",
            seen=f"{where}: {err.problem or err.context}",
            next_step=f"mend that line; {CHECK}",
        ) from None
    except yaml.YAMLError as err:
        raise BadSettings(
            "params.yaml is not UTF-8 text",
            seen=" ".join(str(err).split())[:200],
            next_step=f"save it as UTF-8; {CHECK}",
        ) from err
    except (ValueError, OverflowError, TypeError, RecursionError) as err:  # a date or a tag that cannot be built
        raise _refused("holds a value that cannot be read", type(err).__name__) from None
    for path, value in _leaves(values, ()):
        if isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise _refused(f"holds too large a number at {'.'.join(path)}", f"{value.bit_length()} bits")
        if isinstance(value, float) and not math.isfinite(value):
            raise _refused(f"holds no finite number at {'.'.join(path)}", value)
    return values


def _check(text: str) -> None:
    """Walk the parser's events once, without building a value."""
    around: list[_Open] = []
    sizes: dict[str, int] = {}
    total = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.CollectionEndEvent):
            ended = around.pop()
            if ended.anchor:
                sizes[ended.anchor] = ended.size
            if around:
                around[-1].size += ended.size
            continue
        if isinstance(event, yaml.CollectionStartEvent):
            if len(around) >= DEEPEST:
                raise _refused("nests lists and mappings too deep", f"line {line}: more than {DEEPEST}")
            path = _step(around, None, line)
            around.append(_Open(isinstance(event, yaml.MappingStartEvent), event.anchor, path))
            total += 1
        elif isinstance(event, yaml.AliasEvent):
            if any(one.anchor == event.anchor for one in around):
                raise _refused("holds an anchor inside itself", f"line {line}: *{event.anchor}")
            size = sizes.get(str(event.anchor), 1)
            _step(around, None, line)
            if around:
                around[-1].size += size
            total += size
        elif isinstance(event, yaml.ScalarEvent):
            if event.implicit[0] and len(event.value) > MOST_DIGITS and _WHOLE.fullmatch(event.value):
                where = ".".join(_step(around, event.value, line)) if not _is_key(around) else f"line {line}"
                raise _refused(f"holds too large a number at {where}", f"{len(event.value)} digits")
            _step(around, event.value, line)
            if event.anchor:
                sizes[event.anchor] = 1
            if around:
                around[-1].size += 1
            total += 1
        if total > MOST_VALUES or (around and around[-1].size > MOST_VALUES):
            raise _refused("stands for too many values, its anchors followed", f"more than {MOST_VALUES}")


def _is_key(around: list[_Open]) -> bool:
    return bool(around) and around[-1].is_mapping and around[-1].awaits_key


def _step(around: list[_Open], scalar: str | None, line: int) -> tuple[str, ...]:
    """Go on by one node; returns where it is. Raises BadSettings for a key that its mapping has already."""
    if not around:
        return ()
    here = around[-1]
    if not here.is_mapping:
        here.items += 1
        return (*here.path, str(here.items - 1))
    if here.awaits_key:
        if scalar is not None and scalar in here.keys:
            where = ".".join((*here.path, scalar))
            raise _refused(f"has the key {where} twice", f"line {line}")
        here.key = scalar
        here.keys |= {scalar} if scalar is not None else set()
    here.awaits_key = not here.awaits_key
    return (*here.path, here.key or "?")


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _leaves(one, (*path, str(key)))
    elif isinstance(value, list | tuple | set):
        for number, one in enumerate(value):
            yield from _leaves(one, (*path, str(number)))
    else:
        yield path, value


def _refused(what: str, seen: object) -> BadSettings:
    return BadSettings(f"params.yaml {what}", seen=seen, next_step=f"mend it there; {CHECK}")
