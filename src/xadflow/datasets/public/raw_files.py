"""The raw files of a public set on this machine: where they lie, and that they are the known ones."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

from xadflow.datasets.public.sets import PublicSet, public_set
from xadflow.digests import sha256_bytes
from xadflow.errors import DataUnavailable
from xadflow.settings import Home

MOST_BYTES = 300_000_000  # of one file unpacked; the largest known, of GTSRB and CIFAR-10, have less than 200 MB


def raw_folder(home: Home, name: str) -> Path:
    """Where the raw files of a public set are, plain or as .gz: put them there by hand where nothing can be fetched."""
    return home.state / "raw" / name


def read_files(home: Home, name: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of each raw file of a public set that was fetched, in order of name, checked.

    Raises:
        DataUnavailable: a file is missing or another one; names it.
    """
    known, folder = public_set(name), raw_folder(home, name)
    for file, digest in sorted(known.digests.items()):
        content = content_of(folder, file)
        if content is None or sha256_bytes(content) != digest:
            raise DataUnavailable(
                f"the raw files of {name} are not here", seen=file, next_step=f"run `xadflow data fetch {name}`"
            )
        yield file, content


def is_whole(folder: Path, known: PublicSet) -> bool:
    """Whether every raw file of a set lies in `folder` with its known content."""
    return all(
        (content := content_of(folder, file)) is not None and sha256_bytes(content) == digest
        for file, digest in known.digests.items()
    )


def content_of(folder: Path, file: str) -> bytes | None:
    """A raw file unpacked; None when it is missing, larger than any known one, or no gzip."""
    plain, packed = folder / file, folder / f"{file}.gz"
    try:
        if plain.is_file():
            return plain.read_bytes() if plain.stat().st_size <= MOST_BYTES else None
        with gzip.open(packed) as stream:
            content = stream.read(MOST_BYTES + 1)
    except (OSError, EOFError):
        return None
    return content if len(content) <= MOST_BYTES else None
