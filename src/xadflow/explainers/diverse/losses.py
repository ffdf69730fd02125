"""The loss terms of the diverse counterfactuals, each [B] or a mean, in float32.

Source: arXiv 2402.14469 and, for the forms it leaves open, DISSECT (Ghandeharioun et al., ICLR 2022); see
docs/explanation/methods.md, "Diverse counterfactuals". `diversity` and `proximity` are additions of this project
(docs/explanation/methods.md, "Diverse counterfactuals"): with the published terms alone both concepts were measured to
make the same edit. `winner_takes_all` is the loss of multiple choice learning (Guzman-Rivera et al., NIPS 2012),
relaxed as by Rupprecht et al. (ICCV 2017); its pairs are this project's (docs/explanation/methods.md, "Transplants").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["logistic", "exponential"]

SAME = 0.1  # a wanted probability this near to the image's own asks for no edit
LEAST = 1e-12  # of h inside the logarithm: bounds the gradient where a score is exactly 0


@dataclass(frozen=True)
class AnomalyProbability:
    """phi, the anomaly probability of a raw score; never formed where its logarithm is wanted.

    logistic      phi = sigmoid((score - offset) / scale): BCE with offset 0 and scale 1, or any detector by its
                  threshold and temperature
    exponential   phi = 1 - exp(-(score - offset) / scale): HSC with 0 and 1, DSVDD and FCDD with a typical normal score
    """

    kind: Kind
    offset: float = 0.0
    scale: float = 1.0

    def of(self, scores: Tensor) -> Tensor:
        """phi [B] in [0,1]."""
        units = self._units(scores)
        return units.sigmoid() if self.kind == "logistic" else -torch.expm1(-units)

    def cross_entropy(self, scores: Tensor, alpha: Tensor) -> Tensor:
        """-alpha log phi - (1 - alpha) log(1 - phi), [B]; its gradient does not vanish where phi is 1 in float32."""
        units = self._units(scores)
        if self.kind == "logistic":
            return F.binary_cross_entropy_with_logits(units, alpha, reduction="none")
        return (1.0 - alpha) * units - alpha * torch.log(-torch.expm1(-units))

    def _units(self, scores: Tensor) -> Tensor:
        units = (scores.float() if scores.dtype != torch.float64 else scores) - self.offset
        units = units / self.scale
        return units if self.kind == "logistic" else units.clamp_min(LEAST)


def discriminator_hinge(real: Tensor, made: Tensor) -> Tensor:
    """E max(0, 1 - D(x,s)) + E max(0, 1 + D(x~,alpha)), a scalar.

    >>> float(discriminator_hinge(torch.tensor([0.5]), torch.tensor([-0.25])))
    1.25
    """
    return F.relu(1.0 - real).mean() + F.relu(1.0 + made).mean()


def is_edit(probability: Tensor, alpha: Tensor) -> Tensor:
    """Where another probability is asked for than the image has, bool [B]."""
    return (probability - alpha).abs() > SAME


def concept_targets(concept: Tensor, concepts: int, edit: Tensor) -> Tensor:
    """What R is to answer [B,K]: one-hot where an edit was asked for, else zeros."""
    return F.one_hot(concept, concepts) * edit[:, None].to(torch.float32)


def diversity(edits: Tensor, edit: Tensor, margin: float) -> Tensor:
    """Mean over images and pairs of concepts of max(0, cos(d_i, d_j) - margin), a scalar; 0 for one concept.

    `edits` [N,K,...] are x~_k - x of the same image and alpha; `edit` bool [N] says where one was asked for.
    """
    count = edits.shape[1]
    if count == 1:
        return edits.new_zeros(())
    flat = F.normalize(edits.flatten(2).float(), dim=2, eps=1e-6)
    cosines = flat @ flat.transpose(1, 2)  # (N, K, K)
    first, second = torch.triu_indices(count, count, offset=1, device=edits.device)
    excess = F.relu(cosines[:, first, second] - margin).mean(dim=1)
    weight = edit.to(excess.dtype)
    return (excess * weight).sum() / weight.sum().clamp_min(1.0)


def feature_diversity(before: Sequence[Tensor], after: Sequence[Tensor], edit: Tensor, margin: float) -> Tensor:
    """:func:`diversity` of edits as a network sees them, the mean of its stages, a scalar.

    Stages of the images [N,C,u,v] `before`, and of their K edited forms [N*K,C,u,v] `after`, image by image.
    """
    found = [
        diversity(made.float().reshape(len(plain), -1, *plain.shape[1:]) - plain.float()[:, None], edit, margin)
        for plain, made in zip(before, after, strict=True)
    ]
    return torch.stack(found).mean()


def winner_takes_all(made: Tensor, targets: Tensor, slack: float) -> Tensor:
    """Mean over images and targets of (1 - slack) min_k |made_k - target| + slack mean_k |made_k - target|, a scalar.

    `made` [N,K,...] and `targets` [N,A,...]; |.| is the mean over an image's values. Of the K images only the one that
    is nearest to a target follows it; `slack` keeps those that never win from learning nothing.
    """
    apart = (made.float()[:, None] - targets.float()[:, :, None]).abs().flatten(3).mean(dim=3)  # (N, A, K)
    return ((1.0 - slack) * apart.amin(dim=2) + slack * apart.mean(dim=2)).mean()
