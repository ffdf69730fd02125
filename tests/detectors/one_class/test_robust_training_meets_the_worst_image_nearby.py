"""Robust training: the search for the worst image nearby, and what a detector trained against it withstands."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from family_contract import check_same, run_in
from torch import nn

from xadflow.detectors import FitRun, TrainingData, as_float, build_detector, load_detector
from xadflow.detectors.base import WEIGHTS
from xadflow.detectors.one_class.inputs import RobustSettings, as_it_serves, random_changes, worst_images
from xadflow.errors import BadSettings
from xadflow.metrics.ranks import auroc

SIDE = 16
TINY = {
    "network": "cnn28",
    "preparation": "standard",
    "anomalies": ["outliers"],
    "flip": False,
    "crop_px": 0,
    "min_steps": 120,
    "epochs": 1.0,
    "batch_size": 64,
    "learning_rate": 5e-3,
}
ROBUST = {"radius_normals": 1.2, "radius_anomalies": 1.2, "steps": 4}
"""At 3x32x32 values: .35 for one channel of 16x16, where a blob is 1.5 long."""


def images(count: int, seed: int, *, blobs: bool) -> torch.Tensor:
    """uint8 [count,1,16,16] of grey noise; a blob brightens 5x5 pixels of it by .3."""
    drawn = torch.Generator().manual_seed(seed)
    made = 0.4 + 0.05 * torch.randn(count, 1, SIDE, SIDE, generator=drawn)
    if blobs:
        for image, (y, x) in zip(made, torch.randint(2, 9, (count, 2), generator=drawn).tolist(), strict=True):
            image[0, y : y + 5, x : x + 5] += 0.3
    return (made.clamp(0, 1) * 255).round().to(torch.uint8)


def problem() -> TrainingData:
    none = torch.zeros(0, 1, SIDE, SIDE, dtype=torch.uint8)
    return TrainingData(
        images(200, 1, blobs=False), images(60, 2, blobs=False), none, None, none, images(200, 3, blobs=True)
    )


def fitted(folder: Path, method: str = "bce", **more: object):
    detector = build_detector(method, **{**TINY, **more})
    detector.fit(problem(), FitRun(folder, seed=0, false_alarm_rate=0.1, device="cpu"))
    return detector


def squares(centre: torch.Tensor):
    return lambda x: (x - centre).square().flatten(1).sum(dim=1)


@pytest.mark.parametrize("steps", [1, 4, 9])
def test_the_worst_image_is_in_ball_and_box_and_costs_more(steps: int):
    drawn = torch.Generator().manual_seed(steps)
    x = torch.rand(7, 2, 5, 6, generator=drawn)
    x[0, :, 0], x[1, :, 0] = 0.0, 1.0
    radii = torch.tensor([0.0, 1e-3, 0.1, 0.5, 1.0, 3.0, 100.0])
    losses = squares(torch.rand(2, 5, 6, generator=drawn))
    worst = worst_images(losses, x, radii, steps)
    assert (worst - x).flatten(1).norm(dim=1).le(radii * (1 + 1e-5)).all()
    assert worst.min() >= 0
    assert worst.max() <= 1
    assert torch.equal(worst[0], x[0])
    assert (losses(worst) > losses(x))[1:].all()
    assert not worst.requires_grad


def test_for_a_linear_loss_it_is_the_step_along_the_gradient():
    """Away from the walls the maximum of <w, x + d> in the l2 ball is d = eps w / |w|."""
    drawn = torch.Generator().manual_seed(0)
    x, w = (
        torch.full((3, 1, 4, 4), 0.5, dtype=torch.float64),
        torch.randn(3, 1, 4, 4, generator=drawn, dtype=torch.float64),
    )
    scales = torch.tensor([1.0, 1e-30, 1e30]).view(-1, 1, 1, 1)  # the length of a gradient does not matter
    eps = torch.tensor([0.2, 0.2, 0.05], dtype=torch.float64)
    worst = worst_images(lambda z: (z * w * scales).flatten(1).sum(dim=1), x, eps, 3)
    closed = x + eps.view(-1, 1, 1, 1) * w / w.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert torch.allclose(worst, closed, atol=1e-12)


def test_an_image_without_a_gradient_stays():
    x = torch.rand(2, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(worst_images(lambda z: 0.0 * z.flatten(1).sum(dim=1), x, torch.ones(2), 3), x)
    assert torch.equal(
        worst_images(lambda z: z.sqrt().flatten(1).sum(dim=1), torch.zeros_like(x), torch.ones(2), 3) * 0,
        torch.zeros_like(x),
    )


def test_it_is_found_where_gradients_are_off_and_leaves_the_network_as_it_was():
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 36, 1)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), as_it_serves(network):
        worst = worst_images(lambda z: network(z).squeeze(1), x, torch.full((4,), 0.3), 3)
        assert (network(worst) > network(x)).all()
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_radii_keep_the_mean_square_change_at_any_size():
    radii = RobustSettings(radius_normals=0.5, radius_anomalies=1.0).radii(torch.tensor([False, True]), 4 * 3072)
    assert radii.tolist() == [1.0, 2.0]
    assert RobustSettings().radii(torch.tensor([True]), 3072).tolist() == [1.0]


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory):
    """The same training without and with the search."""
    root = tmp_path_factory.mktemp("twins")
    return fitted(root / "plain"), fitted(root / "robust", robust=ROBUST)


def test_the_robust_twin_withstands_what_deceives_the_plain_one(twins):
    """Both see the clean anomalies; each is attacked by itself, at the radius of its training."""
    normal, anomalous = as_float(images(80, 11, blobs=False)), as_float(images(80, 12, blobs=True))
    x, labels = torch.cat([normal, anomalous]), torch.arange(160) >= 80
    towards = torch.where(labels, -1.0, 1.0)
    radii = RobustSettings(**ROBUST).radii(labels, SIDE**2)
    clean, attacked = [], []
    for detector in twins:
        worst = worst_images(lambda z, of=detector: of.score(z).image * towards, x, radii, 20)
        with torch.no_grad():
            clean.append(auroc(detector.score(x).image, labels))
            attacked.append(auroc(detector.score(worst).image, labels))
    assert min(clean) > 0.97
    assert attacked[1] > attacked[0] + 0.2


def test_a_killed_robust_training_goes_on_to_the_same_weights(twins, tmp_path: Path):
    detector = build_detector("bce", **TINY, robust=ROBUST)
    with pytest.raises(KeyboardInterrupt):
        detector.fit(problem(), run_in(tmp_path / "run", kill_at=110))
    again = build_detector("bce", **TINY, robust=ROBUST)
    report = again.fit(problem(), run_in(tmp_path / "run"))
    assert 0 < report.resumed_from < report.steps
    again.save(tmp_path / "again")
    twins[1].save(tmp_path / "whole")
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
    check_same(load_detector(tmp_path / "again"), again, as_float(images(5, 20, blobs=True)))
    assert load_detector(tmp_path / "again").settings.robust == RobustSettings(**ROBUST)


def test_a_random_start_lies_in_the_ball_and_the_search_goes_on_from_it():
    drawn = torch.Generator().manual_seed(3)
    x, radii = torch.rand(6, 1, 5, 5, generator=drawn), torch.linspace(0.0, 2.0, 6)
    start = random_changes(x, radii, drawn)
    assert (start.flatten(1).norm(dim=1) <= radii * (1 + 1e-5)).all()
    assert (start[1:].flatten(1).norm(dim=1) > 0).all()
    flat = worst_images(lambda z: 0.0 * z.flatten(1).sum(dim=1), x, radii, 2, start)
    assert torch.allclose(flat, (x + start).clamp(0, 1), atol=1e-6)
    losses = squares(torch.rand(1, 5, 5, generator=drawn))
    worst = worst_images(losses, x, radii, 8, start)
    assert (worst - x).flatten(1).norm(dim=1).le(radii * (1 + 1e-5)).all()
    assert (losses(worst) > losses(x))[1:].all()


def test_the_weight_counts_for_anomalies_alone():
    losses, is_anomaly = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([False, True, False])
    assert RobustSettings(weight=0.5).weigh(losses, is_anomaly).tolist() == [1.0, 1.0, 3.0]


def test_a_killed_training_with_random_starts_and_a_weight_goes_on_to_the_same_weights(tmp_path: Path):
    settings = {**TINY, "min_steps": 60, "robust": {**ROBUST, "steps": 1, "random_start": True, "weight": 2.0}}
    detector = build_detector("bce", **settings)
    with pytest.raises(KeyboardInterrupt):
        detector.fit(problem(), run_in(tmp_path / "run", kill_at=55))
    again, whole = build_detector("bce", **settings), build_detector("bce", **settings)
    report = again.fit(problem(), run_in(tmp_path / "run"))
    whole.fit(problem(), run_in(tmp_path / "whole"))
    assert 0 < report.resumed_from < report.steps
    again.save(tmp_path / "a")
    whole.save(tmp_path / "b")
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()


@pytest.mark.parametrize("method", ["hsc", "fcdd_conv", "deep_sad", "dsvdd"])
def test_every_method_with_a_loss_to_raise_takes_it(method: str, tmp_path: Path):
    short = {"min_steps": 4, "epochs": 0.01, "patience": 1, "robust": True}  # patience: the check is robust too
    detector = fitted(tmp_path, method, **short)
    with torch.no_grad():
        assert detector.score(as_float(images(4, 5, blobs=True))).image.isfinite().all()
    assert detector.settings.robust == RobustSettings()


def test_a_radius_of_nothing_trains_as_a_plain_one(twins, tmp_path: Path):
    nothing = fitted(tmp_path / "run", robust={"radius_normals": 0.0, "radius_anomalies": 0.0, "steps": 1})
    nothing.save(tmp_path / "nothing")
    twins[0].save(tmp_path / "plain")
    assert (tmp_path / "nothing" / WEIGHTS).read_bytes() == (tmp_path / "plain" / WEIGHTS).read_bytes()


def test_batches_in_parts_are_searched_part_by_part(tmp_path: Path):
    """Out of memory within the search halves the batch as elsewhere."""
    detector = build_detector("fcdd_conv", **{**TINY, "min_steps": 2, "epochs": 0.01}, robust=ROBUST)
    built = detector._built

    def limited(seed: int):
        response = built(seed)
        forward = response.forward

        def small_memory(x: torch.Tensor) -> torch.Tensor:
            if x.requires_grad and len(x) > 32:
                raise torch.OutOfMemoryError("tried to hold too many images. It did not work")
            return forward(x)

        response.forward = small_memory
        return response

    detector._built = limited
    report = detector.fit(problem(), FitRun(tmp_path, seed=0, false_alarm_rate=0.1, device="cpu"))
    assert report.figures["batch_parts"] == 2


def test_what_makes_no_sense_is_refused():
    with pytest.raises(BadSettings, match="compares an image with itself"):
        build_detector("ae", robust=True)
    with pytest.raises(BadSettings, match="did you mean 'robust.radius_normals'"):
        build_detector("bce", robust={"radius_normal": 1.0})
    with pytest.raises(BadSettings, match="robust.steps"):
        build_detector("bce", robust={"steps": 0})
    assert build_detector("bce", robust=False).settings.robust is None
