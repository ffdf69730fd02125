"""Random numbers that are a function of a seed and of what they are for, so that a checkpoint holds no random state."""

from __future__ import annotations

import hashlib

import torch
from torch import Generator


def seeded(seed: int, *purpose: object, device: torch.device | str = "cpu") -> Generator:
    """A generator that depends on the seed and on what it is for, on nothing else."""
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))
