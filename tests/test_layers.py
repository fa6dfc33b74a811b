"""CoordConv layers against the literal concat, and everything PyTorch does to a layer."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rl_coordconv.errors import UserError
from rl_coordconv.layers import (
    AddCoords,
    CoordConv2d,
    CoordConvTranspose2d,
    coordinate_map,
    positional_bias,
)


def plain_coordinates(height: int, width: int, with_r: bool) -> Tensor:
    """Coordinates by hand, in float64, pixel by pixel."""
    out = np.zeros((3, height, width))
    for i in range(height):
        for j in range(width):
            x = 2 * j / (width - 1) - 1 if width > 1 else 0.0
            y = 2 * i / (height - 1) - 1 if height > 1 else 0.0
            out[:, i, j] = x, y, np.hypot(x, y)
    return torch.from_numpy(out[: 3 if with_r else 2])


def literal_input(layer: CoordConv2d | CoordConvTranspose2d, images: Tensor) -> Tensor:
    """Each group of channels followed by coordinates, as the paper draws it."""
    coords = plain_coordinates(*images.shape[-2:], layer.with_r).to(images.dtype)
    coords = coords.expand(images.shape[0], -1, -1, -1)
    return torch.cat([part for group in images.chunk(layer.groups, 1) for part in (group, coords)], 1)


def literal(layer: CoordConv2d | CoordConvTranspose2d, images: Tensor) -> Tensor:
    """The literal concat with PyTorch's own layer and the same weight."""
    channels = layer.in_channels + layer.groups * (3 if layer.with_r else 2)
    shared = (channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
    kwargs = {"groups": layer.groups, "bias": layer.bias is not None, "dilation": layer.dilation}
    twin: nn.Module
    if isinstance(layer, CoordConv2d):
        twin = nn.Conv2d(*shared, **kwargs, padding_mode=layer.padding_mode)
    else:
        twin = nn.ConvTranspose2d(*shared, output_padding=layer.output_padding, **kwargs)
    parameters = {"weight": layer.concat_weight()} | ({} if layer.bias is None else {"bias": layer.bias})
    assert {name: p.shape for name, p in twin.named_parameters()} == {
        name: p.shape for name, p in parameters.items()
    }
    return torch.func.functional_call(twin, parameters, literal_input(layer, images))


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
scales = st.sampled_from([1.0, "window", -2.5])
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(
    kernel=pairs,
    stride=pairs,
    padding=st.one_of(
        st.integers(0, 2), st.tuples(st.integers(0, 2), st.integers(0, 2)), st.sampled_from(["same", "valid"])
    ),
    padding_mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    dilation=pairs,
    groups=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    bias=st.booleans(),
    with_r=st.booleans(),
    scale=scales,
    size=sizes,
)
@settings(max_examples=150, deadline=None)
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
    kernel=pairs,
    stride=pairs,
    padding=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    output_padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=pairs,
    groups=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    bias=st.booleans(),
    with_r=st.booleans(),
    scale=scales,
    size=sizes,
)
@settings(max_examples=100, deadline=None)
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


def test_r_is_zero_at_the_centre_and_symmetric():
    r = coordinate_map(5, 7, with_r=True)[2]
    assert r[2, 3] == 0
    torch.testing.assert_close(r, r.flip(0, 1))


def layer_and_images(**kwargs) -> tuple[CoordConv2d, Tensor]:
    torch.manual_seed(0)
    return CoordConv2d(3, 4, 3, padding=1, **kwargs), torch.randn(2, 3, 6, 9)


def edit_in_place(layer: CoordConv2d) -> None:
    with torch.no_grad():
        layer.coord_weight[:, -1] += 1.0


def edit_through_data(layer: CoordConv2d) -> None:
    layer.coord_weight.data.mul_(0.5)


def replace_data(layer: CoordConv2d) -> None:
    layer.coord_weight.data = torch.randn_like(layer.coord_weight)


