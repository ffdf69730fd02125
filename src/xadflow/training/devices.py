"""Which device a training or a scoring runs on."""

from __future__ import annotations

import torch

from xadflow.errors import BadSettings


def resolve_device(name: str) -> torch.device:
    """`auto` is the first GPU where there is one, else the CPU. Raises BadSettings for what is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise BadSettings("no such device", seen=name, next_step="set device to auto, cpu or cuda") from err
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadSettings("no such GPU on this machine", seen=name, next_step="set device to auto or cpu")
    return device
