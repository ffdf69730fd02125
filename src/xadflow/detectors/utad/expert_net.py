"""What an Expert-Net is: content from the impression, detail from the image, and the same the other way round.

    x_hat = image(C(m), S_I(x))        sharp, without defect
    m_hat = impression(C(x), d)        blurred, with the defect ("naive impression"); d is drawn

The only way from x to x_hat that does not go through m is the detail code S_I(x), a few numbers behind a global
average: it cannot say where a defect is. `image` therefore takes m and the code, never x.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from xadflow.detectors.utad.settings import ExpertSettings


class Expert(nn.Module, ABC):
    """Base of both forms. Images and impressions are [B,C,H,W] in [0,1] (results may leave it a little);
    codes [B,n].
    """

    def __init__(self, settings: ExpertSettings) -> None:
        super().__init__()
        self.settings = settings

    @abstractmethod
    def detail(self, images: Tensor) -> Tensor:
        """S_I: the detail code of images, [B,n,1,1]."""

    @abstractmethod
    def detail_of_impression(self, impressions: Tensor) -> Tensor:
        """S_M: the same of the impression domain."""

    @abstractmethod
    def image(self, impressions: Tensor, codes: Tensor) -> Tensor:
        """x_hat [B*K,C,H,W] of impressions [B,...] and codes [B*K,n], image by image; content is formed
        once an image.
        """

    @abstractmethod
    def impression(self, images: Tensor, codes: Tensor) -> Tensor:
        """m_hat [B*K,C,H,W] of images [B,...] and codes [B*K,n]."""

    @abstractmethod
    def copy(self, images: Tensor) -> Tensor:
        """x_rec: images through the image domain, content and detail their own. The reconstruction that
        copies defects.
        """

    @abstractmethod
    def own_terms(self, x: Tensor, m: Tensor, x_hat: Tensor, m_hat: Tensor) -> Mapping[str, Tensor]:
        """Loss terms that only this form has, by the names of their weights."""


def repeated(images: Tensor, codes: Tensor) -> Tensor:
    """Each of [B,...] as often as there are codes for it."""
    return images.repeat_interleave(len(codes) // len(images), dim=0)
