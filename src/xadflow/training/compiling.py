"""torch.compile where it works, and the plain module where it does not."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from xadflow.training.splitting import Network

log = logging.getLogger(__name__)


class Compiled:
    """Calls the compiled network; the first time that cannot be compiled, and ever after, the plain one.

    Compiling happens within a call and needs a C++ compiler on a CPU, Triton on a GPU. That it was not possible is
    logged once; the results are those of the plain network then. Compiled ones differ from these by rounding.
    """

    def __init__(self, compiled: Network, plain: Network) -> None:
        self._compiled: Network | None = compiled
        self._plain = plain

    def __call__(self, *inputs: Any) -> Tensor:
        """What the network gives."""
        from torch._dynamo.exc import TorchDynamoException, TritonUnavailableError

        if self._compiled is not None:
            try:
                return self._compiled(*inputs)
            except (TorchDynamoException, TritonUnavailableError) as err:
                said = " ".join(str(err).split())[:200]
                log.warning("torch.compile did not work, the network runs as it is: %s: %s", type(err).__name__, said)
                self._compiled = None
        return self._plain(*inputs)
