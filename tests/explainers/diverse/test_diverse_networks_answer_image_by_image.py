import pytest
import torch

from xadflow.errors import BadSettings
from xadflow.explainers.diverse.networks import ConceptClassifier, Discriminator, Generator, patch_of


def parameters(module):
    return sum(one.numel() for one in module.parameters())


def seeded(kind, *arguments, **settings):
    torch.manual_seed(0)
    return kind(*arguments, **settings)


def batch(count, channels, height, width):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, channels, height, width, generator=generator) * 2 - 1
    return images, torch.rand(count, generator=generator), torch.arange(count) % 2


def test_sizes_are_those_of_the_measured_configuration():
    assert parameters(Generator(3, 2)) == pytest.approx(421_000, rel=0.02)
    assert parameters(Discriminator(3, 28)) == pytest.approx(256_000, rel=0.02)
    assert parameters(ConceptClassifier(3, 2, 28)) == pytest.approx(73_000, rel=0.02)


SIZES = [(3, 28, 28), (1, 32, 32), (1, 64, 64), (3, 128, 128), (1, 28, 44), (3, 36, 20)]


@pytest.mark.parametrize(("channels", "height", "width"), SIZES)
def test_outputs_have_the_shape_of_the_images_and_lie_in_the_range(channels, height, width):
    images, alpha, concept = batch(2, channels, height, width)
    side = max(height, width)
    with torch.no_grad():
        made = seeded(Generator, channels, 2, patch=patch_of(side))(images * 5, alpha, concept)
        assert made.shape == images.shape
        assert made.abs().max() <= 1.0
        assert Discriminator(channels, side)(images, alpha).shape == (2,)
        assert ConceptClassifier(channels, 3, side)(images, made).shape == (2, 3)


def test_the_answer_for_an_image_does_not_depend_on_its_batch_mates():
    generator = seeded(Generator, 3, 2)
    images, alpha, concept = batch(5, 3, 28, 28)
    with torch.no_grad():
        together = generator(images, alpha, concept)
        alone = torch.cat(
            [generator(images[row : row + 1], alpha[row : row + 1], concept[row : row + 1]) for row in range(5)]
        )
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_alpha_and_concept_both_reach_the_output_of_a_fresh_generator():
    generator = seeded(Generator, 3, 2)
    images, alpha, concept = batch(2, 3, 28, 28)
    made = generator(images, alpha, concept)
    with torch.no_grad():
        assert (generator(images, 1 - alpha, concept) - made).abs().max() > 1e-4
        assert (generator(images, alpha, 1 - concept) - made).abs().max() > 1e-4
    made.square().mean().backward()
    assert all(one.grad is not None and one.grad.abs().max() > 0 for one in generator.code.parameters())


def test_the_discriminator_is_told_the_wanted_probability_and_is_bounded_by_spectral_norm():
    discriminator = seeded(Discriminator, 3, 28)
    images, alpha, _ = batch(4, 3, 28, 28)
    for _ in range(20):  # power iterations
        discriminator(images, alpha)
    discriminator.eval()
    with torch.no_grad():
        assert (discriminator(images, alpha) - discriminator(images, 1 - alpha)).abs().max() > 0
        for module in discriminator.modules():
            if hasattr(module, "parametrizations"):
                assert float(torch.linalg.matrix_norm(module.weight.flatten(1), 2)) == pytest.approx(1.0, abs=0.1)


def test_noise_of_the_classifier_is_drawn_from_the_given_generator_only():
    classifier = seeded(ConceptClassifier, 3, 2, 28)
    images, _, _ = batch(2, 3, 28, 28)
    with torch.no_grad():
        plain = classifier(images, images)
        first, again = (classifier(images, images, torch.Generator().manual_seed(3)) for _ in range(2))
    torch.testing.assert_close(first, again)
    assert (first - plain).abs().max() > 0


def test_a_width_that_groups_cannot_divide_is_refused_with_the_next_one():
    with pytest.raises(BadSettings, match="multiple of 8.*use 24"):
        Generator(3, 2, width=20)
