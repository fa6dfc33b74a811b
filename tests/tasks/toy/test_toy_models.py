"""The networks: parameter counts of the paper, and equality with the literal concat that is never made."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rl_coordconv.errors import UserError
from rl_coordconv.layers import AddCoords, CoordConv2d
from rl_coordconv.tasks.networks import count_parameters
from rl_coordconv.tasks.toy.models import MaxPoolRegressor, PixelClassifier, make_model
from rl_coordconv.tasks.toy.not_so_clevr import NotSoClevr
from rl_coordconv.tasks.toy.tasks import sampled_softmax_loss


@pytest.mark.parametrize(
    ("task", "arch", "parameters"),
    [
        ("classification", "coordconv", 7_553),
        ("regression", "coordconv", 906),
        ("classification", "conv", 409_921),
        # Two coordinates less (32 filters of 1 x 1), or more (all six layers of 3 x 3).
        ("classification", "coordconv-blind", 7_553 - 2 * 32),
        ("classification", "conv-coords", 409_921 + 2 * 9 * (3 * 128 + 2 * 64 + 1)),
        ("regression", "coordconv-blind", 906 - 2 * 8),
    ],
)
def test_networks_at_64x64_have_the_papers_size(task, arch, parameters):
    assert count_parameters(make_model(task, arch, "uniform", 64)) == parameters


def literal(model: PixelClassifier) -> nn.Sequential:
    """Return the classifier as the paper draws it, on a tiled input with coordinate channels."""
    first = nn.Conv2d(4, 32, 1)
    first.weight, first.bias = nn.Parameter(model.first.concat_weight()), model.first.bias
    convolutions = [first, *model.rest.children()]
    layers = [layer for convolution in convolutions for layer in (convolution, nn.ReLU())]
    return nn.Sequential(AddCoords(), *layers[:-1])


def test_classifier_equals_the_literal_concat_of_a_tiled_input():
    torch.manual_seed(0)
    model = PixelClassifier(16).double()
    model.coords = model.coords.double()
    xy = torch.rand(3, 2, dtype=torch.float64) * 2 - 1
    expected = literal(model)(xy[:, :, None, None].expand(-1, -1, 16, 16)).flatten(1)
    # The coordinates were made in float32, AddCoords makes them in float64.
    torch.testing.assert_close(model(xy), expected, rtol=0, atol=1e-6)
    pixels = torch.randint(256, (3, 20))
    torch.testing.assert_close(model(xy, pixels), model(xy).gather(1, pixels), rtol=0, atol=1e-12)


def test_sampled_softmax_estimates_the_full_cross_entropy():
    torch.manual_seed(0)
    data, model = NotSoClevr(32), PixelClassifier(32)
    with torch.no_grad():
        # Larger than at the start, so that pixels differ.
        for parameter in model.parameters():
            parameter.mul_(2)
        centres = data.centres[::7]
        full = F.cross_entropy(model(data.to_unit(centres)), data.index(centres))
        sampled = torch.stack([sampled_softmax_loss(model, data, centres) for _ in range(200)])
    assert full > 1
    # The logarithm of an unbiased sum of 128 terms is a little low; its mean over 200 draws is close.
    assert float(sampled.mean()) == pytest.approx(float(full), abs=0.05)


def centred_map(model: nn.Module, image: torch.Tensor) -> torch.Tensor:
    return model(image)[..., 4:-4, 4:-4]


@pytest.mark.numeric
def test_without_coordinate_weights_coordconv_is_exactly_translation_equivariant():
    torch.manual_seed(0)
    model = nn.Sequential(
        CoordConv2d(1, 8, 3, padding=1), nn.ReLU(), CoordConv2d(8, 4, 3, padding=1, with_r=True)
    )
    image = torch.zeros(1, 1, 24, 24)
    image[..., 8:12, 8:12] = torch.rand(4, 4)
    moved = image.roll((3, -2), dims=(2, 3))
    before = centred_map(model, image).roll((3, -2), dims=(2, 3))[..., 4:-4, 4:-4]
    assert (before - centred_map(model, moved)[..., 4:-4, 4:-4]).abs().max() > 1e-3
    for layer in model:
        if isinstance(layer, CoordConv2d):
            layer.coord_weight.data.zero_()
    before = centred_map(model, image).roll((3, -2), dims=(2, 3))[..., 4:-4, 4:-4]
    # One image per call and one order of sums at every pixel: equal to the last bit.
    assert torch.equal(before, centred_map(model, moved)[..., 4:-4, 4:-4])


def test_without_coordinates_every_pixel_looks_the_same_to_the_classifier():
    logits = PixelClassifier(16, coordinates=False)(torch.rand(3, 2))
    assert torch.equal(logits, logits[:, :1].expand(3, 256))


def test_coordinates_are_the_only_difference_between_an_arm_and_its_twin():
    for arch, twin in (("coordconv", "coordconv-blind"), ("conv-coords", "conv")):
        for task in ("classification", "rendering", "regression"):
            torch.manual_seed(0)
            model = make_model(task, arch, "uniform", 16, 1)
            blind = make_model(task, twin, "uniform", 16, 1)
            state = model.state_dict()
            extra = set(state) - set(blind.state_dict())
            assert extra
            assert all(name.endswith("coord_weight") for name in extra)
            blind.load_state_dict({name: value for name, value in state.items() if name not in extra})


def test_regressor_starts_on_the_square_with_outputs_that_differ():
    data = NotSoClevr(32)
    for seed in range(5):
        torch.manual_seed(seed)
        model = MaxPoolRegressor()
        image = data.squares(torch.tensor([[20, 9]])).requires_grad_()
        output = model(image)
        assert output.abs().max() < 2.5
        assert (output[0, 0] - output[0, 1]).abs() > 1e-3
        (gradient,) = torch.autograd.grad(output.sum(), image)
        y, x = gradient[0, 0].nonzero(as_tuple=True)
        assert bool((data.squares(torch.tensor([[20, 9]]))[0, 0, y, x] == 1).all())


@pytest.mark.parametrize(
    ("canvas", "filter", "says"),
    [(48, 3, "power of two"), (8, 3, "power of two"), (64, 5, "2, 3 or 4"), (64, 1, "2, 3 or 4")],
)
def test_plain_network_refuses_what_it_cannot_make(canvas, filter, says):
    with pytest.raises(UserError, match=says):
        make_model("classification", "conv", "uniform", canvas, filter=filter)


@pytest.mark.parametrize("filter", [2, 3, 4])
@pytest.mark.parametrize("canvas", [16, 64])
def test_plain_network_fills_the_canvas(canvas, filter):
    model = make_model("rendering", "conv", "uniform", canvas, 1, filter)
    assert model(torch.zeros(2, 2)).shape == (2, canvas**2)
