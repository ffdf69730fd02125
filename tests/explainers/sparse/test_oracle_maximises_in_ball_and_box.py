"""The oracle against independent solvers: golden values, float64 bisection, scipy's SLSQP."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize

from xadflow.errors import BadInput
from xadflow.explainers.sparse import linear_maximisation_oracle, oracle
from xadflow.explainers.sparse.oracle import bounded_step

POWERS = [1.2, 1.5, 2.0, 4.0]
GOLDEN = [  # docs/explanation/methods.md, "Sparse counterfactuals": p = 1.5, float64
    (0.3, [0.060127, -0.240510, 0.1, 0.0], 0.841147),
    (0.6, [0.185016, -0.5, 0.1, 0.0], 1.485016),
    (0.9, [0.603335, -0.5, 0.1, 0.0], 1.903335),
    (2.0, [0.8, -0.5, 0.1, 0.0], 2.1),
]
GOLDEN_X, GOLDEN_W = [0.2, 0.5, 0.9, 0.0], [1.0, -2.0, 3.0, -1.0]


def by_bisection(x, w, eps, p):
    """One sample in float64 by bracketing the multiplier's logarithm; shares no line with the code under test."""
    x, w = np.asarray(x, float).ravel(), np.asarray(w, float).ravel()
    a = np.abs(w) / max(np.abs(w).max(), 1e-300)
    room = np.where(w > 0, 1 - x, x) * (w != 0)
    if eps == 0 or not a.any():
        return np.zeros_like(x)
    if (room**p).sum() <= eps**p:
        return np.sign(w) * room
    with np.errstate(over="ignore"):

        def step(log_scale):
            return np.minimum(room, np.exp(log_scale) * a ** (1 / (p - 1)))

        log_scale = brentq(lambda s: (step(s) ** p).sum() / eps**p - 1, -60, 400, xtol=1e-14, rtol=1e-15, maxiter=500)
    return np.sign(w) * step(log_scale)


def cases():
    """(name, x [B,d], w [B,d], eps) of random and degenerate inputs, float64."""
    rng = np.random.default_rng(0)
    shape = (4, 300)
    x = rng.uniform(size=shape)
    gauss = rng.normal(size=shape)
    capacity = np.where(gauss > 0, 1 - x, x)
    yield "gaussian", x, gauss, 1.3
    yield "full of walls", rng.integers(0, 2, shape).astype(float), gauss, 2.0
    yield "half of w zero", x, gauss * (rng.uniform(size=shape) < 0.5), 1.0
    yield "heavy tails", x, gauss**5, 1.0
    yield "one strong pixel in weak ones", x, np.where(np.arange(300) == 7, 1.0, 1e-3 * gauss), 1.0
    yield "all but a hundredth of the box", x, gauss**5, -0.99
    yield "nine tenths of the box", x, gauss, -0.9
    yield "huge radius", x, gauss, 1e9
    yield "tiny radius", x, gauss, 1e-6
    yield "radius zero", x, gauss, 0.0
    yield "no gradient", x, np.zeros(shape), 1.0
    yield "one pixel", x[:, :1], gauss[:, :1], 0.2
    assert capacity.min() >= 0


@pytest.mark.parametrize(("eps", "delta", "gain"), GOLDEN)
def test_golden_values(eps, delta, gain):
    x, w = torch.tensor(GOLDEN_X, dtype=torch.float64), torch.tensor(GOLDEN_W, dtype=torch.float64)
    got = linear_maximisation_oracle(x, w, eps, 1.5)
    np.testing.assert_allclose(got, delta, atol=5e-7)  # the table has six digits
    assert float((w * got).sum()) == pytest.approx(gain, abs=5e-7)


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case[0])
@pytest.mark.parametrize(("dtype", "gap"), [(torch.float64, 1e-9), (torch.float32, 1e-6)])
def test_equals_a_bisection_of_the_multiplier(case, p, dtype, gap):
    _, x, w, eps = case
    for row_x, row_w in zip(x, w, strict=True):
        x32, w32 = torch.tensor(row_x, dtype=dtype), torch.tensor(row_w, dtype=dtype)
        exact_x, exact_w = x32.double().numpy(), w32.double().numpy()
        room = np.where(exact_w > 0, 1 - exact_x, exact_x) * (exact_w != 0)
        radius = eps if eps >= 0 else float((-eps * (room**p).sum()) ** (1 / p))
        got = linear_maximisation_oracle(x32, w32, radius, p)
        assert got.dtype == dtype
        wanted = by_bisection(exact_x, exact_w, radius, p)
        best = float((exact_w * wanted).sum())
        assert float((exact_w * got.double().numpy()).sum()) >= best - gap * abs(best)
        assert np.linalg.norm(got.double().numpy(), ord=p) <= radius * (1 + 1e-6)
        moved = x32 + got
        assert 0 <= float(moved.min()) <= float(moved.max()) <= 1


