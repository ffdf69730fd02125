"""Weights for a trunk: of an installed package, or of a safetensors file in the project. Never pickle from outside."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from xadflow.digests import sha256_file
from xadflow.errors import BadWeights, DataUnavailable
from xadflow.networks.cut import CutTrunk
from xadflow.networks.outline import outline
from xadflow.networks.pretrained import TRUNKS, load_network
from xadflow.settings import Home


def pretrain(network: nn.Module, weights: str | None) -> str | None:
    """Give a network's trunk the weights it is to start from; returns what they hash to, None where there are none.

    Raises:
        DataUnavailable: the package or the file is not there.
        BadWeights: they do not fit the network.
        WrongUse: `weights` is given outside a project.
    """
    trunk = next((part for part in network.modules() if isinstance(part, CutTrunk)), None)
    if trunk is None:
        return None
    if trunk.network in TRUNKS:
        trunk.take(load_network(trunk.network).state_dict())
        return TRUNKS[trunk.network].sha256
    if weights is None:
        return None
    path = weights_path(Home.find().project, weights)
    digest = sha256_file(path)
    trunk.take(_read(path, trunk))
    return digest


def weights_path(project: Path, weights: str) -> Path:
    """The file of weights. Raises DataUnavailable where there is none inside the project."""
    path = (project / weights).resolve()
    if not path.is_relative_to(project.resolve()) or not path.is_file():
        raise DataUnavailable(
            "there is no such file of weights in the project",
            seen=weights,
            next_step="put it there, or mend `weights` of the detector's trunk in params.yaml",
        )
    return path


def _read(path: Path, trunk: CutTrunk) -> dict[str, Tensor]:
    """The trunk's tensors alone: the classifier of VGG is 120 million numbers that nobody asks for."""
    wanted, known = trunk.tensors(), outline(trunk.network).tensors
    try:
        with safe_open(path, framework="pt", device="cpu") as stored:
            names = list(stored.keys())
            found = {name: stored.get_tensor(name) for name in names if name in wanted}
    except (OSError, SafetensorError) as err:
        raise BadWeights(
            "the file of weights cannot be read as safetensors",
            seen=f"{path.name}: {err}"[:200],
            next_step="save a state_dict() by safetensors.torch.save_file",
        ) from err
    if strange := sorted(set(names) - known):
        raise BadWeights(
            "the file holds weights of another network",
            seen=f"{path.name}: {', '.join(strange[:3])}",
            next_step=f"save the state_dict() of {trunk.network} by safetensors",
        )
    return found
