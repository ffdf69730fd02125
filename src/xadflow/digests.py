"""Digests of files and of values: the one definition of "the same bytes" and "the same content"."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import lru_cache
from pathlib import Path

_BLOCK_BYTES = 1 << 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SIZED = struct.Struct(">cQ").pack  # tag and length
_FLOAT = struct.Struct(">cd").pack
_INTEGER = struct.Struct(">cq").pack


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sha256_bytes(content: bytes) -> str:
    """Hex sha256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def sha256_json(value: object) -> str:
    """Hex sha256 of a JSON-able value, keys sorted; for parameters and identities."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())


def canonical_bytes(value: object) -> bytes:
    """Unambiguous bytes of nested plain values: type-tagged, length-prefixed, floats as IEEE-754 bytes.

    Accepts None, bool, int, float, str, bytes, date, aware datetime, sequences and mappings with str keys (sorted).
    All NaN are one NaN; -0.0 and 0.0 differ, as their bytes do.

    Raises:
        TypeError: any other type, or a naive datetime: nothing is guessed in evidence.
    """
    parts: list[bytes] = []  # joined once: a picture three levels deep would else be copied at every level
    _encode(value, parts.append)
    return b"".join(parts)


def _encode(value: object, put: Callable[[bytes], None]) -> None:
    match value:  # most frequent first; bool is an int and datetime a date, so they go before them
        case None:
            put(b"n")
        case str():
            text = value.encode()
            put(_SIZED(b"s", len(text)))
            put(text)
        case float():
            put(_FLOAT(b"d", value if value == value else math.nan))
        case bytes():
            put(_SIZED(b"b", len(value)))
            put(value)
        case bool():
            put(b"t" if value else b"f")
        case int():
            text = str(value).encode()
            put(_SIZED(b"i", len(text)))
            put(text)
        case dict() | Mapping():  # asking for dict alone is ten times quicker
            put(_SIZED(b"M", len(value)))
            for key in sorted(value):
                put(_key(str(key)))
                _encode(value[key], put)
        case datetime():
            if value.tzinfo is None:
                raise TypeError(f"a naive datetime has no one meaning: {value!r}")
            since_epoch = value.astimezone(UTC) - _EPOCH
            microseconds = (since_epoch.days * 86_400 + since_epoch.seconds) * 1_000_000 + since_epoch.microseconds
            put(_INTEGER(b"m", microseconds))
        case date():
            put(_INTEGER(b"D", value.toordinal()))
        case Sequence():
            put(_SIZED(b"L", len(value)))
            for item in value:
                _encode(item, put)
        case _:
            raise TypeError(f"no canonical form for {type(value).__name__}: {value!r}")


@lru_cache(maxsize=1024)
def _key(key: str) -> bytes:
    """A mapping's key, encoded: the same few names in every row."""
    return canonical_bytes(key)


def canonical_digest(value: object) -> str:
    """Hex sha256 of :func:`canonical_bytes`."""
    return sha256_bytes(canonical_bytes(value))
