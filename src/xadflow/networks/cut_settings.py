"""Settings of a trunk that is trained further: where its weights come from, where it is cut, what of it
stays as it is.
"""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated

from pydantic import AfterValidator, Field

from xadflow.errors import BadSettings
from xadflow.networks.outline import outline
from xadflow.networks.pretrained import TRUNKS
from xadflow.settings.of_methods import MethodSettings


def _is_inside(path: str) -> str:
    parts = (*PurePosixPath(path).parts, *PureWindowsPath(path).parts)
    outside = ".." in parts or PurePosixPath(path).is_absolute() or bool(PureWindowsPath(path).drive)
    if outside or "\0" in path or not path.endswith(".safetensors"):
        raise ValueError("must be the path of a .safetensors file inside the project, relative to it")
    return path


class TrunkSettings(MethodSettings):
    """Choices for a `network` that is a trunk: lite0, mobilenet_v2 or torchvision:NAME.

    weights    safetensors file, relative to the project, with the names of torchvision's state dict; read when training
               starts, never after. None: untrained; lite0 and mobilenet_v2 bring their own
    cut        how many steps are kept, or the name of the last one. None: up to stride 8; for torchvision:vgg11_bn 21,
               which is the published network
    frozen     how many of them, from the image on, are not trained, or the name of the last such one; published for
               VGG: 15
    freeze_bn  batch normalisation of the frozen steps keeps its statistics; false: they drift, as in the published code
    """

    weights: Annotated[str, AfterValidator(_is_inside)] | None = None
    cut: Annotated[int, Field(ge=1)] | str | None = None
    frozen: Annotated[int, Field(ge=0)] | str = 0
    freeze_bn: bool = True

    def steps(self, network: str) -> tuple[int, int]:
        """Numbers of steps that are kept and that are frozen. Raises BadSettings, UnknownName."""
        known = outline(network)
        cut = known.default_cut() if self.cut is None else _number(self.cut, known.names, "cut", network)
        frozen = _number(self.frozen, known.names[:cut], "frozen", network)
        return cut, frozen

    def resolved(self, network: str) -> TrunkSettings:
        """The same with numbers for names and defaults, so that a saved detector says what it is. Raises as
        :meth:`steps`.
        """
        if self.weights is not None and network in TRUNKS:
            raise BadSettings(
                f"{network} brings its own weights",
                seen=self.weights,
                next_step=f"leave `weights` out, or name torchvision:NAME instead of {network}",
            )
        cut, frozen = self.steps(network)
        return self.model_copy(update={"cut": cut, "frozen": frozen})


def _number(given: int | str, names: tuple[str, ...], key: str, network: str) -> int:
    if isinstance(given, str) and given in names:
        return names.index(given) + 1
    if isinstance(given, str) or given > len(names):
        shown = ", ".join(f"{number} {name}" for number, name in enumerate(names, start=1))
        raise BadSettings(
            f"{network} has no such step to be its `{key}`", seen=given, next_step=f"name one of: {shown}"
        )
    return given
