"""Digests of files and of values: the one definition of "the same bytes" and "the same content"."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

_BLOCK_BYTES = 1 << 20


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
    match value:
        case None:
            return b"n"
        case bool():
            return b"t" if value else b"f"
        case int():
            text = str(value).encode()
            return b"i" + struct.pack(">Q", len(text)) + text
        case float():
            return b"d" + struct.pack(">d", math.nan if math.isnan(value) else value)
        case str():
            text = value.encode()
            return b"s" + struct.pack(">Q", len(text)) + text
        case bytes():
            return b"b" + struct.pack(">Q", len(value)) + value
        case datetime():
            if value.tzinfo is None:
                raise TypeError(f"a naive datetime has no one meaning: {value!r}")
            since_epoch = value.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
            microseconds = (since_epoch.days * 86_400 + since_epoch.seconds) * 1_000_000 + since_epoch.microseconds
            return b"m" + struct.pack(">q", microseconds)
        case date():
            return b"D" + struct.pack(">q", value.toordinal())
        case Mapping():
            parts = [canonical_bytes(str(key)) + canonical_bytes(value[key]) for key in sorted(value)]
            return b"M" + struct.pack(">Q", len(parts)) + b"".join(parts)
        case Sequence():
            items = [canonical_bytes(item) for item in value]
            return b"L" + struct.pack(">Q", len(items)) + b"".join(items)
        case _:
            raise TypeError(f"no canonical form for {type(value).__name__}: {value!r}")


def canonical_digest(value: object) -> str:
    """Hex sha256 of :func:`canonical_bytes`."""
    return sha256_bytes(canonical_bytes(value))
