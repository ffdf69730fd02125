"""The arm that our oracle is timed against solves the same problem."""

import pytest
import torch

from benchmarks import sort_and_bisect
from xadflow.explainers.sparse.frank_wolfe import auto_frank_wolfe
from xadflow.explainers.sparse.oracle import linear_maximisation_oracle


@pytest.mark.parametrize("eps", [0.3, 0.6, 0.9, 2.0])
def test_it_reaches_the_golden_values(eps):
    golden = {0.3: 0.841147, 0.6: 1.485016, 0.9: 1.903335, 2.0: 2.1}  # sparse-counterfactuals.md, section 8
    x, w = torch.tensor([[[0.2, 0.5, 0.9, 0.0]], [[1.0, -2.0, 3.0, -1.0]]], dtype=torch.float64)
    assert float((sort_and_bisect.oracle(x, w, eps, 1.5) * w).sum()) == pytest.approx(golden[eps], abs=1e-6)


@pytest.mark.parametrize("eps", [0.05, 1.0, 20.0, 1e4])
def test_both_oracles_agree_on_random_images(eps):
    generator = torch.Generator().manual_seed(0)
    x, w = torch.rand(4, 3, 16, 16, generator=generator), torch.randn(4, 3, 16, 16, generator=generator) ** 3
    theirs, ours = sort_and_bisect.oracle(x, w, eps, 1.5), linear_maximisation_oracle(x, w, eps, 1.5)
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-4)


def test_both_loops_take_the_same_steps():
    generator = torch.Generator().manual_seed(1)
    x, target = torch.rand(3, 1, 8, 8, generator=generator), torch.rand(3, 1, 8, 8, generator=generator)
    noise = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(0)).expand_as(x)
    _, theirs = sort_and_bisect.search(lambda z: -(z - target).square().sum((1, 2, 3)), x, 2.0, 1.5, 40, noise)
    ours = auto_frank_wolfe(lambda z, rows: -(z - target[rows]).square().sum((1, 2, 3)), x, 2.0, 1.5, 40, 0)
    torch.testing.assert_close(theirs, ours.values, atol=1e-4, rtol=1e-4)
