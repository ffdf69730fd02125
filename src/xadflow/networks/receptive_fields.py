"""The receptive field of any convolutional trunk, measured: where the input of one cell begins and ends.

A twin of the trunk sees instead of computing: every convolution becomes the mean of what it covers, maximum pooling
becomes mean pooling, activations and normalisations pass on what they get, and squeeze-and-excitation, which looks at
the whole image, is left out. All its weights are positive, so the gradient of a cell is positive exactly where any path
leads, and no path is hidden by a maximum, a sign or a saturated activation. Residual and parallel branches, dilation,
asymmetric and size-dependent padding need no rules of their own. Channels of a convolution's output are all the same,
so one is computed.

Fields are measured on a small canvas. Padding may depend on the size, so the canvas is as wide as the image modulo 64,
which every stride up to 64 that is a power of two divides: then all paddings are those of the image.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from xadflow.errors import BadInput
from xadflow.networks.upsampling import Field

_MODULO = 64
_ACROSS_PX = 128  # of the canvas along the other axis: gives every network a few cells there
_LARGEST_PX = 1 << 13
_GATES = (
    "SqueezeExcitation",
    "SqueezeExcite",
    "SEModule",
)  # torchvision's, timm's: scale channels by means over the image
_POINTWISE = (
    "torch.nn.modules.activation",
    "torch.nn.modules.batchnorm",
    "torch.nn.modules.instancenorm",
    "torch.nn.modules.normalization",
    "torch.nn.modules.dropout",
)


Seen = tuple[int, int, list[tuple[int, int]]]
"""How many cells there are, the first of two neighbours, and the first and last pixel that each of the two sees."""


def measured_fields(trunk: nn.Module, height: int, width: int, channels: int = 3) -> tuple[Field, Field]:
    """Fields along rows and columns of a trunk, images [B,channels,H,W] to cells [B,C,u,v], for one image size.

    The trunk itself is not changed, and its weights do not count. In float64.

    Raises:
        BadInput: the trunk leaves no cell of an image of this size, or the distance of its cells is not a power of two.
    """
    seeing = seeing_twin(trunk)
    rows = _along(lambda size: _supports(seeing, channels, size, axis=0), height, height, width)
    columns = _along(lambda size: _supports(seeing, channels, size, axis=1), width, height, width)
    return rows, columns


def _along(look: Callable[[int], Seen | None], size: int, height: int, width: int) -> Field:
    """Field along one axis, of what `look` sees on a canvas."""
    canvas = size % _MODULO + 2 * _MODULO
    while canvas < _LARGEST_PX:
        found = look(canvas)
        if found is not None:
            cells, first, ((low, high), (next_low, next_high)) = found
            if low > 0 and next_high < canvas - 1:
                stride, extent = next_low - low, high - low + 1
                if stride < 1 or _MODULO % stride or next_high - high != stride:
                    raise BadInput(
                        "the cells of a trunk must lie 1, 2, 4 ... or 64 px apart, each with an equal field",
                        seen=f"{stride} px",
                        next_step="choose another cut of the trunk in params.yaml",
                    )
                cells += (size - canvas) // stride
                if cells < 1:
                    break
                return Field(cells, stride, extent, (low + high) / 2 - stride * first)
        canvas += _MODULO * max(1, canvas // _MODULO)
    raise BadInput(
        "the images are too small for this trunk",
        seen=f"{height} x {width} px",
        next_step="raise size_px of the data set, or cut the trunk earlier (`cut` of its settings)",
    )


def _supports(seeing: nn.Module, channels: int, size: int, axis: int) -> Seen | None:
    """What two neighbours in the middle of a canvas see; None where there are not two."""
    shape = (size, _ACROSS_PX) if axis == 0 else (_ACROSS_PX, size)
    image = torch.ones(1, channels, *shape, dtype=torch.float64, requires_grad=True)
    cells = seeing(image).sum(dim=1)[0]  # (u, v)
    if axis == 1:
        cells = cells.T
    first = (len(cells) - 1) // 2
    if len(cells) < 2:
        return None
    found = []
    for cell in (first, first + 1):
        (gradient,) = torch.autograd.grad(cells[cell, cells.shape[1] // 2], image, retain_graph=True)
        lit = (gradient[0].sum(dim=0) > 0).any(dim=1 - axis).nonzero().flatten()
        found.append((int(lit[0]), int(lit[-1])))
    return len(cells), first, found


class _Mean(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=1, keepdim=True)


class _Repeat(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, maps: Tensor) -> Tensor:
        return maps.repeat(1, self.channels, 1, 1)  # not expanded: blocks add to it in place


def seeing_twin(trunk: nn.Module) -> nn.Module:
    """The twin, in float64: linear, all its weights above zero; of parameters on `meta` too. The net is not changed."""
    return _replaced(copy.deepcopy(trunk)).to(torch.float64).eval()


def _replaced(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.Conv2d):
        return _convolution(module)
    if isinstance(module, nn.MaxPool2d):
        # Padded places count as zeros, which keeps every weight above zero.
        return nn.AvgPool2d(module.kernel_size, module.stride, module.padding, ceil_mode=module.ceil_mode)
    if type(module).__name__ in _GATES or any(kind.__module__ in _POINTWISE for kind in type(module).__mro__):
        return nn.Identity()
    for name, child in module.named_children():
        setattr(module, name, _replaced(child))
    for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        share = 1.0 / value.shape[-1] if name == "weight" else 0.0 if name == "bias" else 1.0
        filled = torch.full(value.shape, share, dtype=torch.float64)
        setattr(module, name, nn.Parameter(filled) if isinstance(value, nn.Parameter) else filled)
    return module


def _convolution(module: nn.Conv2d) -> nn.Module:
    """The mean over channels and kernel, by the module itself, which may pad in a way of its own."""
    repeat = _Repeat(module.out_channels)
    kernel = torch.full((1, 1, *module.kernel_size), 1.0 / (module.kernel_size[0] * module.kernel_size[1]))
    module.weight, module.bias = nn.Parameter(kernel), None
    module.in_channels = module.out_channels = module.groups = 1
    return nn.Sequential(_Mean(), module, repeat)
