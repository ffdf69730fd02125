import copy

import pytest
import torch

from tests.explainers.conftest import patterned, with_defects
from xadflow.errors import BadInput, TrainingFailed
from xadflow.explainers.diverse.game import Game, Players, _one_concept_each
from xadflow.explainers.diverse.settings import DiverseSettings
from xadflow.explainers.diverse.training import train_generator
from xadflow.explainers.trained import GeneratorRun
from xadflow.images import as_float
from xadflow.training.checkpoints import CHECKPOINT
from xadflow.training.progress import Listener

SMALL = {"width": 8, "images": 4, "steps": 6}


def banks():
    return patterned(24, 20), with_defects(patterned(24, 21), 22)[0]


def run(folder, seed=0, progress: Listener | None = None):
    return GeneratorRun(folder, seed, "work", torch.device("cpu"), progress)


def weights(trained_generator):
    return trained_generator.generator.state_dict()


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_the_detector_is_unchanged_and_its_weights_get_no_gradient(trained, tmp_path):
    before = copy.deepcopy(trained.network.state_dict())
    train_generator(trained, *banks(), DiverseSettings(**SMALL), run(tmp_path))
    assert_same(before, trained.network.state_dict())
    assert not trained.network.training
    assert all(one.grad is None for one in trained.network.parameters())


