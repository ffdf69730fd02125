"""Pretrained or own networks to cut and to train further, by name: which steps they have, at what stride, how wide.

lite0, mobilenet_v2   the packaged ones of pretrained.py, with their weights
torchvision:NAME      any convolutional classifier of torchvision, untrained or with weights of a file of yours

A step is a module that the network runs one after the other, from the image on: a layer of VGG's `features`, a `layer1`
of a ResNet, a stage of EfficientNet-Lite0. The steps of a transformer do not give maps, so these are refused.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from xadflow.errors import BadSettings, UnknownName, nearest
from xadflow.networks.pretrained import TRUNKS, architecture

TORCHVISION = "torchvision:"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # torchvision's GoogLeNet and Inception undo ImageNet's, before any step

_PROBES_PX = (256, 320)  # two sizes that differ by 64 px tell any stride that divides it
_ENDS = ("avgpool", "fc")  # of networks whose steps are their own children: what comes after the last map
_CHAINS = ("ResNet", "ShuffleNetV2", "GoogLeNet", "Inception3")
_TRANSFORMERS = ("SwinTransformer", "VisionTransformer", "MaxVit")


@dataclass(frozen=True)
class Outline:
    """The steps of a network: their names in its state dict, the stride and the channels of what each gives."""

    names: tuple[str, ...]
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    tensors: frozenset[str]  # names of the whole network's, later steps and classifier included

    def default_cut(self) -> int:
        """Up to where cells are 8 px apart, as published; else to the last step that is finer."""
        return max(number for number, stride in enumerate(self.strides, start=1) if stride <= 8 or number == 1)


def is_trunk(network: str | None) -> bool:
    """Whether the name is meant for a trunk, known or not."""
    return network is not None and (network in TRUNKS or network.startswith(TORCHVISION))


def statistics_of(network: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel that the weights, packaged or torchvision's own, were
    trained with.
    """
    if network in TRUNKS:
        return TRUNKS[network].mean, TRUNKS[network].std
    return INCEPTION if network.removeprefix(TORCHVISION) in ("googlenet", "inception_v3") else IMAGENET


@cache
def outline(network: str) -> Outline:
    """What is known of a trunk, without memory for its weights.

    Raises:
        UnknownName: no network of that name.
        BadSettings: one that is no chain of convolutional steps.
    """
    whole, found = _skeleton(network)
    small, large = (_shapes(found, side) for side in _PROBES_PX)
    if any(less[1] != more[1] or less[2] >= more[2] for less, more in zip(small, large, strict=True)):
        raise _no_chain(network)
    strides = tuple(
        (_PROBES_PX[1] - _PROBES_PX[0]) // (more[2] - less[2]) for less, more in zip(small, large, strict=True)
    )
    return Outline(
        tuple(name for name, _ in found), strides, tuple(shape[1] for shape in small), frozenset(whole.state_dict())
    )


def steps(network: str, cut: int, *, empty: bool = False) -> list[tuple[str, nn.Module]]:
    """Name and module of the first `cut` steps, untrained; `empty`: on the device `meta`, without values.

    Untrained is what torchvision does for VGG, ResNet, MobileNet and EfficientNet: convolutions by He et al. (fan out),
    biases 0. Networks with weights of other kinds initialise themselves.
    """
    kept = _skeleton(network)[1][:cut]
    if not empty and not all(_is_plain(module) for _, step in kept for module in step.modules()):
        return _named_steps(_whole(network), network)[:cut]
    kept = copy.deepcopy(kept)
    if not empty:
        for _, step in kept:
            step.to_empty(device="cpu").apply(_initialise)
    return kept


@cache
def _skeleton(network: str) -> tuple[nn.Module, list[tuple[str, nn.Module]]]:
    """The whole network on the device `meta`, and its steps; what is built is copied from here."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        whole = _whole(network)
    whole.to("meta")
    return whole, _named_steps(whole, network)


def _shapes(found: list[tuple[str, nn.Module]], side: int) -> list[torch.Size]:
    maps, shapes = torch.empty(1, 3, side, side, device="meta"), []
    for _, step in found:
        maps = step(maps)
        shapes.append(maps.shape)
    return shapes


def _whole(network: str) -> nn.Module:
    if network in TRUNKS:
        return architecture(network)
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    name = network.removeprefix(TORCHVISION)
    if name not in known:
        raise UnknownName(
            "torchvision has no classifier of that name",
            seen=network,
            next_step=f"use {TORCHVISION}{nearest(name, known) or 'resnet18'}",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # GoogLeNet and Inception announce another initialisation
        try:
            module: nn.Module = torchvision.models.get_model(name, weights=None)
        except NotImplementedError:  # RegNet computes its widths by tensors, which `meta` does not hold
            with torch.device("cpu"):
                module = torchvision.models.get_model(name, weights=None)
    return module


def _named_steps(whole: nn.Module, network: str) -> list[tuple[str, nn.Module]]:
    kind = type(whole).__name__
    if kind in _TRANSFORMERS:
        raise _no_chain(network)
    children = list(whole.named_children())
    if network == "lite0":
        return [
            *children[:2],
            *((f"blocks.{name}", stage) for name, stage in whole.get_submodule("blocks").named_children()),
        ]
    if kind in _CHAINS:
        end = next(number for number, (name, _) in enumerate(children) if name in _ENDS)
        return [(name, child) for name, child in children[:end] if not name.lower().startswith("aux")]
    if kind == "RegNet":
        blocks = whole.get_submodule("trunk_output").named_children()
        return [("stem", whole.get_submodule("stem")), *((f"trunk_output.{name}", block) for name, block in blocks)]
    name, first = children[0]
    if not isinstance(first, nn.Sequential):
        raise _no_chain(network)
    return [(f"{name}.{number}", child) for number, child in first.named_children()]


def _no_chain(network: str) -> BadSettings:
    return BadSettings(
        "this network is no chain of convolutional steps that could be cut",
        seen=network,
        next_step=f"use for example {TORCHVISION}vgg11_bn, {TORCHVISION}resnet18 or lite0",
    )


def _is_plain(module: nn.Module) -> bool:
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return not own or hasattr(module, "reset_parameters")


def _initialise(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None)
    if reset is not None:
        reset()
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
