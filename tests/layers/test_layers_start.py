"""How coordinates start, what scales them, and how much of a layer they are."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rl_coordconv.errors import UserError
from rl_coordconv.layers import CoordConv2d, CoordConvTranspose2d, positional_bias


@pytest.mark.parametrize("coord_init", ["zeros", "concat"])
@pytest.mark.parametrize(
    ("layer_class", "plain_class"), [(CoordConv2d, nn.Conv2d), (CoordConvTranspose2d, nn.ConvTranspose2d)]
)
def test_image_weights_and_all_that_follows_start_as_without_coordinates(
    layer_class, plain_class, coord_init
):
    def orthogonal(module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.orthogonal_(module.weight, 2**0.5)

    starts = []
    for make in (plain_class, lambda *args: layer_class(*args, coord_init=coord_init)):
        torch.manual_seed(3)
        network = nn.Sequential(make(3, 4, 3), nn.Linear(2, 2))
        first = copy.deepcopy(network)
        network.apply(orthogonal)
        starts.append([first[0].weight, first[0].bias, network[0].weight, first[1].weight, torch.rand(3)])
    for plain, ours in zip(*starts, strict=True):
        assert torch.equal(plain, ours)


@pytest.mark.numeric
def test_zeros_starts_as_the_plain_convolution_to_the_bit():
    torch.manual_seed(3)
    layer = CoordConv2d(3, 4, 3, coord_init="zeros", coord_scale="window")
    torch.manual_seed(3)
    conv = nn.Conv2d(3, 4, 3)
    images = torch.randn(2, 3, 6, 9)
    assert torch.equal(layer(images), conv(images))
    assert layer.coord_weight_ratio() == 0
    layer.apply(lambda module: nn.init.ones_(module.weight))
    assert layer.coord_weight_ratio() == 0


@pytest.mark.parametrize("layer_class", [CoordConv2d, CoordConvTranspose2d])
@pytest.mark.numeric
def test_concat_draws_coordinates_as_the_literal_layer(layer_class):
    torch.manual_seed(0)
    layer = layer_class(4, 64, 8)
    image_channels = (
        64 if layer_class is CoordConvTranspose2d else 6
    )  # PyTorch's fan-in is axis 1 times kh * kw
    bound = (image_channels * 64) ** -0.5
    assert 0.99 * bound < layer.coord_weight.abs().max() <= bound
    assert abs(layer.coord_weight.mean()) < 0.02 * bound
    before = layer.coord_weight.clone()
    layer.apply(lambda module: None)
    assert torch.equal(layer.coord_weight, before)
    layer.reset_parameters()
    assert not torch.equal(layer.coord_weight, before)
    if layer_class is CoordConv2d:
        # Orthogonal rows over image and coordinates: 2 of 6 channels hold a third of the squared norm.
        layer.apply(lambda module: nn.init.orthogonal_(module.weight, 2**0.5))
        assert float(layer.coord_weight.detach().square().sum()) == pytest.approx(64 * 2 * 2 / 6, rel=0.1)


@pytest.mark.parametrize(("layer_class", "groups"), [(CoordConv2d, 1), (CoordConvTranspose2d, 2)])
def test_what_changes_weights_but_draws_none_changes_coordinates_likewise(layer_class, groups):
    layer = layer_class(4, 6, 3, groups=groups, coord_scale="window")
    weight, coords = layer.weight.detach().clone(), layer.coord_weight.detach().clone()
    with torch.no_grad():
        layer.apply(lambda module: module.weight.mul_(0.5))
        assert torch.equal(layer.weight, weight / 2)
        assert torch.equal(layer.coord_weight, coords / 2)
        layer.apply(lambda module: module.weight.clamp_(-0.01, 0.01))  # as in a Wasserstein GAN
    assert torch.equal(layer.coord_weight, (coords / 2).clamp(-0.01, 0.01))


def test_coord_weight_ratio_is_the_share_of_the_norm_of_what_is_computed():
    for scale, coordinate in ((1.0, 4.0), (0.5, 8.0)):
        layer = CoordConv2d(1, 1, 1, bias=False, coord_scale=scale)
        with torch.no_grad():
            layer.weight.fill_(3.0)
            layer.coord_weight.copy_(torch.tensor([coordinate, 0.0])[None, :, None, None])
        assert layer.coord_weight_ratio() == pytest.approx(0.8)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.coord_weight)
    assert layer.coord_weight_ratio() == 0


def test_window_lets_the_positional_bias_learn_as_fast_as_a_bias():
    moved = {}
    for scale in (1.0, "window"):
        layer = CoordConv2d(1, 1, 8, stride=4, coord_init="zeros", coord_scale=scale)
        optimizer = torch.optim.SGD(layer.parameters(), 1.0)
        # Adam's first step moves every weight by the learning rate: here the signs of the gradient.
        layer(torch.zeros(1, 1, 84, 84))[0, 0, -1, -1].backward()
        for parameter in layer.parameters():
            parameter.grad.sign_()
        optimizer.step()
        # By one pixel's x and one pixel's y, each about 1 in the corner.
        moved[scale] = float(positional_bias(layer, 84, 84)[0, -1, -1])
    assert moved["window"] == pytest.approx(-2, abs=0.2)
    assert moved[1.0] == pytest.approx(64 * moved["window"])


def test_root_lets_the_positional_bias_learn_as_fast_as_a_bias_where_steps_follow_the_gradient():
    moved = {}
    for scale in (1.0, "window", "root"):
        layer = CoordConv2d(1, 1, 8, stride=4, coord_init="zeros", coord_scale=scale)
        optimizer = torch.optim.SGD(layer.parameters(), 1.0)
        layer(torch.zeros(1, 1, 84, 84))[0, 0, -1, -1].backward()
        optimizer.step()
        moved[scale] = float(positional_bias(layer, 84, 84)[0, -1, -1])
    assert moved["root"] == pytest.approx(-2, abs=0.4)  # a bias moves by -1, and there are x and y
    assert moved[1.0] == pytest.approx(64 * moved["root"])
    assert moved["window"] == pytest.approx(moved["root"] / 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coord_init": "zero"}, "unknown coord_init 'zero': use one of zeros, concat .did you mean 'zeros'"),
        ({"coord_scale": 0}, "coord_scale is 0: it must be 'window', 'root' or a finite number other than 0"),
        ({"coord_scale": float("nan")}, "coord_scale is nan"),
        ({"coord_scale": float("inf")}, "coord_scale is inf"),
        ({"coord_scale": "windows"}, "coord_scale is 'windows'"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    for layer_class in (CoordConv2d, CoordConvTranspose2d):
        with pytest.raises(UserError, match=message):
            layer_class(3, 4, 3, **options)
