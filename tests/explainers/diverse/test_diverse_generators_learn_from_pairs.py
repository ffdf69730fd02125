"""Pairs, the generator's own mask, companions, differences in features, and places by p-values: each against its
definition.
"""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from tests.explainers.conftest import ToyDetector, patterned, with_defects
from xadflow.calibration import conformal_p_value
from xadflow.errors import BadInput, BadSettings, BadWeights
from xadflow.explainers.diverse.explainer import USUAL, WEIGHTS, DiverseExplainer
from xadflow.explainers.diverse.game import Game, Players
from xadflow.explainers.diverse.losses import diversity, feature_diversity, winner_takes_all
from xadflow.explainers.diverse.networks import Generator
from xadflow.explainers.diverse.pairs import PairBatch, drawn_pairs
from xadflow.explainers.diverse.places import FEWEST, LEVELS, p_value_mask, usual_heat
from xadflow.explainers.diverse.settings import DiverseSettings
from xadflow.explainers.diverse.training import train_generator
from xadflow.explainers.trained import CARD, GeneratorRun, Guidance, Pairs, Wanted
from xadflow.images import as_float

SMALL = {"width": 8, "images": 4, "steps": 6, "patch": 2}
TAUGHT = {**SMALL, "pairs": 10.0, "pair_images": 4, "paint": "mask"}
COMPANION = {"companions": [{"method": "padim", "settings": {}}]}


def taught_pairs(count=24):
    clean = patterned(count, 50)
    return Pairs(with_defects(clean, 51)[0], clean, torch.arange(count)[:, None])


def banks():
    return patterned(24, 20), with_defects(patterned(24, 21), 22)[0]


def run(folder, progress=None):
    return GeneratorRun(folder, 0, "work", torch.device("cpu"), progress)


def everything(trained):
    """Settings that want all there is, and what they want."""
    settings = DiverseSettings(**TAUGHT, **COMPANION, pretrain=3, within="p_value", feature_diversity=1.0)
    return settings, Guidance(
        taught_pairs(), (trained,), lambda images: [images, images[..., ::2, ::2]], patterned(60, 52)
    )


def test_the_winner_takes_each_target_and_the_others_learn_by_the_slack_alone():
    rng = np.random.default_rng(0)
    made, targets = rng.normal(size=(3, 2, 1, 4, 5)), rng.normal(size=(3, 4, 1, 4, 5))
    for slack in (0.0, 0.3, 1.0):
        each = []
        for image, target in itertools.product(range(3), range(4)):
            apart = [np.mean(np.abs(made[image, concept] - targets[image, target])) for concept in range(2)]
            each.append((1 - slack) * min(apart) + slack * sum(apart) / 2)
        found = winner_takes_all(torch.tensor(made), torch.tensor(targets), slack)
        assert float(found) == pytest.approx(np.mean(each), rel=1e-5)
    free = torch.tensor(made, requires_grad=True)
    target = torch.tensor(made[:, 1:] + 0.01)
    winner_takes_all(free, target, 0.0).backward()
    assert (free.grad[:, 0] == 0).all()
    assert (free.grad[:, 1] != 0).all()


def test_differences_in_features_are_the_mean_of_the_stages_of_those_of_edits():
    generator = torch.Generator().manual_seed(0)
    before = [torch.randn(3, 2, 4, 4, generator=generator), torch.randn(3, 5, 2, 2, generator=generator)]
    after = [torch.randn(6, *one.shape[1:], generator=generator) for one in before]
    edit = torch.tensor([True, False, True])
    expected = []
    for plain, made in zip(before, after, strict=True):
        found = []
        for image in (0, 2):
            first, second = (made[2 * image + concept] - plain[image] for concept in range(2))
            cosine = float((first * second).sum() / first.norm() / second.norm())
            found.append(max(0.0, cosine - -0.5))
        expected.append(np.mean(found))
    assert float(feature_diversity(before, after, edit, -0.5)) == pytest.approx(np.mean(expected), rel=1e-5)
    edits = after[0].view(3, 2, 2, 4, 4) - before[0][:, None]
    assert float(feature_diversity(before[:1], after[:1], edit, -0.5)) == pytest.approx(
        float(diversity(edits, edit, -0.5))
    )