@pytest.mark.parametrize("p", POWERS)
def test_equals_slsqp_on_tiny_problems(p):
    rng = np.random.default_rng(5)
    for eps in (0.2, 0.7, 1.1):
        x, w = rng.uniform(0.05, 0.95, 5), rng.normal(size=5)
        found = minimize(
            lambda d, w=w: -w @ d,
            0.01 * np.sign(w),
            jac=lambda d, w=w: -w,
            method="SLSQP",
            bounds=list(zip(-x, 1 - x, strict=True)),
            options={"ftol": 1e-14, "maxiter": 1000},
            constraints={"type": "ineq", "fun": lambda d, e=eps: e**p - (np.abs(d) ** p).sum()},
        )
        got = linear_maximisation_oracle(torch.tensor(x), torch.tensor(w), eps, p)
        assert float(w @ got.numpy()) == pytest.approx(-found.fun, rel=1e-6)


@given(
    seed=st.integers(0, 2**32 - 1),
    p=st.sampled_from([1.2, 1.5, 2.0, 3.0, 4.0]),
    eps=st.floats(1e-3, 20),
    power=st.sampled_from([1, 2, 5, 9]),
    width=st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_no_feasible_point_beats_it(seed, p, eps, power, width):
    rng = np.random.default_rng(seed)
    x, w = rng.uniform(size=width), rng.normal(size=width) ** power
    got = linear_maximisation_oracle(torch.tensor(x), torch.tensor(w), eps, p).numpy()
    assert np.linalg.norm(got, ord=p) <= eps * (1 + 1e-9)
    others = np.clip(x + rng.normal(size=(50, width)), 0, 1) - x
    others *= np.minimum(1, eps / np.maximum(np.linalg.norm(others, ord=p, axis=1), 1e-12))[:, None]
    assert (others @ w).max() <= w @ got + 1e-9 * max(abs(w @ got), 1)


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e-7, 1.0, 1e7, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_scale_of_w_does_not_matter(scale, dtype):
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(3, 200, generator=generator).to(dtype)
    w = torch.randn(3, 200, generator=generator).to(dtype)
    plain, scaled = (linear_maximisation_oracle(x, w * factor, 2.0, 1.5) for factor in (1.0, scale))
    torch.testing.assert_close(scaled, plain, rtol=0, atol=2e-6)
    assert torch.linalg.vector_norm(scaled, ord=1.5, dim=1).tolist() == pytest.approx([2.0] * 3, rel=2e-6)


def test_newton_rises_monotonically_from_below(monkeypatch):
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(6, 400, generator=generator, dtype=torch.float64)
    w = torch.randn(6, 400, generator=generator, dtype=torch.float64) ** 5
    eps, seen = torch.full((6,), 12.0, dtype=torch.float64), []
    for most in range(1, 30):
        monkeypatch.setattr(oracle, "MAX_NEWTON_STEPS", most)
        delta, t = oracle.bounded_step(x, w, eps, 1.5, None)
        assert (torch.linalg.vector_norm(delta, ord=1.5, dim=1) <= eps * (1 + 1e-12)).all()  # stopped early: feasible
        seen.append(t)
    steps = torch.stack(seen).diff(dim=0)
    assert (steps >= 0).all()
    assert (steps[0] > 0).all()  # it does move
    assert (steps[-1] == 0).all()


@pytest.mark.parametrize("factor", [1e-6, 0.5, 1.0, 3.0, 1e9])
def test_a_warm_start_on_either_side_gives_the_same_answer(factor):
    generator = torch.Generator().manual_seed(5)
    x, w = (torch.rand(5, 300, generator=generator, dtype=torch.float64) for _ in range(2))
    eps = torch.full((5,), 3.0, dtype=torch.float64)
    cold, t = oracle.bounded_step(x, w - 0.5, eps, 1.5, None)
    warm, _ = oracle.bounded_step(x, w - 0.5, eps, 1.5, t * factor)
    torch.testing.assert_close(warm, cold, rtol=1e-9, atol=1e-12)


def test_a_batch_equals_one_by_one_and_takes_a_radius_a_sample():
    generator = torch.Generator().manual_seed(6)
    x, w = torch.rand(5, 3, 8, 8, generator=generator), torch.randn(5, 3, 8, 8, generator=generator)
    w[1] = 0.0
    eps = torch.tensor([0.5, 1.0, 3.0, 100.0, 0.0])
    batch = linear_maximisation_oracle(x, w, eps, 1.5)
    for row in range(5):
        single = linear_maximisation_oracle(x[row : row + 1], w[row : row + 1], float(eps[row]), 1.5)
        torch.testing.assert_close(batch[row : row + 1], single, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, math.inf])
