"""`size_px` and `within` of `diverse`: the generator sees a reduced image, its change is enlarged onto the whole one,
or onto the part of it that the detector's map is hot at."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.explainers.conftest import ToyDetector, patterned, with_defects
from xadflow.errors import BadInput, BadSettings
from xadflow.explainers.diverse.canvas import Canvas
from xadflow.explainers.diverse.explainer import WEIGHTS, DiverseExplainer
from xadflow.explainers.diverse.game import Game, Players
from xadflow.explainers.diverse.places import heat_mask
from xadflow.explainers.diverse.samples import SHEETS
from xadflow.explainers.diverse.settings import DiverseSettings
from xadflow.explainers.trained import CARD, GeneratorRun
from xadflow.images import as_float, decode_png
from xadflow.training.loop import shown_after

SMALL = {"width": 8, "images": 4, "steps": 4, "patch": 2}


def run(folder, **options):
    return GeneratorRun(folder, 0, "work", torch.device("cpu"), **options)


def banks():
    return patterned(16, 30), with_defects(patterned(16, 31), 32)[0]


def painted(change, size_px=12):
    """What a canvas of 24 px makes of stripes by a generator that gives `change` at every place."""
    images = as_float(patterned(2, 40)) * 2 - 1
    canvas = Canvas((1, 24, 24), size_px)
    seen = []

    def generator(x, alpha, concept):
        seen.append(x)
        return change.expand(len(x), 1, *x.shape[2:]) if change is not None else torch.zeros_like(x)

    return images, canvas.painted(generator, images, torch.zeros(2), torch.zeros(2, dtype=torch.int64)), seen[0]


def test_the_generator_sees_means_of_areas_and_no_change_leaves_every_value():
    images, made, seen = painted(None)
    torch.testing.assert_close(seen, images.view(2, 1, 12, 2, 12, 2).mean(dim=(3, 5)))
    assert torch.equal(made, images)


def test_a_change_is_added_to_the_grain_of_the_image_and_clipped_to_the_range():
    images, made, _ = painted(torch.tensor(0.1))
    torch.testing.assert_close(made, (images + 0.2).clamp(-1, 1))
    _, made, _ = painted(torch.tensor(0.9))
    assert made.max() == 1.0


def test_a_size_at_or_above_the_images_own_is_their_own():
    for size_px in (None, 24, 64):
        assert not Canvas((1, 24, 24), size_px).is_reduced
    assert Canvas((1, 24, 48), 24).size == (12, 24)


def test_an_untrained_generator_changes_nothing_and_every_network_learns_from_the_first_steps(trained):
    settings = DiverseSettings(**SMALL, size_px=16)
    torch.manual_seed(0)
    players = Players(trained.input_shape, settings)
    game = Game(trained, settings, players)
    made_by = [*players.generator.parameters(), *players.classifier.parameters()]
    optimiser = torch.optim.SGD(made_by, 0.1)
    batch = game.batch(banks(), torch.Generator().manual_seed(1))
    assert torch.equal(batch.made, batch.x)
    before = [one.detach().clone() for one in made_by]
    for seed in (1, 2):  # zeros in the last convolution keep the others out of the first one
        game.maker_step(game.batch(banks(), torch.Generator().manual_seed(seed)), optimiser, made_by)
    moved = [not torch.equal(one, old) for one, old in zip(made_by, before, strict=True)]
    assert sum(moved) >= 0.9 * len(moved)


def test_training_saving_and_loading_keep_the_size_and_figures_are_those_of_whole_images(trained, tmp_path, anomalies):
    explainer = DiverseExplainer(**SMALL, size_px=16)
    explainer.fit(trained, "ab" * 32, *banks(), run(tmp_path / "run"))
    explainer.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / CARD).read_text())["settings"]["size_px"] == 16
    loaded = DiverseExplainer.load(tmp_path / "saved")
    assert loaded.version == explainer.version
    for one, again in zip(
        *(each.explain(trained, as_float(anomalies[:2])) for each in (explainer, loaded)), strict=True
    ):
        for found, other in zip(one.counterfactuals, again.counterfactuals, strict=True):
            assert found.image.shape == (1, 24, 24)
            assert np.array_equal(found.image, other.image)
            with torch.no_grad():
                score = trained.score(as_float(torch.from_numpy(found.image[None]))).image.item()
            assert found.score == pytest.approx(score, rel=1e-5)


@pytest.mark.parametrize("size_px", [None, 16])
def test_changes_within_the_heat_leave_every_cold_pixel_and_are_scaled_by_the_map(
    trained, tmp_path, anomalies, size_px
):
    explainer = DiverseExplainer(**SMALL, size_px=size_px, within="heat", learning_rate=0.05)
    explainer.fit(trained, "ab" * 32, *banks(), run(tmp_path / "run", samples=True))
    with torch.no_grad():
        heat = trained.score(as_float(anomalies[:6])).map.numpy() / trained.calibration.threshold
    changed = 0
    for image, hot, told in zip(
        anomalies[:6].numpy(), heat, explainer.explain(trained, as_float(anomalies[:6])), strict=True
    ):
        for found in told.counterfactuals:
            change = np.abs(found.image.astype(float) - image)[0]
            assert (change <= np.ceil(255 * hot.clip(0, 1) * 2)).all()
            assert (change[hot < 1e-3] == 0).all()
            changed += int((change > 0).sum())
    assert changed > 0
    assert len(list((tmp_path / "run" / "samples").glob("*.png"))) == 4
    assert explainer.version.split("-")[1] != DiverseExplainer(**SMALL, size_px=size_px).version.split("-")[1]


def test_a_detector_without_a_map_of_distances_cannot_say_where(trained):
    logit = ToyDetector(trained.network, trained.input_shape, trained.calibration)
    logit.score_is = "logit"
    blind = ToyDetector(trained.network, trained.input_shape, trained.calibration, has_map=False)
    for detector in (logit, blind):
        with pytest.raises(BadSettings, match="within: image"):
            heat_mask(detector, as_float(patterned(1, 1)))


def test_a_size_that_the_patches_do_not_fit_is_refused(trained):
    with pytest.raises(BadInput, match="multiples of 4 px.*size_px"):
        Players(trained.input_shape, DiverseSettings(size_px=18, patch=4))


def test_without_a_size_version_card_and_weights_are_those_of_before_there_was_one(trained, tmp_path):
    plain = DiverseExplainer(**SMALL)
    assert plain.version == "1-b00255d1-untraine"  # as of commit 08ad1ec
    assert DiverseExplainer(**SMALL, size_px=16).version != plain.version
    written = []
    for name, settings in (("plain", SMALL), ("whole", {**SMALL, "size_px": 24})):
        explainer = DiverseExplainer(**settings)
        explainer.fit(trained, "ab" * 32, *banks(), run(tmp_path / name))
        explainer.save(tmp_path / name / "saved")
        written.append(load_file(tmp_path / name / "saved" / WEIGHTS))
    assert "size_px" not in json.loads((tmp_path / "plain" / "saved" / CARD).read_text())["settings"]
    for key, value in written[0].items():
        assert torch.equal(value, written[1][key]), key


def test_sheets_are_written_each_quarter_and_change_no_weight(trained, tmp_path):
    weights = []
    for samples in (False, True):
        explainer = DiverseExplainer(**SMALL, size_px=16)
        weights.append(explainer.fit(trained, "ab" * 32, *banks(), run(tmp_path / str(samples), samples=samples)))
    for key, value in weights[0].generator.state_dict().items():
        assert torch.equal(value, weights[1].generator.state_dict()[key]), key
    assert not (tmp_path / "False" / "samples").exists()
    sheets = sorted((tmp_path / "True" / "samples").glob("*.png"))
    assert [sheet.name for sheet in sheets] == [f"step-{step:06d}.png" for step in (1, 2, 3, 4)]
    assert decode_png(sheets[0].read_bytes()).ndim == 3
    assert shown_after(600, SHEETS) == {150, 300, 450, 600}
