"""Trunks by name: their steps are what the network computes, the cut is the published one, what is frozen stays."""

from __future__ import annotations

import warnings

import pytest
import torch
import torchvision
from torch import Tensor, nn

from xadflow.detectors import build_detector
from xadflow.detectors.one_class.responses import DenseResponse
from xadflow.detectors.one_class.settings import DenseSettings
from xadflow.errors import BadSettings, UnknownName
from xadflow.networks.cut import CutTrunk, dense_trunk, vector_trunk
from xadflow.networks.cut_settings import TrunkSettings
from xadflow.networks.outline import outline
from xadflow.networks.pretrained import TRUNKS, load_network
from xadflow.training.minimising import Schedule, optimiser_of

VGG, RESNET = "torchvision:vgg11_bn", "torchvision:resnet18"
FAMILIES = (
    "alexnet",
    "resnet18",
    "shufflenet_v2_x0_5",
    "mobilenet_v3_small",
    "squeezenet1_1",
    "mnasnet0_5",
    "regnet_x_400mf",
    "googlenet",
)


def real(network: str) -> nn.Module:
    if network in TRUNKS:
        return load_network(network)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(3)
        return torchvision.models.get_model(network.removeprefix("torchvision:"), weights=None).eval()


@pytest.mark.parametrize("network", [*TRUNKS, *(f"torchvision:{name}" for name in FAMILIES)])
def test_steps_one_after_the_other_are_what_the_network_computes(network: str):
    """Against a hook on the last kept step of the whole network with the same weights."""
    whole, seen = real(network), []
    trunk = CutTrunk(network, TrunkSettings()).eval()
    trunk.take(whole.state_dict())
    whole.get_submodule(trunk.names[-1]).register_forward_hook(
        lambda module, inputs, output: seen.append(output.clone())
    )
    images = torch.randn(2, 3, 128, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole(images)
        found = trunk(images)
    torch.testing.assert_close(found, seen[0], rtol=1e-4, atol=1e-4 * float(seen[0].abs().max()))
    assert found.shape[1] == trunk.channels
    known = outline(network)
    assert known.strides[len(trunk.names) - 1] == 8
    assert known.strides[len(trunk.names)] > 8


def test_vgg_is_cut_and_frozen_as_published():
    trunk = CutTrunk(VGG, TrunkSettings(frozen=15))
    kinds = [type(step).__name__ for step in trunk.steps]
    assert kinds.count("Conv2d") == 6
    assert kinds.count("MaxPool2d") == 3
    assert kinds[-1] == "ReLU"
    assert trunk.channels == 512
    assert [type(step).__name__ for step in trunk.steps[:15]][-1] == "MaxPool2d"
    assert not any(parameter.requires_grad for parameter in trunk.steps[:15].parameters())
    assert all(parameter.requires_grad for parameter in trunk.steps[15:].parameters())
    head = dense_trunk(VGG, TrunkSettings())[-1]
    assert (head.in_channels, head.out_channels, head.kernel_size) == (512, 1, (1, 1))


def test_steps_can_be_named_and_are_saved_as_numbers():
    chosen = TrunkSettings(cut="layer2", frozen="maxpool").resolved(RESNET)
    assert (chosen.cut, chosen.frozen) == (6, 4)
    assert TrunkSettings(cut=4).resolved(RESNET).cut == 4
    settings = build_detector("fcdd_conv", network=VGG).settings  # type: ignore[attr-defined]
    assert (settings.trunk.cut, settings.trunk.frozen, settings.preparation) == (21, 0, "pretrained")


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("freeze_bn", [True, False])
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_frozen_steps_are_bit_equal_after_ten_steps(freeze_bn: bool, optimiser: str):
    """Parameters always, with weight decay or momentum; running statistics with `freeze_bn` only."""
    trunk = TrunkSettings(frozen="layer1", freeze_bn=freeze_bn)
    response = DenseResponse(RESNET, (1, 40, 32), DenseSettings(network=RESNET, trunk=trunk, preparation="pretrained"))
    cut = response.network[0]
    before = state(cut)
    steps, _ = optimiser_of(response, Schedule(10, 1e-2, 0.1, optimiser=optimiser))  # type: ignore[arg-type]
    frozen = {id(parameter) for parameter in cut.steps[:5].parameters()}
    assert not frozen & {id(parameter) for group in steps.param_groups for parameter in group["params"]}
    response.eval()
    response.train()  # as after a check: what is frozen must not wake up
    for number in range(10):
        images = torch.rand(8, 1, 40, 32, generator=torch.Generator().manual_seed(number))
        steps.zero_grad()
        response(images).sum().backward()
        steps.step()
    after = state(cut)
    assert all(parameter.grad is None for parameter in cut.steps[:5].parameters())
    counted = {name for name, _ in cut.named_parameters()}
    for name, value in after.items():
        is_frozen = int(name.split(".")[1]) < 5
        if is_frozen and (freeze_bn or name in counted):
            assert torch.equal(value, before[name]), name
        elif name in counted or name.endswith("running_mean"):
            assert not torch.equal(value, before[name]), name


def test_without_biases_nothing_learns_one():
    network = vector_trunk(RESNET, TrunkSettings(cut=4), None, bias=False)
    biases = [(name, value) for name, value in network.named_parameters() if name.endswith("bias")]
    assert biases
    assert all(not value.requires_grad and value.abs().max() == 0 for _, value in biases)
    assert network.eval()(torch.zeros(1, 3, 32, 32)).abs().max() == 0
    assert network[-1].out_features == 64


def test_grey_images_are_seen_as_three_equal_channels():
    trunk = CutTrunk("lite0", TrunkSettings(cut=3)).eval()
    grey = torch.rand(2, 1, 40, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(trunk(grey), trunk(grey.repeat(1, 3, 1, 1)))


def test_the_same_seed_starts_from_the_same_weights():
    """Also where a network initialises itself, and whatever was built before."""
    found = []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            found.append(state(CutTrunk("torchvision:convnext_tiny", TrunkSettings(cut=2))))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    assert all(value.isfinite().all() for value in found[0].values())


def test_the_sigma_is_the_published_one_at_stride_8_and_follows_the_stride():
    sigmas = [
        DenseResponse(RESNET, (3, 64, 96), DenseSettings(network=RESNET, trunk=TrunkSettings(cut=cut))).design.sigma_px
        for cut in ("conv1", "layer1", "layer2")
    ]
    assert sigmas == [3.0, 6.0, 12.0]


@pytest.mark.parametrize("size", [(65, 90), (66, 71)])
def test_no_pixel_is_without_heat(size: tuple[int, int]):
    """SqueezeNet does not pad: its cells end short of the image's last rows."""
    network = "torchvision:squeezenet1_1"
    response = DenseResponse(network, (3, *size), DenseSettings(network=network, trunk=TrunkSettings(cut=1))).eval()
    with torch.no_grad():
        heat = response.upsampling(torch.full((1, *(field.cells for field in response.fields)), 0.7))
    torch.testing.assert_close(heat, torch.full_like(heat, 0.7), rtol=1e-5, atol=0)
    with pytest.raises(BadSettings, match="sigma_px"):
        DenseResponse(network, (3, *size), DenseSettings(network=network, trunk=TrunkSettings(cut=12), sigma_px=0.4))


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"network": "torchvision:vgg11bn"}, UnknownName, "use torchvision:vgg11"),
        ({"network": "torchvision:swin_t"}, BadSettings, "no chain"),
        ({"network": "torchvision:vit_b_16"}, BadSettings, "no chain"),
        ({"network": "mobilenet_v3"}, UnknownName, "no network of that name"),
        ({"network": RESNET, "trunk": {"cut": 9}}, BadSettings, "no such step to be its `cut`.*6 layer2"),
        ({"network": RESNET, "trunk": {"cut": "layer9"}}, BadSettings, "no such step"),
        ({"network": RESNET, "trunk": {"cut": 0}}, BadSettings, "cut"),
        ({"network": RESNET, "trunk": {"cut": 3, "frozen": 4}}, BadSettings, "`frozen`.*3 relu"),
        (
            {"network": RESNET, "trunk": {"freeze": True}},
            BadSettings,
            r"trunk\.freeze'.*did you mean 'trunk\.freeze_bn'",
        ),
        (
            {"network": "cnn28", "trunk": {"cut": 1}},
            BadSettings,
            "`trunk` of detector fcdd_conv is for a network that is one",
        ),
        ({"trunk": {"cut": 1}}, BadSettings, "lite0"),
        ({"network": "cnn28", "preparation": "pretrained"}, BadSettings, "only a trunk has statistics"),
        ({"network": "lite0", "trunk": {"weights": "a.safetensors"}}, BadSettings, "brings its own weights"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(settings: dict[str, object], error: type[Exception], said: str):
    with pytest.raises(error, match=said):
        build_detector("fcdd_conv", **settings)


def test_statistics_are_those_of_the_weights():
    """GoogLeNet's own transformation of ImageNet-normalised images, which is no step, gives the same numbers."""
    from xadflow.networks.outline import statistics_of

    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    prepared = {}
    for network in ("torchvision:googlenet", VGG, "mobilenet_v2"):
        mean, deviation = (torch.tensor(part).view(3, 1, 1) for part in statistics_of(network))
        prepared[network] = (images - mean) / deviation
    assert torch.equal(prepared[VGG], prepared["mobilenet_v2"])
    whole = real("torchvision:googlenet")
    whole.transform_input = True
    torch.testing.assert_close(
        whole._transform_input(prepared[VGG]), prepared["torchvision:googlenet"], rtol=0, atol=1e-5
    )


def test_a_reconstruction_has_no_trunk():
    with pytest.raises(BadSettings, match="no mirror image.*cnn28"):
        build_detector("ae", network="lite0")
