"""Settings of the one-class family that is trained end to end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import Field, field_validator

from xadflow.defects.synthesisers import Synthesiser
from xadflow.detectors.one_class.inputs import Preparation, RobustSettings, preparation
from xadflow.errors import BadSettings
from xadflow.networks.cut_settings import TrunkSettings
from xadflow.networks.outline import is_trunk
from xadflow.networks.pretrained import TRUNKS
from xadflow.networks.published import NETWORKS, network_spec
from xadflow.settings.of_methods import MethodSettings, validated

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0.0, le=1.0)]


class OneClassSettings(MethodSettings):
    """Every choice that the methods share; a method that does not use one ignores it.

    network           one of xadflow.networks.published, or a trunk: lite0, mobilenet_v2 or torchvision:NAME; None:
                      what suits the image size, see network_for
    trunk             of a network that is a trunk: weights, cut, frozen, freeze_bn; see cut_settings.py
    preparation       contrast (each image's brightness and contrast are taken out, as published), standard (they stay)
                      or pretrained (as the trunk's weights were trained, the default of a trunk); see inputs.py
    anomaly_rate      chance that a normal image of a batch is replaced by an anomaly (published: one half)
    anomalies         what replaces it, in equal shares of those that are there: outliers (of the data set), known
                      (labelled defects) and synthetic ones; `synthesiser` draws the last, see synthesisers.py. None:
                      outliers and known where there are outliers, else known and synthetic
    crop_px           each training image is shifted by up to this many pixels, the border repeated; None: a 64th of the
                      shorter side, at least 1
    flip              left-right mirror images are normal too
    noise             standard deviation of Gaussian noise added to training images, of a range of 1
    epochs, min_steps passes over the normals, and the fewest steps whatever their number
    optimiser, curve  adamw, or sgd with Nesterov momentum .9; one cosine cycle, or learning_rate * decay^epoch
    patience          end after this many checks, one every 50 steps, that were no better than the best, and keep the
                      weights of that one; None: never. A tenth of the train normals, at most a batch, is then held out
                      of the steps for the check: the held-out normals that set the threshold must not choose weights
                      too. It suits `exponential`: a cosine cycle that is cut short never gets to its small steps
    robust            true, or a block of settings: train against the worst image nearby (see inputs.py), so that
                      sparse counterfactuals become visible changes; (1 + steps) times the time. Not for `ae`
    compile           through torch.compile, where there is a compiler; pays for itself on a GPU and in long trainings
    """

    network: str | None = None
    trunk: TrunkSettings | None = None
    preparation: Preparation = "contrast"
    anomaly_rate: Rate = 0.5
    anomalies: tuple[Literal["outliers", "known", "synthetic"], ...] | None = None
    synthesiser: Synthesiser = "defects"
    crop_px: Annotated[int, Field(ge=0)] | None = None
    flip: bool = True
    noise: Rate = 0.0
    epochs: Annotated[float, Field(gt=0.0)] = 30.0
    min_steps: Positive = 200
    batch_size: Annotated[int, Field(ge=2)] = 128
    optimiser: Literal["adamw", "sgd"] = "adamw"
    curve: Literal["cosine", "exponential"] = "cosine"
    decay: Annotated[float, Field(gt=0.0, le=1.0)] = 0.98
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-6
    patience: Positive | None = None
    robust: RobustSettings | None = None
    compile: bool = False

    @field_validator("robust", mode="before")
    @classmethod
    def _switched(cls, given: object) -> object:
        return {True: RobustSettings(), False: None}[given] if isinstance(given, bool) else given

    def shift(self, height: int, width: int) -> int:
        """Most pixels that a training image of this size is shifted by."""
        return max(1, round(min(height, width) / 64)) if self.crop_px is None else self.crop_px

    def steps(self, normals: int) -> int:
        """Training steps for this many normal images."""
        return max(self.min_steps, round(self.epochs * normals / self.batch_size))


Kind = TypeVar("Kind", bound=OneClassSettings)


class DenseSettings(OneClassSettings):
    """Settings of `fcdd_conv`.

    level             image: one label an image; pixel: masks, with `defect_area` as the m of the loss
    upsampling        normalisation of the heatmap: none is the published one; sigma_px None: the network's published
                      one
    """

    level: Literal["image", "pixel"] = "image"
    defect_area: Literal["image", "region"] = "image"
    upsampling: Literal["none", "dc", "coverage"] = "coverage"
    sigma_px: Annotated[float, Field(gt=0.0)] | None = None


class VectorSettings(OneClassSettings):
    """Settings of the methods that end in a vector; `outputs` None: as many as the network's published twin has."""

    outputs: Positive | None = None


class CentredSettings(VectorSettings):
    """Settings of `dsvdd`, which learns from normals alone: taking brightness out takes much of what it could see.

    Many outputs serve it as many random views do; figures in docs/reference/benchmarks.md are with 512.
    """

    preparation: Preparation = "standard"
    outputs: Positive | None = 512


class FocalSettings(OneClassSettings):
    """Settings of `bce`; `gamma` above 0 makes it the focal loss."""

    gamma: Annotated[float, Field(ge=0.0)] = 0.0


class ReconstructionSettings(OneClassSettings):
    """Settings of `ae`, whose decoder mirrors its network: a trunk has no mirror image."""


def one_class_settings(kind: type[Kind], given: Mapping[str, object], method: str) -> Kind:
    """Settings checked, network and trunk included; for a trunk with its steps and its preparation filled in.

    Raises:
        BadSettings: a key or a value that does not fit, `trunk` without one, a trunk or `robust` for a method that
        takes none. UnknownName: no network of that name.
    """
    checked = validated(kind, given, f"detector {method}")
    if checked.robust is not None and issubclass(kind, ReconstructionSettings):
        raise BadSettings(
            f"detector {method} compares an image with itself, so no image nearby is worse",
            seen="robust",
            next_step="leave `robust` out, or use bce, hsc or fcdd_conv",
        )
    network = checked.network
    if network is None or not is_trunk(network):
        if network is not None:
            network_spec(network)
        if checked.trunk is not None:
            raise BadSettings(
                f"`trunk` of detector {method} is for a network that is one",
                seen=f"network {network}",
                next_step=f"set network to one of {[*TRUNKS, 'torchvision:NAME']} in params.yaml",
            )
        preparation(checked.preparation, 1)  # refuses `pretrained`
        return checked
    if issubclass(kind, ReconstructionSettings):
        raise BadSettings(
            f"detector {method} mirrors its network, and a trunk has no mirror image",
            seen=f"network {network}",
            next_step=f"use one of {sorted(NETWORKS)}",
        )
    prepared = checked.preparation if "preparation" in checked.model_fields_set else "pretrained"
    trunk = (checked.trunk or TrunkSettings()).resolved(network)
    return checked.model_copy(update={"trunk": trunk, "preparation": prepared})