def test_a_place_may_change_by_the_share_of_levels_that_its_p_value_is_under(trained):
    normals, images = patterned(120, 53), with_defects(patterned(4, 54), 55)[0]
    with torch.no_grad():
        usual, hot = (trained.score(as_float(one)).map.double().numpy() for one in (normals, images))
    p_values = np.stack(
        [[conformal_p_value(hot[:, y, x], usual[:, y, x]) for x in range(24)] for y in range(24)]
    ).transpose(2, 0, 1)
    expected = np.mean([p_values <= level + 1e-9 for level in LEVELS], axis=0)
    side = 24 // 9 // 2 * 2 + 1
    padded = np.pad(expected, ((0, 0), (side // 2,) * 2, (side // 2,) * 2), constant_values=np.nan)
    blurred = np.nanmean([padded[:, y : y + 24, x : x + 24] for y in range(side) for x in range(side)], axis=0)
    found = p_value_mask(trained, usual_heat(trained, normals), as_float(images))
    assert found.shape == (4, 1, 24, 24)
    np.testing.assert_allclose(found[:, 0].numpy(), blurred, atol=1e-6)


def test_of_new_normals_about_a_tenth_may_change_and_of_defects_most(trained):
    usual = usual_heat(trained, patterned(150, 56))
    defective, where = with_defects(patterned(40, 57), 58)
    new = p_value_mask(trained, usual, as_float(patterned(100, 59)))
    on_defects = p_value_mask(trained, usual, as_float(defective))[:, 0][where]
    assert float(new.mean()) == pytest.approx(np.mean(LEVELS), abs=0.04)
    assert float(on_defects.mean()) > 0.6


def test_too_few_normals_and_a_detector_without_a_map_say_no_places(trained):
    with pytest.raises(BadInput, match=f"at least {FEWEST}"):
        usual_heat(trained, patterned(FEWEST - 1, 60))
    usual_heat(trained, patterned(FEWEST, 60))
    blind = ToyDetector(trained.network, trained.input_shape, trained.calibration, has_map=False)
    with pytest.raises(BadSettings, match="within: image"):
        usual_heat(blind, patterned(FEWEST, 60))


def test_where_no_mask_is_drawn_every_value_is_that_of_the_image():
    torch.manual_seed(0)
    generator = Generator(3, 2, width=8, masked=True)
    images, alpha, concept = torch.rand(2, 3, 16, 16) * 2 - 1, torch.zeros(2), torch.tensor([0, 1])
    first = generator(images, alpha, concept)
    assert 0 < (first - images).abs().max() < 2
    with torch.no_grad():
        generator.leave[-1].bias[-4:] = -100.0  # patches of 2 px: the last four channels are the mask
        generator.leave[-1].weight[-4:] = 0.0
        assert torch.equal(generator(images, alpha, concept), images)
        generator.leave[-1].bias[-4:] = 100.0
        whole = generator(images, alpha, concept)
        generator.leave[-1].bias[-4:] = 0.0
        torch.testing.assert_close(generator(images, alpha, concept), (images + whole) / 2)


def test_pairs_are_drawn_with_their_own_alternatives():
    clean = patterned(10, 61)
    pairs = Pairs(clean[:4] // 2, clean, torch.tensor([[0, 4], [1, 5], [2, 6], [3, 7]]))
    batch = drawn_pairs(pairs, clean[8:], 16, torch.Generator().manual_seed(0))
    assert (len(batch.flawed), batch.mended.shape[:2], len(batch.kept)) == (16, (16, 2), 8)
    levels = [((one + 1) * 127.5).round().to(torch.uint8) for one in (batch.flawed, batch.mended, batch.kept)]
    seen = set()
    for flawed, mended in zip(*levels[:2], strict=True):
        row = next(number for number in range(4) if torch.equal(clean[number] // 2, flawed))
        assert torch.equal(mended, clean[[row, row + 4]])
        seen.add(row)
    assert seen == {0, 1, 2, 3}
    assert all(any(torch.equal(one, clean[place]) for place in (8, 9)) for one in levels[2])


@pytest.mark.parametrize(
    "broken",
    [
        {"of": torch.tensor([[3]])},
        {"of": torch.tensor([[-1]])},
        {"of": torch.tensor([0])},
        {"flawed": torch.zeros(1, 1, 8, 9, dtype=torch.uint8)},
    ],
)
def test_pairs_that_do_not_fit_are_refused(broken):
    fitting = {
        "flawed": torch.zeros(1, 1, 8, 8, dtype=torch.uint8),
        "mended": torch.zeros(3, 1, 8, 8, dtype=torch.uint8),
        "of": torch.tensor([[2]]),
    }
    Pairs(**fitting)
    with pytest.raises(BadInput, match="rows of these"):
        Pairs(**{**fitting, **broken})


def test_the_regression_is_that_of_the_pairs_and_of_normals_against_themselves(trained):
    settings = DiverseSettings(**TAUGHT, slack=0.3)
    game = Game(trained, settings, Players(trained.input_shape, settings))
    clean = as_float(patterned(6, 62)) * 2 - 1
    pairs = PairBatch(-clean[:4], clean[:4, None], clean[4:])
    with torch.no_grad():
        made = [
            game.players.generator(torch.cat([pairs.flawed, pairs.kept]), torch.zeros(6), torch.full((6,), concept))
            for concept in range(2)
        ]
        apart = torch.stack([(one[:4] - clean[:4]).abs().mean(dim=(1, 2, 3)) for one in made])
        kept = torch.stack([(one[4:] - clean[4:]).abs().mean() for one in made]).mean()
        expected = (0.7 * apart.amin(dim=0) + 0.3 * apart.mean(dim=0)).mean() + 0.5 * kept
        torch.testing.assert_close(game.regression(pairs), expected)


def test_companions_count_as_much_as_the_explained_detector(trained):
    class Shifted(ToyDetector):
        def normal_logit(self, images):
            return super().normal_logit(images) + 3.0

    settings = DiverseSettings(**SMALL, probability="calibrated", **COMPANION)
    other = Shifted(trained.network, trained.input_shape, trained.calibration)
    images, alpha = as_float(banks()[1][:4]) * 2 - 1, torch.tensor([0.0, 0.0, 0.4, 1.0])
    players = Players(trained.input_shape, settings)
    with torch.no_grad():
        alone = Game(trained, settings, players)._cross_entropy(images, alpha)
        beside = Game(trained, settings, players, Guidance(companions=(other,)))._cross_entropy(images, alpha)
        logits = -other.normal_logit((images + 1) / 2).double().numpy()
    each = [a * np.logaddexp(0, -z) + (1 - a) * np.logaddexp(0, z) for a, z in zip(alpha.numpy(), logits, strict=True)]
    assert float(beside) != float(alone)
    assert float(beside) == pytest.approx((float(alone) + np.mean(each)) / 2, rel=1e-4)


def test_pretraining_asks_no_detector_and_is_followed_by_every_term(trained, tmp_path):
    settings, given = everything(trained)
    found = train_generator(trained, *banks(), settings, run(tmp_path), given)
    by_step = {step: {name for at, name, _ in found.history if at == step} for step, _, _ in found.history}
    names = [by_step[step] for step in sorted(by_step)]
    assert len(names) == 6
    assert all(one == {"pairs"} for one in names[:3])
    assert all(one >= {"pairs", "score", "adversarial", "diversity", "feature_diversity"} for one in names[3:])


def test_a_killed_training_with_all_of_it_goes_on_to_the_same_weights(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("xadflow.training.loop.CHECKPOINT_EVERY", 2)
    settings, given = everything(trained)
    whole = train_generator(trained, *banks(), settings, run(tmp_path / "whole"), given)

    def killed(done, total, figures):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_generator(trained, *banks(), settings, run(tmp_path / "killed", killed), given)
    resumed = train_generator(trained, *banks(), settings, run(tmp_path / "killed"), given)
    assert resumed.resumed_from == 4
    assert resumed.history == whole.history
    for name, value in whole.generator.state_dict().items():
        assert torch.equal(value, resumed.generator.state_dict()[name]), name
    assert torch.equal(whole.usual, resumed.usual)


def test_pairs_teach_a_generator_to_mend_images_it_never_saw(trained, tmp_path):
    settings = DiverseSettings(**{**TAUGHT, "steps": 150, "pair_images": 8}, pretrain=150, pretrain_rate=4e-3)
    found = train_generator(trained, *banks(), settings, run(tmp_path), Guidance(taught_pairs(200)))
    clean = patterned(32, 63)
    flawed = with_defects(clean, 64)[0]
    x, wanted = (as_float(one) * 2 - 1 for one in (flawed, clean))
    with torch.no_grad():
        made = [found.generator(x, torch.zeros(32), torch.full((32,), concept)) for concept in range(2)]
        kept = found.generator(wanted, torch.zeros(32), torch.zeros(32, dtype=torch.int64))
    before = float((x - wanted).abs().mean())
    assert min(float((one - wanted).abs().mean()) for one in made) < 0.7 * before
    assert float((kept - wanted).abs().mean()) < 0.5 * before


def test_what_it_learned_of_places_is_saved_with_it_and_a_file_without_is_refused(trained, tmp_path, anomalies):
    explainer = DiverseExplainer(**TAUGHT, within="p_value")
    assert explainer.wanted == Wanted(rounds=6, held_out=True)
    explainer.fit(
        trained, "ab" * 32, *banks(), run(tmp_path / "run"), Guidance(taught_pairs(), held_out=patterned(60, 52))
    )
    explainer.save(tmp_path / "saved")
    assert load_file(tmp_path / "saved" / WEIGHTS)[USUAL].shape == (len(LEVELS), 24, 24)
    loaded = DiverseExplainer.load(tmp_path / "saved")
    images = as_float(anomalies[:4])
    for one, again in zip(*(each.explain(trained, images) for each in (explainer, loaded)), strict=True):
        for found, other in zip(one.counterfactuals, again.counterfactuals, strict=True):
            np.testing.assert_array_equal(found.image, other.image)
    card = json.loads((tmp_path / "saved" / CARD).read_text())
    card["settings"]["within"] = "image"
    (tmp_path / "saved" / CARD).write_text(json.dumps(card))
    with pytest.raises(BadWeights, match="within is image"):
        DiverseExplainer.load(tmp_path / "saved")


def test_without_its_mask_of_places_it_changes_more_and_stays_what_it_is(trained, tmp_path, normals):
    explainer = DiverseExplainer(**TAUGHT, within="p_value")
    explainer.fit(trained, "ab" * 32, *banks(), run(tmp_path), Guidance(taught_pairs(), held_out=patterned(60, 52)))
    free = explainer.anywhere()
    images = as_float(normals)
    within, anywhere, again = (
        [sum(found.l1 for found in one.counterfactuals) for one in each.explain(trained, images)]
        for each in (explainer, free, explainer)
    )
    assert sum(within) < 0.5 * sum(anywhere)
    assert within == again


def test_guidance_that_is_wanted_and_missing_is_refused_by_name(trained, tmp_path):
    settings, given = everything(trained)
    for missing in ("pairs", "companions", "features", "held_out"):
        less = {name: value for name, value in vars(given).items() if name != missing}
        with pytest.raises(BadInput, match=missing):
            train_generator(trained, *banks(), settings, run(tmp_path / missing), Guidance(**less))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"pretrain": 5}, "above 0"),
        ({"transplants": 2}, "above 0"),
        ({"pairs": 1.0, "pretrain": 9, "steps": 8}, "at most"),
        ({"paint": "mask", "size_px": 16}, "size_px"),
        ({"within": "p"}, "p_value"),
        ({"slack": 1.5}, "less than or equal to 1"),
        ({"companions": [{"settings": {}}]}, "method"),
        ({"pair_images": 5}, "multiple of 2"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong, says):
    with pytest.raises(ValidationError, match=says):
        DiverseSettings(**wrong)
    with pytest.raises(BadSettings):
        DiverseExplainer(**wrong)


def test_settings_of_before_want_nothing_and_keep_their_version():
    assert DiverseSettings().wanted is None
    assert DiverseSettings(size_px=64, within="heat").wanted is None
    assert DiverseSettings().version("1") == DiverseSettings(pairs=0.0, companions=(), paint="image").version("1")
    assert "pairs" not in DiverseSettings().told()
    assert DiverseSettings(pairs=1.0).version("1") != DiverseSettings().version("1")
