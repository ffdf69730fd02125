"""Auto-Frank-Wolfe: every iterate feasible, schedule as published, samples independent, models untouched."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from xadflow.errors import BadInput
from xadflow.explainers.sparse.frank_wolfe import auto_frank_wolfe, check_schedule
from xadflow.explainers.sparse.oracle import linear_maximisation_oracle

SHAPE = (4, 1, 8, 8)


def images(seed=0, shape=SHAPE):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def wavy():
    """A fixed, non-concave objective, and a list of every batch of images it was asked about."""
    generator = torch.Generator().manual_seed(11)
    weight = torch.randn(64, 16, generator=generator)
    seen = []

    def objective(z, rows):
        seen.append((z.detach().clone(), rows))
        return -torch.nn.functional.softplus(torch.sin(z.flatten(1) @ weight).sum(dim=1))

    return objective, seen


@pytest.mark.parametrize(
    ("iterations", "checks"),
    [(75, [16, 30, 42, 52, 60, 66, 70, 74]), (100, [22, 41, 57, 70, 80, 87, 93, 99]), (1, [1]), (4, [1, 2, 3, 4])],
)
def test_progress_is_checked_when_the_paper_does(iterations, checks):
    assert [after for after, _ in check_schedule(iterations)] == checks
    assert [sum(window for _, window in check_schedule(iterations)[: i + 1]) for i in range(len(checks))] == checks


@pytest.mark.parametrize("p", [1.2, 1.5, 2.0, 4.0])
@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_every_iterate_is_feasible(p, momentum):
    x, eps = images(), torch.tensor([0.3, 1.0, 2.0, 40.0])
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., 2:7] = True
    objective, seen = wavy()
    result = auto_frank_wolfe(objective, x, eps, p, 30, 0, direction_mask=mask, momentum=momentum)
    assert len(seen) == 31
    for z, rows in [*seen, (result.images, torch.arange(4))]:
        delta = (z - x[rows]).flatten(1)
        assert (torch.linalg.vector_norm(delta, ord=p, dim=1) <= eps[rows] * (1 + 1e-6)).all()
        assert 0 <= float(z.min()) <= float(z.max()) <= 1
        assert torch.equal(z[..., :2], x[rows][..., :2])  # exactly unchanged outside the mask
        assert torch.equal(z[..., 7:], x[rows][..., 7:])


def test_the_best_iterate_is_returned_and_the_history_recorded():
    objective, seen = wavy()
    result = auto_frank_wolfe(objective, images(), 1.0, 1.5, 40, 0, record=True)
    assert result.history.shape == (41, 4)
    torch.testing.assert_close(result.values, result.history.max(dim=0).values, rtol=0, atol=0)
    torch.testing.assert_close(objective(result.images, None), result.values, rtol=1e-5, atol=1e-6)
    assert (result.values > result.history[0]).all()
    assert result.iterations.tolist() == [40] * 4
    assert not result.stopped.any()


def reference(objective, x, eps, p, iterations, first):
    """The published loop for one sample, written again with plain numbers; returns the objective of each iterate."""

    def look(z):
        leaf = z.clone().requires_grad_(True)
        value = objective(leaf, None)
        return float(value[0].detach()), torch.autograd.grad(value.sum(), leaf)[0]

    z, step, flag = first, 0.75, True
    window = max(int(0.22 * iterations), 1)
    value, gradient = look(z)
    values, best, checked, count = [], (value, z, gradient), value, 0
    for _ in range(iterations):
        z = z + step * (x + linear_maximisation_oracle(x, gradient, eps, p) - z)
        value, gradient = look(z)
        values.append(value)
        best = max(best, (value, z, gradient), key=lambda one: one[0])
        count += 1
        if count == window:
            last = len(values) - 1
            earlier = [values[j - 1] if j > 0 else 0.0 for j in range(last - window + 1, last + 1)]
            ups = sum(values[j] > e for j, e in zip(range(last - window + 1, last + 1), earlier, strict=True))
            few, stuck = ups <= 0.75 * window, (not flag) and best[0] <= checked
            if few or stuck:
                step, z, gradient = step / 2, best[1], best[2]
            flag, checked, count = few or stuck, best[0], 0
            window = max(window - max(int(0.03 * iterations), 1), max(int(0.06 * iterations), 1))
    return values


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("iterations", [10, 75])
def test_follows_the_published_loop_step_by_step(seed, iterations):
    objective, _ = wavy()
    x = images(seed, (1, 1, 8, 8)).double()
    noise = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(seed)).double()[None]
    objective64 = lambda z, rows: objective(z.float(), rows).double()  # noqa: E731
    result = auto_frank_wolfe(objective64, x, 1.0, 1.5, iterations, seed, record=True)
    first = x + linear_maximisation_oracle(x, noise, 1.0, 1.5)
    wanted = reference(objective64, x, 1.0, 1.5, iterations, first)
    torch.testing.assert_close(result.history[1:, 0], torch.tensor(wanted, dtype=torch.float64), rtol=1e-4, atol=1e-4)


def test_the_first_comparison_never_counts_as_an_improvement():
    x = torch.full((1, 1, 1, 2), 0.5)

    def objective(z, rows):  # concave in the first pixel, so that every step of a rising run improves
        return -((z[:, 0, 0, 0] - 1.0) ** 2) - 1

    steps = []
    for iterations in (4, 5):  # a window of one: its only comparison is the first one of the run
        result = auto_frank_wolfe(objective, x, 0.5, 2.0, iterations, 0, start=x, record=True)
        steps.append(result.history[:3, 0].tolist())
    assert steps[0] == steps[1]
    # .75 of the way, then .375 of the rest (the step was halved although the first iterate did improve)
    wanted = [0.5, 0.5 + 0.75 * 0.5]
    wanted.append(wanted[-1] + 0.375 * (1.0 - wanted[-1]))
    assert steps[0] == pytest.approx([-((z - 1) ** 2) - 1 for z in wanted], abs=1e-6)


def test_one_full_step_solves_a_linear_model():
    x, weight = images(), torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    result = auto_frank_wolfe(
        lambda z, rows: (z * weight).sum(dim=(1, 2, 3)), x, 1.5, 1.5, 1, 0, start=x, first_step=1.0
    )
    wanted = x + linear_maximisation_oracle(x, weight.expand_as(x).contiguous(), 1.5, 1.5)
    torch.testing.assert_close(result.images, wanted, rtol=0, atol=1e-6)


def test_same_seed_same_answer_other_seed_other_answer():
    objective, _ = wavy()
    first, again, other = (auto_frank_wolfe(objective, images(), 1.0, 1.5, 8, seed) for seed in (3, 3, 4))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)


def test_the_seed_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    auto_frank_wolfe(wavy()[0], images(), 1.0, 1.5, 2, 9)
    assert torch.equal(torch.rand(3), wanted)


def test_a_batch_equals_one_by_one_with_early_stops():
    objective, _ = wavy()
    x = images(1)

    def stop(values):
        return values > -2.0

    batch = auto_frank_wolfe(objective, x, 0.7, 1.5, 25, 0, stop=stop)
    for row in range(4):
        single = auto_frank_wolfe(objective, x[row : row + 1], 0.7, 1.5, 25, 0, stop=stop)
        torch.testing.assert_close(batch.images[row : row + 1], single.images, rtol=0, atol=1e-5)
        assert int(batch.iterations[row]) == int(single.iterations[0])
    assert len(set(batch.iterations.tolist())) > 1  # they did leave at different times


def test_stopped_samples_leave_the_batch_unchanged():
    objective, seen = wavy()
    x = images(1)
    result = auto_frank_wolfe(objective, x, 0.7, 1.5, 25, 0, stop=lambda values: values > -2.0, record=True)
    assert result.stopped.any()
    for row in result.stopped.nonzero().flatten().tolist():
        asked = [(z, rows) for z, rows in seen if row in rows.tolist()]
        assert len(asked) == int(result.iterations[row]) + 1  # never asked about again
        z, rows = asked[-1]
        assert torch.equal(result.images[row], z[rows.tolist().index(row)])  # the point that ended it
        assert result.history[int(result.iterations[row]) + 1 :, row].isnan().all()
    assert (result.values[result.stopped] > -2.0).all()


def test_a_sample_that_is_there_at_the_start_costs_no_iteration():
    objective, seen = wavy()
    result = auto_frank_wolfe(objective, images(), 1.0, 1.5, 10, 0, start=images(), stop=lambda v: v > -1e9)
    assert result.iterations.tolist() == [0] * 4
    assert torch.equal(result.images, images())
    assert len(seen) == 1


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_no_gradient_gives_a_feasible_point_without_nan(value):
    x = images()
    result = auto_frank_wolfe(lambda z, rows: (z * value).sum(dim=(1, 2, 3)), x, 1.0, 1.5, 12, 0)
    assert not result.images.isnan().any()
    assert (torch.linalg.vector_norm((result.images - x).flatten(1), ord=1.5, dim=1) <= 1 + 1e-6).all()
    assert not result.values.isnan().any()


def test_the_objective_never_falls_as_the_radius_grows_from_the_last_answer():
    objective, _ = wavy()
    start, last = None, torch.full((4,), -torch.inf)
    for eps in (0.2, 0.5, 1.0, 2.0):
        result = auto_frank_wolfe(objective, images(), eps, 1.5, 12, 0, start=start)
        assert (result.values >= last).all()
        start, last = result.images, result.values


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_found(training):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 1)).train(training)
    model[1].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [value.requires_grad for value in model.parameters()]
    x = images().requires_grad_(True)
    auto_frank_wolfe(lambda z, rows: model(z)[:, 0], x, 1.0, 1.5, 5, 0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [value.requires_grad for value in model.parameters()] == flags
    assert all(value.grad is None for value in model.parameters())
    assert x.grad is None
    assert model.training is training


def test_it_works_inside_no_grad():
    objective, _ = wavy()
    with torch.no_grad():
        inside = auto_frank_wolfe(objective, images(), 1.0, 1.5, 5, 0)
    assert torch.equal(inside.images, auto_frank_wolfe(objective, images(), 1.0, 1.5, 5, 0).images)


def test_a_wrong_request_is_refused():
    objective, _ = wavy()
    with pytest.raises(BadInput, match="iteration"):
        auto_frank_wolfe(objective, images(), 1.0, 1.5, 0, 0)
    with pytest.raises(BadInput, match=r"\[0,1\]"):
        auto_frank_wolfe(objective, images() * 2, 1.0, 1.5, 5, 0)
    with pytest.raises(BadInput, match="p >= 1"):
        auto_frank_wolfe(objective, images(), 1.0, 0.9, 5, 0)


def test_the_step_is_halved_when_a_rising_window_brings_no_new_best():
    script = iter([0.0, -5.0, -6.0, -4.0, -3.0, -2.0])  # N = 10: checks after 2, 3, 4, 5, ...
    seen = []

    def objective(z, rows):
        seen.append(float(z.detach()))
        return z.flatten(1).sum(dim=1) * 1e-9 + next(script, -9.0)

    x = torch.zeros(1, 1, 1, 1)
    auto_frank_wolfe(objective, x, 0.5, 2.0, 10, 0, start=x)
    # 2: fell, so back to the best (0) with .375; 3: rose, and the last check had just halved; 4: rose, yet no new best
    assert seen[:6] == pytest.approx([0.0, 0.375, 0.46875, 0.1875, 0.3046875, 0.09375])
