"""CIFAR-10 from its published archive (Krizhevsky, 2009): a tar of six Python 2 pickles of 10,000 images each.

A pickle is a program. These are read after their sha256 held, and even then by an unpickler that knows three names
only, each with a stand-in of ours behind it: no code of numpy or of anybody else runs on the file's word. Nothing of
the archive is written to disk.

The archive itself could not be fetched where this was written. The form is that of torchvision's reader and of
the archive's own page (https://www.cs.toronto.edu/~kriz/cifar.html); tests read small archives of that form.
"""

from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xadflow.datasets.public.sets import RawImages
from xadflow.errors import BadInput

ARCHIVE = "cifar-10-python.tar.gz"
_FOLDER = "cifar-10-batches-py"
_TRAIN, _TEST = tuple(f"data_batch_{number}" for number in range(1, 6)), ("test_batch",)
_CLASSES, _SIDE_PX = 10, 32
_MOST_BYTES = 40_000_000  # of one pickle; the published ones have 31,035,704 at most


def read_cifar10(content: bytes) -> RawImages:
    """Images uint8 [N,32,32,3] and labels of the archive's bytes. Raises BadInput when its form is another one."""
    try:
        found = {name: _batch(pickled) for name, pickled in _members(content).items()}
        train, train_labels = (np.concatenate([found[name][part] for name in _TRAIN]) for part in (0, 1))
        test, test_labels = found[_TEST[0]]
    except BadInput:
        raise
    except Exception as err:  # a broken pickle may raise nearly anything
        raise _other_form(f"{type(err).__name__}: {err}"[:200]) from err
    return RawImages(train, train_labels, test, test_labels)


def _members(content: bytes) -> dict[str, bytes]:
    """The six pickles by name."""
    wanted = {f"{_FOLDER}/{name}": name for name in (*_TRAIN, *_TEST)}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r|gz") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isreg() and member.name in wanted else None
                if stream is not None:
                    if member.size > _MOST_BYTES:
                        raise _other_form(f"{member.name} of {member.size} bytes")
                    found[wanted[member.name]] = stream.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as err:
        raise _other_form(f"{type(err).__name__}: {err}"[:200]) from err
    if missing := sorted(set(wanted.values()) - set(found)):
        raise _other_form(f"no {missing[0]}")
    return found


def _batch(pickled: bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images [N,32,32,3] and labels [N] of one pickle."""
    batch = _Unpickler(io.BytesIO(pickled), encoding="bytes").load()
    if not isinstance(batch, dict) or not isinstance(batch.get(b"data"), _Array):
        raise _other_form("a pickle without data")
    rows = batch[b"data"].rows()
    labels = batch.get(b"labels")
    if not isinstance(labels, list) or len(labels) != len(rows) or not all(type(one) is int for one in labels):
        raise _other_form("labels that are no list of as many numbers as images")
    if not all(0 <= one < _CLASSES for one in labels):
        raise _other_form(f"labels {min(labels)} to {max(labels)}")
    images = rows.reshape(-1, 3, _SIDE_PX, _SIDE_PX).transpose(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)
    return np.ascontiguousarray(images), np.array(labels, np.uint8)


class _Kind:
    """Stands for numpy.dtype: remembers its name."""

    def __init__(self, name: bytes, *_: object) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        """Byte order and the like, which say nothing about single bytes."""


class _Array:
    """Stands for an array: remembers shape, type, order and bytes."""

    state: tuple[Any, ...] = ()

    def __init__(self, *_: object) -> None:
        """Made empty, as numpy makes it; `__setstate__` brings what it holds."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def rows(self) -> NDArray[np.uint8]:
        """The array, uint8 [N,3072]. Raises BadInput for any other."""
        _, shape, kind, by_columns, content = self.state
        if not isinstance(kind, _Kind) or kind.name != b"u1" or len(shape) != 2 or shape[1] != 3 * _SIDE_PX * _SIDE_PX:
            raise _other_form(f"an array of shape {shape}")
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_columns else "C")


class _Unpickler(pickle.Unpickler):
    """Knows the three names that an array of numpy was pickled with in 2009, and no other."""

    _KNOWN = {
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Kind,
    }

    def find_class(self, module: str, name: str) -> type[object]:
        """The stand-in for a name. Raises BadInput for an unknown one, before anything of it is imported."""
        if (module, name) not in self._KNOWN:
            raise _other_form(f"a pickle that asks for {module}.{name}"[:200])
        return self._KNOWN[module, name]


def _other_form(seen: str) -> BadInput:
    return BadInput(
        f"{ARCHIVE} is not the archive of CIFAR-10", seen=seen, next_step="run `xadflow data fetch cifar10` again"
    )
