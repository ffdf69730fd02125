"""The losses of both stages, as plain functions. All are means over the batch.

Sources: released weights and options of UTAD (utad.md, sections 2 and 3); the mutual-information bound is Deep
InfoMax's Jensen-Shannon one (Hjelm et al., ICLR 2019), written with softplus on logits; LSGAN, Mao et al., ICCV 2017;
SSIM, Wang et al., 2004 (window 11, sigma 1.5).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_LOGVAR = 10.0  # log-variances are clamped to +-this
_C1, _C2 = 0.01**2, 0.03**2


def prior_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, I)), summed over the code [B,N].

    >>> float(prior_divergence(torch.ones(1, 3), torch.zeros(1, 3)))
    1.5
    """
    bounded = logvar.clamp(-MOST_LOGVAR, MOST_LOGVAR)
    return 0.5 * (mu.square() + bounded.exp() - bounded - 1.0).sum(dim=1).mean()


def information_loss(own: Tensor, foreign: Tensor) -> Tensor:
    """-E[log T(own pair)] - E[log(1 - T(foreign pair))] of logits of any shape; 2 ln 2 where T knows nothing."""
    return F.softplus(-own).mean() + F.softplus(foreign).mean()


def judge_loss(real: Sequence[Tensor], made: Sequence[Tensor]) -> Tensor:
    """LSGAN of a discriminator: 1 for real, 0 for made, squared; summed over its scales."""
    scales = [(1.0 - one).square().mean() + other.square().mean() for one, other in zip(real, made, strict=True)]
    return torch.stack(scales).sum()


def maker_loss(made: Sequence[Tensor]) -> Tensor:
    """LSGAN of the network that made the images: wants 1; summed over scales."""
    return torch.stack([(1.0 - one).square().mean() for one in made]).sum()


def total_variation(images: Tensor) -> Tensor:
    """Mean |difference| of neighbouring pixels, rows and columns averaged."""
    rows, columns = _gradients(images)
    return 0.5 * (rows.abs().mean() + columns.abs().mean())


def edge_loss(first: Tensor, second: Tensor, levels: int = 3) -> Tensor:
    """Mean over halved sizes of the mean |difference of gradients|, the x and y halves averaged."""
    found = []
    for level in range(levels):
        if level:
            first, second = F.avg_pool2d(first, 2), F.avg_pool2d(second, 2)
        pairs = zip(_gradients(first), _gradients(second), strict=True)
        found.append(0.5 * torch.stack([(one - other).abs().mean() for one, other in pairs]).sum())
    return torch.stack(found).mean()


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """SSIM at every pixel, [B,C,H,W] of images in [0,1]; borders are reflected. Clipped to [-1,1]."""
    mean_a, mean_b = (gaussian_blur(one, 1.5, 5) for one in (first, second))
    var_a = gaussian_blur(first.square(), 1.5, 5) - mean_a.square()
    var_b = gaussian_blur(second.square(), 1.5, 5) - mean_b.square()
    both = gaussian_blur(first * second, 1.5, 5) - mean_a * mean_b
    ssim = ((2 * mean_a * mean_b + _C1) * (2 * both + _C2)) / (
        (mean_a.square() + mean_b.square() + _C1) * (var_a + var_b + _C2)
    )
    return ssim.clamp(-1.0, 1.0)


def gaussian_blur(images: Tensor, sigma_px: float, radius: int | None = None) -> Tensor:
    """Each channel of [B,C,H,W] blurred, borders reflected; sigma 0 changes nothing. The radius is 3 sigma
    or as given.
    """
    if sigma_px <= 0:
        return images
    reach = min(radius or max(1, round(3 * sigma_px)), min(images.shape[2:]) - 1)
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-offsets.square() / (2 * sigma_px**2))
    kernel = kernel / kernel.sum()
    flat = images.flatten(0, 1)[:, None]  # (B*C, 1, H, W)
    flat = F.conv2d(F.pad(flat, (0, 0, reach, reach), mode="reflect"), kernel.view(1, 1, -1, 1))
    flat = F.conv2d(F.pad(flat, (reach, reach, 0, 0), mode="reflect"), kernel.view(1, 1, 1, -1))
    return flat[:, 0].view_as(images)


def _gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    return images[..., 1:, :] - images[..., :-1, :], images[..., 1:] - images[..., :-1]
