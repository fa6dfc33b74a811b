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

from rl_coordconv.layers import AddCoords, CoordConv2d, CoordConvTranspose2d, coordinate_map


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
    assert {name: p.shape for name, p in twin.named_parameters()} == {
        name: p.shape for name, p in layer.named_parameters()
    }
    return torch.func.functional_call(twin, dict(layer.named_parameters()), literal_input(layer, images))


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
    size=sizes,
)
@settings(max_examples=150, deadline=None)
def test_convolution_equals_the_literal_concat(
    kernel, stride, padding, padding_mode, dilation, groups, channels, bias, with_r, size
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
        padding_mode, dtype=torch.float64, with_r=with_r,
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
    size=sizes,
)
@settings(max_examples=100, deadline=None)
def test_transposed_convolution_equals_the_literal_concat(
    kernel, stride, padding, output_padding, dilation, groups, channels, bias, with_r, size
):
    assume(all(o < max(s, d) for o, s, d in zip(output_padding, stride, dilation, strict=True)))
    layer = CoordConvTranspose2d(
        channels[0] * groups, channels[1] * groups, kernel, stride, padding, output_padding, groups, bias,
        dilation, dtype=torch.float64, with_r=with_r,
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
    assert torch.autograd.gradcheck(
        lambda x, w, b: torch.func.functional_call(layer, {"weight": w, "bias": b}, x),
        (images, layer.weight, layer.bias),
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
        layer.weight[:, -1] += 1.0


def edit_through_data(layer: CoordConv2d) -> None:
    layer.weight.data.mul_(0.5)


def replace_data(layer: CoordConv2d) -> None:
    layer.weight.data = torch.randn_like(layer.weight)


def replace_parameter(layer: CoordConv2d) -> None:
    layer.weight = nn.Parameter(torch.randn_like(layer.weight))


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
    layer.weight.data += 1
    assert not torch.equal(layer(images), conv(images))


def test_checkpoint_of_a_literal_concat_loads_unchanged():
    concat = nn.Sequential(AddCoords(with_r=True), nn.Conv2d(6, 4, 3, stride=2))
    layer = CoordConv2d(3, 4, 3, stride=2, with_r=True)
    layer.load_state_dict(concat[1].state_dict())
    images = torch.randn(2, 3, 8, 10)
    torch.testing.assert_close(layer(images), concat(images))
    concat[1].load_state_dict(layer.state_dict())


def test_initialisation_is_that_of_the_literal_concat():
    torch.manual_seed(3)
    layer = CoordConv2d(3, 4, 3)
    torch.manual_seed(3)
    assert torch.equal(layer.weight, nn.Conv2d(5, 4, 3).weight)


def test_coord_weight_ratio_is_the_share_of_the_norm():
    layer = CoordConv2d(1, 1, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([3.0, 4.0, 0.0])[None, :, None, None])
    assert layer.coord_weight_ratio() == pytest.approx(0.8)
    nn.init.zeros_(layer.weight)
    assert layer.coord_weight_ratio() == 0


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
            twin.weight += 1
            assert not torch.equal(twin(images), expected)
            assert torch.equal(layer(images), expected)
    assert list(layer.state_dict()) == ["weight", "bias"]


@pytest.mark.slow
@pytest.mark.parametrize("layer_class", [CoordConv2d, CoordConvTranspose2d])
def test_compiled_layer_is_equal_and_follows_weights(layer_class):
    layer, images = layer_class(3, 4, 3, with_r=True), torch.randn(2, 3, 6, 9)
    compiled = torch.compile(layer, fullgraph=True)
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(compiled(images), layer(images))
        compiled(images).square().sum().backward()
        gradient = layer.weight.grad.clone()
        layer.zero_grad()
        layer(images).square().sum().backward()
        torch.testing.assert_close(gradient, layer.weight.grad, rtol=1e-4, atol=1e-4)
        layer.zero_grad()
        layer.weight.data += 0.1


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
        grads.append((out, leaf.grad, layer.weight.grad.clone(), layer.bias.grad.clone()))
    for plain, last in zip(*grads, strict=True):
        torch.testing.assert_close(plain, last, rtol=1e-12, atol=1e-12)
