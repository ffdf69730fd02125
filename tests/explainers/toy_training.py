"""How the weights in toy.safetensors were made: `python -m tests.explainers.toy_training`.

They are kept, not trained anew for each run of the tests: what twelve epochs become hangs on the processor's arithmetic
and the seed, and the tests here are about explainers. All of five seeds (0, 1000, ... 4000) gave a detector that finds
every defect, but two (1000, 2000) one without a gradient on 16 of 24 of them, where no explainer can walk.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from tests.explainers.conftest import TOY_WEIGHTS, patterned, toy_network, with_defects
from xadflow.images import as_float


def main() -> None:
    """Teach the network to see the squares, and write its weights."""
    torch.manual_seed(0)
    network = toy_network()
    normals = patterned(160, 1)
    defects, masks = with_defects(patterned(160, 2), 3)
    images = as_float(torch.cat([normals, defects]))
    target = torch.cat([torch.zeros_like(masks), masks]).float()[:, None]
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    rare = torch.tensor(10.0)  # a defect is a tenth of its image at most
    shuffler = torch.Generator().manual_seed(0)
    for _ in range(12):
        for rows in torch.randperm(len(images), generator=shuffler).split(32):
            loss = F.binary_cross_entropy_with_logits(network(images[rows]), target[rows], pos_weight=rare)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    save_file(network.state_dict(), TOY_WEIGHTS)


if __name__ == "__main__":
    main()
