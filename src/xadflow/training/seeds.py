"""Random numbers that are a function of a seed and of what they are for, so that a checkpoint holds no random state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator


def seeded(seed: int, *purpose: object, device: torch.device | str = "cpu") -> Generator:
    """A generator that depends on the seed and on what it is for, on nothing else."""
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))


@contextmanager
def weights_from(seed: int, *purpose: str) -> Iterator[None]:
    """Initial weights from this seed, whatever was drawn before; torch's global state is given back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seeded(seed, *purpose).initial_seed()))
        yield


@contextmanager
def drawing_from(generator: Generator, device: torch.device | None = None) -> Iterator[None]:
    """What torch draws by itself within (dropout on that device, weights) is a function of the generator: a resumed
    step drops the same channels.
    """
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator, device=generator.device)))
        yield