def test_same_seed_same_generator_and_another_seed_another(trained, tmp_path):
    first, again, other = (
        train_generator(trained, *banks(), DiverseSettings(**SMALL), run(tmp_path / name, seed))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert_same(weights(first), weights(again))
    assert any(not torch.equal(value, weights(other)[name]) for name, value in weights(first).items())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_killed_training_goes_on_to_the_same_weights(trained, tmp_path, monkeypatch, precision):
    monkeypatch.setattr("xadflow.training.loop.CHECKPOINT_EVERY", 2)
    settings = DiverseSettings(**SMALL, precision=precision)
    whole = train_generator(trained, *banks(), settings, run(tmp_path / "whole"))

    def killed(done, total, figures):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_generator(trained, *banks(), settings, run(tmp_path / "killed", progress=killed))
    resumed = train_generator(trained, *banks(), settings, run(tmp_path / "killed"))
    assert resumed.resumed_from == 4
    assert_same(weights(whole), weights(resumed))
    assert resumed.history == whole.history


def test_a_weight_that_is_not_a_number_stops_the_training_and_leaves_no_checkpoint(trained, tmp_path, monkeypatch):
    """The average is in no loss: nothing but a look at the weights notices."""
    monkeypatch.setattr(Players, "follow", lambda players, step: players.average.enter.weight.mul_(float("nan")))
    with pytest.raises(TrainingFailed, match="a weight stopped being a number; got 'step 5'"):
        train_generator(trained, *banks(), DiverseSettings(**SMALL), run(tmp_path))
    assert not (tmp_path / CHECKPOINT).exists()


@pytest.mark.parametrize("term", ["adversarial", "score", "reconstruction", "concept", "diversity", "proximity"])
def test_each_term_can_be_left_out(trained, tmp_path, term):
    found = train_generator(trained, *banks(), DiverseSettings(**{**SMALL, "steps": 2, term: 0.0}), run(tmp_path))
    names = {name for _, name, _ in found.history}
    assert term not in names
    assert ("discriminator" in names) == (term != "adversarial")
    assert len(names) >= 5


def test_the_cycle_term_and_four_concepts_run(trained, tmp_path):
    settings = DiverseSettings(**{**SMALL, "steps": 2, "cycle": 5.0, "concepts": 4})
    found = train_generator(trained, *banks(), settings, run(tmp_path))
    assert {"cycle", "diversity"} <= {name for _, name, _ in found.history}


def test_one_concept_has_neither_concept_nor_diversity_term_and_trains(trained, tmp_path):
    found = train_generator(trained, *banks(), DiverseSettings(**{**SMALL, "steps": 2, "concepts": 1}), run(tmp_path))
    assert not {"concept", "diversity"} & {name for _, name, _ in found.history}


@pytest.mark.parametrize("kind", ["calibrated", "logit", "exponential"])
def test_the_score_reaches_the_generator_whatever_the_probability(trained, kind):
    settings = DiverseSettings(**SMALL, probability=kind)
    players = Players(trained.input_shape, settings)
    game = Game(trained, settings, players)
    batch = game.batch(banks(), torch.Generator().manual_seed(0))
    generators = torch.autograd.grad(game.terms(batch)["score"], list(players.generator.parameters()))
    assert max(float(one.abs().max()) for one in generators) > 0


def test_a_batch_repeats_each_image_for_each_concept_with_the_same_wish(trained):
    settings = DiverseSettings(**{**SMALL, "concepts": 3})
    game = Game(trained, settings, Players(trained.input_shape, settings))
    normals, anomalies = banks()
    batch = game.batch((normals, anomalies), torch.Generator().manual_seed(0))
    assert batch.concept.tolist() == [0, 1, 2] * 4
    for name in ("x", "s", "wanted"):
        repeated = getattr(batch, name).unflatten(0, (4, 3))
        assert (repeated == repeated[:, :1]).all()
    known = [as_float(bank) * 2 - 1 for bank in (normals, anomalies)]
    for row, image in enumerate(batch.images):
        assert (known[row // 2] == image).flatten(1).all(1).any()


def test_one_concept_of_each_image_is_reconstructed_and_every_one_has_its_turn(trained):
    settings = DiverseSettings(**{**SMALL, "concepts": 3})
    game = Game(trained, settings, Players(trained.input_shape, settings))
    drawn = []
    for seed in range(8):
        batch = game.batch(banks(), torch.Generator().manual_seed(seed))
        drawn.append(_one_concept_each(batch, 3))
        assert (drawn[-1] // 3).tolist() == [0, 1, 2, 3]
    assert set((torch.cat(drawn) % 3).tolist()) == {0, 1, 2}


def test_raw_scores_are_those_of_the_detector_and_no_heatmap_is_formed_for_them(trained, tmp_path, monkeypatch):
    settings = DiverseSettings(**SMALL)
    game = Game(trained, settings, Players(trained.input_shape, settings))
    images = as_float(banks()[1])
    torch.testing.assert_close(game._raw(images), trained.score(images).image, rtol=1e-5, atol=1e-6)

    class NoMap(type(trained)):
        def score(self, images):
            raise AssertionError("a heatmap was asked for")

        def normal_logit(self, images):
            return trained.normal_logit(images)

    blind = NoMap(trained.network, trained.input_shape, trained.calibration)
    train_generator(blind, *banks(), DiverseSettings(**{**SMALL, "steps": 1}), run(tmp_path))


def test_bfloat16_keeps_weights_in_float32_and_losses_close(trained, tmp_path):
    exact, coarse = (
        train_generator(
            trained, *banks(), DiverseSettings(**{**SMALL, "steps": 1}, precision=name), run(tmp_path / name)
        )
        for name in ("float32", "bfloat16")
    )
    assert all(value.dtype == torch.float32 for value in weights(coarse).values())
    assert exact.history != coarse.history
    for (_, name, value), (_, _, other) in zip(exact.history, coarse.history, strict=True):
        assert other == pytest.approx(value, rel=0.1, abs=0.05), name  # 8 bits of mantissa through five layers


def test_the_kept_generator_is_an_average_that_lags_behind(trained, tmp_path):
    settings = DiverseSettings(**SMALL)
    players = Players(trained.input_shape, settings)
    start = players.average.state_dict()["enter.weight"].clone()
    with torch.no_grad():
        players.generator.enter.weight.add_(1.0)
    players.follow(0)
    moved = players.average.enter.weight - start
    torch.testing.assert_close(moved, torch.full_like(moved, 19 / 20))


def test_an_empty_bank_and_an_odd_side_are_refused(trained, tmp_path):
    normals, anomalies = banks()
    with pytest.raises(BadInput, match="normal and from anomalous"):
        train_generator(trained, normals, anomalies[:0], DiverseSettings(**SMALL), run(tmp_path))
    with pytest.raises(BadInput, match="multiples of 2 px"):
        Players((1, 27, 28), DiverseSettings(**SMALL))