def test_the_order_of_pixels_does_not_matter(p):
    generator = torch.Generator().manual_seed(7)
    x, w = torch.rand(2, 100, generator=generator).double(), torch.randn(2, 100, generator=generator).double()
    order = torch.randperm(100, generator=generator)
    shuffled = linear_maximisation_oracle(x[:, order], w[:, order], 0.8, p)
    torch.testing.assert_close(shuffled, linear_maximisation_oracle(x, w, 0.8, p)[:, order], rtol=1e-9, atol=1e-12)


def test_the_limits_p_one_and_infinity():
    x, w = torch.tensor(GOLDEN_X, dtype=torch.float64), torch.tensor(GOLDEN_W, dtype=torch.float64)
    np.testing.assert_allclose(linear_maximisation_oracle(x, w, 0.7, 1.0), [0.1, -0.5, 0.1, 0.0], atol=1e-12)
    np.testing.assert_allclose(linear_maximisation_oracle(x, w, 0.3, math.inf), [0.3, -0.3, 0.1, 0.0], atol=1e-12)


def test_in_a_search_entries_that_are_not_finite_count_as_zero():
    x, radius = torch.full((1, 4), 0.5), torch.tensor([0.2], dtype=torch.float64)
    got, _ = bounded_step(x, torch.tensor([[math.nan, math.inf, 1.0, -1.0]]), radius, 2.0, None)
    torch.testing.assert_close(got, linear_maximisation_oracle(x, torch.tensor([[0.0, 0.0, 1.0, -1.0]]), 0.2, 2.0))
    assert bounded_step(x, torch.full((1, 4), math.nan), radius, 1.5, None)[0].abs().sum() == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_a_value_error(bad):
    with pytest.raises(ValueError, match="finite"):
        linear_maximisation_oracle(torch.full((2, 3), 0.5), torch.tensor([[1.0, 2.0, 3.0], [1.0, bad, 0.0]]), 0.2)


def test_half_precision_is_computed_in_float32():
    x, w = torch.tensor([GOLDEN_X]).bfloat16(), torch.tensor([GOLDEN_W]).bfloat16()
    got = linear_maximisation_oracle(x, w, 0.6, 1.5)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, linear_maximisation_oracle(x.float(), w.float(), 0.6, 1.5))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.tensor([1.2, 0.0])}, r"\[0,1\]"),
        ({"x": torch.tensor([math.nan, 0.0])}, r"\[0,1\]"),
        ({"eps": -0.1}, "eps"),
        ({"eps": math.nan}, "eps"),
        ({"eps": torch.ones(3)}, "eps"),
        ({"p": 0.5}, "p >= 1"),
        ({"p": math.nan}, "p >= 1"),
        ({"w": torch.ones(3)}, "shape"),
    ],
)
def test_a_wrong_request_is_refused(change, words):
    good = {"x": torch.tensor([0.5, 0.0]), "w": torch.ones(2), "eps": 0.1, "p": 1.5}
    with pytest.raises(BadInput, match=words):
        linear_maximisation_oracle(**{**good, **change})


def test_the_example_in_the_docstring_holds():
    assert doctest.testmod(oracle, extraglobs={"torch": torch}).failed == 0
