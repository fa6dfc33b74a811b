"""CoordConv layers against the literal concat: values, gradients, coordinates, states."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from literal_layer import literal, literal_input, plain_coordinates
from torch import Tensor, nn

from rl_coordconv.errors import UserError
from rl_coordconv.layers import AddCoords, CoordConv2d, CoordConvTranspose2d, coordinate_map, positional_bias


def assert_equals_literal(layer: CoordConv2d | CoordConvTranspose2d, images: Tensor) -> None:
    """Forward and all gradients, to 1e-10: float64 sums of a few hundred terms round below that."""
    images.requires_grad_()
    values = []
    for out in (layer(images), literal(layer, images)):
        probe = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
        values.append([out, *torch.autograd.grad((out * out * probe).sum(), [images, *layer.parameters()])])
    for ours, reference in zip(*values, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        for _ in range(2):  # the second call comes from the cache
            torch.testing.assert_close(layer(images), values[1][0], rtol=1e-10, atol=1e-10)


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
OPTIONS = {
    "kernel": pairs,
    "stride": pairs,
    "dilation": pairs,
    "groups": st.integers(1, 3),
    "channels": st.tuples(st.integers(1, 2), st.integers(1, 2)),
    "bias": st.booleans(),
    "with_r": st.booleans(),
    "scale": st.sampled_from([1.0, "window", -2.5]),
    "size": st.tuples(st.integers(1, 9), st.integers(1, 9)),
}


@given(
    padding=st.one_of(
        st.integers(0, 2), st.tuples(st.integers(0, 2), st.integers(0, 2)), st.sampled_from(["same", "valid"])
    ),
    padding_mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    **OPTIONS,
)
@settings(max_examples=150, deadline=None)
@pytest.mark.numeric
def test_convolution_equals_the_literal_concat(
    kernel, stride, padding, padding_mode, dilation, groups, channels, bias, with_r, scale, size
):
    if padding == "same":
        stride = (1, 1)
    pads = padding if isinstance(padding, tuple) else (padding, padding)
    if padding == "same":
        pads = tuple(d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
    elif padding == "valid":
        pads = (0, 0)
    # What nn.Conv2d refuses itself: padding wider than the image, a kernel larger than the padded image.
    assume(padding_mode == "zeros" or all(pad < length for pad, length in zip(pads, size, strict=True)))
    total = pads if padding == "same" else (2 * pads[0], 2 * pads[1])
    assume(all(n + t > d * (k - 1) for n, t, d, k in zip(size, total, dilation, kernel, strict=True)))
    layer = CoordConv2d(
        channels[0] * groups, channels[1] * groups, kernel, stride, padding, dilation, groups, bias,
        padding_mode, dtype=torch.float64, with_r=with_r, coord_scale=scale,
    )  # fmt: skip
    assert_equals_literal(layer, torch.randn(2, channels[0] * groups, *size, dtype=torch.float64))


@given(
    padding=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    output_padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    **OPTIONS,
)
@settings(max_examples=100, deadline=None)
@pytest.mark.numeric
def test_transposed_convolution_equals_the_literal_concat(
    kernel, stride, padding, output_padding, dilation, groups, channels, bias, with_r, scale, size
):
    assume(all(o < max(s, d) for o, s, d in zip(output_padding, stride, dilation, strict=True)))
    layer = CoordConvTranspose2d(
        channels[0] * groups, channels[1] * groups, kernel, stride, padding, output_padding, groups, bias,
        dilation, dtype=torch.float64, with_r=with_r, coord_scale=scale,
    )  # fmt: skip
    heights = [
        (n - 1) * s - 2 * p + d * (k - 1) + o + 1
        for n, s, p, d, k, o in zip(size, stride, padding, dilation, kernel, output_padding, strict=True)
    ]
    assume(min(heights) > 0)
    assert_equals_literal(layer, torch.randn(2, channels[0] * groups, *size, dtype=torch.float64))


@pytest.mark.numeric
def test_gradcheck():
    layer = CoordConv2d(2, 3, 3, padding=1, dtype=torch.float64, with_r=True)
    images = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    assert torch.autograd.gradcheck(
        lambda x, *values: torch.func.functional_call(layer, dict(zip(names, values, strict=True)), x),
        (images, *parameters),
    )


def test_output_size_of_the_transposed_layer():
    layer = CoordConvTranspose2d(2, 3, 3, stride=2, padding=1)
    images = torch.randn(1, 2, 5, 7)
    assert layer(images).shape == (1, 3, 9, 13)
    assert layer(images, output_size=[10, 14]).shape == (1, 3, 10, 14)


@pytest.mark.parametrize("with_r", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1), (3, 4), (8, 3)])
def test_coordinates_span_each_axis_and_are_zero_on_a_lone_pixel(size, with_r):
    coords = coordinate_map(*size, with_r=with_r, dtype=torch.float64)
    torch.testing.assert_close(coords, plain_coordinates(*size, with_r), rtol=0, atol=1e-12)
    assert torch.equal(AddCoords(with_r)(torch.ones(2, 1, *size, dtype=torch.float64))[1, 1:], coords)


def test_add_coords_takes_lone_images_and_refuses_integers():
    images = torch.randn(2, 3, 4, 5)
    assert torch.equal(AddCoords()(images[0]), AddCoords()(images)[0])
    with pytest.raises(UserError, match=r"not torch.uint8: give images.float\(\)"):
        AddCoords()(images.to(torch.uint8))


def test_r_is_zero_at_the_centre_and_symmetric():
    r = coordinate_map(5, 7, with_r=True)[2]
    assert r[2, 3] == 0
    torch.testing.assert_close(r, r.flip(0, 1))


def old_weight_norm(conv):
    """What PyTorch 2 still takes, though it warns."""
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(conv)


def test_a_convolution_that_computes_in_a_way_of_its_own_is_refused():
    class Standardised(nn.Conv2d):
        def forward(self, images):
            return self._conv_forward(images, self.weight / self.weight.std(), self.bias)

    with pytest.raises(UserError, match="a Standardised is no plain convolution"):
        CoordConv2d.from_conv(Standardised(3, 4, 3))


@pytest.mark.parametrize(
    "change",
    [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm, old_weight_norm],
)
def test_a_convolution_whose_weight_is_computed_is_refused(change):
    with pytest.raises(UserError, match="weight is computed from others"):
        CoordConv2d.from_conv(change(nn.Conv2d(3, 4, 3)))


def test_what_is_no_convolution_with_weights_or_has_hooks_is_refused():
    hooked = nn.Conv2d(3, 4, 3)
    hooked.register_forward_hook(lambda layer, inputs, output: 2 * output)
    for module, message in (
        (nn.Linear(3, 4), "not a Linear"),
        (nn.LazyConv2d(4, 3), "not a LazyConv2d"),
        (hooked, "has hooks"),
    ):
        with pytest.raises(UserError, match=message):
            CoordConv2d.from_conv(module)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
@pytest.mark.numeric
def test_from_conv_computes_the_same(groups, padding_mode):
    conv = nn.Conv2d(3, 6, (3, 5), stride=2, padding=2, groups=groups, padding_mode=padding_mode).eval()
    layer = CoordConv2d.from_conv(conv, with_r=True)
    images = torch.randn(2, 3, 11, 8)
    torch.testing.assert_close(layer(images), conv(images), rtol=0, atol=0)
    assert layer.coord_weight_ratio() == 0
    assert not layer.training
    layer.coord_weight.data += 1
    assert not torch.equal(layer(images), conv(images))


@pytest.mark.parametrize("scale", [1.0, "window"])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(
    ("layer_class", "concat_class"), [(CoordConv2d, nn.Conv2d), (CoordConvTranspose2d, nn.ConvTranspose2d)]
)
@pytest.mark.numeric
def test_checkpoint_of_a_literal_concat_loads_and_splits(layer_class, concat_class, groups, scale):
    concat = concat_class(3 + 3 * groups, 6, 3, stride=2, groups=groups)
    layer = layer_class(3, 6, 3, stride=2, groups=groups, with_r=True, coord_scale=scale)
    state = concat.state_dict()
    nn.Sequential(layer).load_state_dict({f"0.{name}": value for name, value in state.items()})
    assert list(state) == ["weight", "bias"]
    torch.testing.assert_close(layer.concat_weight(), concat.weight)
    images = torch.randn(2, 3, 8, 10)
    torch.testing.assert_close(layer(images), concat(literal_input(layer, images)))
    concat.load_state_dict({"weight": layer.concat_weight(), "bias": layer.bias})


def test_state_of_another_shape_is_refused():
    layer = CoordConv2d(3, 4, 3)
    with pytest.raises(RuntimeError, match="size mismatch"):
        layer.load_state_dict(nn.Conv2d(7, 4, 3).state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key.*coord_weight"):
        layer.load_state_dict(nn.Conv2d(3, 4, 3).state_dict())


@pytest.mark.parametrize("layer_class", [CoordConv2d, CoordConvTranspose2d])
@pytest.mark.numeric
def test_positional_bias_is_what_an_empty_image_shows(layer_class):
    layer = layer_class(3, 4, 3, stride=2, padding=1, bias=False, with_r=True)
    maps = positional_bias(layer, 9, 6)
    torch.testing.assert_close(maps, layer(torch.zeros(1, 3, 9, 6))[0])
    assert not maps.requires_grad