def replace_parameter(layer: CoordConv2d) -> None:
    layer.coord_weight = nn.Parameter(torch.randn_like(layer.coord_weight))


def rescale(layer: CoordConv2d) -> None:
    layer.coord_scale = 3.0


def load(layer: CoordConv2d) -> None:
    layer.load_state_dict(CoordConv2d(3, 4, 3, padding=1).state_dict())


def step(make) -> object:
    def optimizer_step(layer: CoordConv2d) -> None:
        optimizer = make(layer.parameters())
        layer(torch.randn(2, 3, 6, 9)).square().sum().backward()
        optimizer.step()

    return optimizer_step


CHANGES = {
    "in place": edit_in_place,
    "data": edit_through_data,
    "new data": replace_data,
    "new parameter": replace_parameter,
    "scale": rescale,
    "load_state_dict": load,
    "Adam": step(lambda p: torch.optim.Adam(p, 0.1)),
    "fused Adam": step(lambda p: torch.optim.Adam(p, 0.1, fused=True)),
    "foreach SGD": step(lambda p: torch.optim.SGD(p, 0.1, foreach=True)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_cache_follows_every_weight_change(change, mode):
    layer, images = layer_and_images()
    with mode():
        before = layer(images)
    change(layer)
    with mode():
        after = layer(images)
        torch.testing.assert_close(after, literal(layer, images))
    assert not torch.equal(before, after)


def test_cache_follows_size_type_and_options():
    layer, images = layer_and_images()
    with torch.no_grad():
        for size in ((6, 9), (9, 6), (6, 9)):
            x = torch.randn(1, 3, *size)
            torch.testing.assert_close(layer(x), literal(layer, x))
        layer.padding = (2, 2)
        layer._reversed_padding_repeated_twice = [2, 2, 2, 2]
        assert layer(images).shape[-2:] == (8, 11)
        layer.padding = (1, 1)
        torch.testing.assert_close(layer.double()(images.double()), literal(layer, images.double()))


def test_term_is_computed_once_in_a_rollout(monkeypatch):
    layer, images = layer_and_images()
    calls = []
    original = layer._conv_forward
    monkeypatch.setattr(layer, "_conv_forward", lambda x, w, b: calls.append(len(x)) or original(x, w, b))
    with torch.no_grad():
        for _ in range(3):
            layer(images)
    assert calls == [2, 1, 2, 2]


def test_training_works_after_the_cache_was_made_in_inference_mode():
    layer, images = layer_and_images()
    with torch.inference_mode():
        layer(images)
    layer(images).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
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


@pytest.mark.parametrize("layer_class", [CoordConv2d, CoordConvTranspose2d])
def test_positional_bias_is_what_an_empty_image_shows(layer_class):
    layer = layer_class(3, 4, 3, stride=2, padding=1, bias=False, with_r=True)
    maps = positional_bias(layer, 9, 6)
    torch.testing.assert_close(maps, layer(torch.zeros(1, 3, 9, 6))[0])
    assert not maps.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coord_init": "zero"}, "unknown coord_init 'zero': use one of zeros, concat .did you mean 'zeros'"),
        ({"coord_scale": 0}, "coord_scale is 0: it must be 'window' or a finite number other than 0"),
        ({"coord_scale": float("nan")}, "coord_scale is nan"),
        ({"coord_scale": float("inf")}, "coord_scale is inf"),
        ({"coord_scale": "windows"}, "coord_scale is 'windows'"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    for layer_class in (CoordConv2d, CoordConvTranspose2d):
        with pytest.raises(UserError, match=message):
            layer_class(3, 4, 3, **options)


def test_autocast_keeps_the_low_precision_type():
    layer, images = layer_and_images(with_r=True)
    reference = literal(layer, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(images)
    assert out.dtype == torch.bfloat16
    # bfloat16 has 8 bits of mantissa: 0.4 % of values of order 1.
    torch.testing.assert_close(out.float(), reference, rtol=0.02, atol=0.02)
    out.float().sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_layer_of_another_type(dtype):
    layer, images = layer_and_images()
    out = layer.to(dtype)(images.to(dtype))
    assert out.dtype == dtype


def test_channels_last_stays_channels_last():
    layer, images = layer_and_images()
    expected = layer(images)
    out = layer.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, expected)


def test_image_without_batch():
    layer, images = layer_and_images()
    torch.testing.assert_close(layer(images[0]), layer(images)[0])


@pytest.mark.parametrize("layer_class", [CoordConv2d, CoordConvTranspose2d])
def test_copies_are_equal_and_independent(layer_class):
    layer, images = layer_class(3, 4, 3, with_r=True), torch.randn(2, 3, 6, 9)
    with torch.no_grad():
        expected = layer(images)
        buffer = io.BytesIO()
        torch.save(layer, buffer)
        buffer.seek(0)
        for twin in (
            copy.deepcopy(layer),
            pickle.loads(pickle.dumps(layer)),
            torch.load(buffer, weights_only=False),
        ):
            assert torch.equal(twin(images), expected)
            twin.coord_weight += 1
            assert not torch.equal(twin(images), expected)
            assert torch.equal(layer(images), expected)
    assert list(layer.state_dict()) == ["weight", "bias", "coord_weight"]


@pytest.mark.slow
@pytest.mark.parametrize("layer_class", [CoordConv2d, CoordConvTranspose2d])
def test_compiled_layer_is_equal_and_follows_weights(layer_class):
    layer, images = layer_class(3, 4, 3, with_r=True), torch.randn(2, 3, 6, 9)
    compiled = torch.compile(layer, fullgraph=True)
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(compiled(images), layer(images))
        compiled(images).square().sum().backward()
        gradients = [parameter.grad for parameter in layer.parameters()]
        layer.zero_grad()
        layer(images).square().sum().backward()
        for gradient, parameter in zip(gradients, layer.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-4)
        layer.zero_grad()
        layer.coord_weight.data += 0.1


@pytest.mark.slow
@pytest.mark.parametrize("layer_class", [CoordConv2d, CoordConvTranspose2d])
def test_onnx_export_runs_the_same(layer_class, tmp_path):
    import onnxruntime

    layer, images = layer_class(3, 4, 3, padding=1, with_r=True).eval(), torch.randn(2, 3, 6, 9)
    path = tmp_path / "layer.onnx"
    torch.onnx.export(layer, (images,), str(path), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    [out] = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(out), layer(images).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer_class", [CoordConv2d, CoordConvTranspose2d])
def test_gradients_in_channels_last(layer_class: type[CoordConv2d] | type[CoordConvTranspose2d]) -> None:
    torch.manual_seed(0)
    layer = layer_class(3, 8, 3, stride=2).double()
    images = torch.randn(5, 3, 9, 11, dtype=torch.float64)
    grads = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        layer.to(memory_format=memory_format)  # type: ignore[call-overload]
        layer.zero_grad()
        leaf = images.clone(memory_format=memory_format).requires_grad_()
        out = layer(leaf)
        out.square().sum().backward()
        assert out.is_contiguous(memory_format=memory_format)
        grads.append((out, leaf.grad, *(parameter.grad.clone() for parameter in layer.parameters())))
    for plain, last in zip(*grads, strict=True):
        torch.testing.assert_close(plain, last, rtol=1e-12, atol=1e-12)


def test_term_follows_the_type_of_the_weights():
    layer = CoordConv2d(3, 4, 3)
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        layer(images)
    layer.to(torch.bfloat16)
    with torch.no_grad():
        out = layer(images.to(torch.bfloat16))
        expected = torch.conv2d(AddCoords()(images), layer.concat_weight().float(), layer.bias.float())
    torch.testing.assert_close(out.float(), expected, atol=0.05, rtol=0.05)
