"""Everything PyTorch does to a layer: types, memory formats, copies, compilation, export."""

from __future__ import annotations

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from literal_layer import layer_and_images, literal

from rl_coordconv.layers import CoordConv2d, CoordConvTranspose2d


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
    expected = layer.double()(images.double())
    out = layer.to(dtype)(images.to(dtype))
    assert out.dtype == dtype
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)


def test_channels_last_stays_channels_last():
    layer, images = layer_and_images()
    expected = layer(images)
    out = layer.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, expected)


def test_threads_may_share_a_layer():
    layer = CoordConv2d(3, 4, 3)
    batches = [torch.randn(1, 3, size, size) for size in (6, 9)]
    with torch.no_grad():
        expected = [layer(batch) for batch in batches]

    def evaluate(which: int) -> bool:
        with torch.no_grad():
            return all(torch.equal(layer(batches[which]), expected[which]) for _ in range(200))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(evaluate, [0, 1, 0, 1]))


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
    # Graphs and gradients as with the default backend, whose C++ test_switches.py compiles.
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
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
@pytest.mark.numeric
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


@pytest.mark.parametrize("layer_class", [CoordConv2d, CoordConvTranspose2d])
def test_traced_layer_takes_other_batch_sizes(
    layer_class: type[CoordConv2d] | type[CoordConvTranspose2d],
) -> None:
    layer = layer_class(2, 4, 3).to(memory_format=torch.channels_last)
    traced = torch.jit.trace(layer, torch.rand(2, 2, 8, 9))
    one = torch.rand(1, 2, 8, 9)
    torch.testing.assert_close(traced(one), layer(one))


@pytest.mark.parametrize("layer_class", [CoordConv2d, CoordConvTranspose2d])
@pytest.mark.parametrize("grad", [True, False])
def test_vmap(layer_class: type[CoordConv2d] | type[CoordConvTranspose2d], grad: bool) -> None:
    layer, batches = layer_class(2, 4, 3), torch.rand(3, 2, 2, 8, 9)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(
            torch.vmap(layer)(batches), torch.stack([layer(batch) for batch in batches])
        )


@pytest.mark.parametrize("layer_class", [CoordConv2d, CoordConvTranspose2d])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_vmap_over_the_weights_of_coordinates_alone(
    layer_class: type[CoordConv2d] | type[CoordConvTranspose2d], memory_format: torch.memory_format
) -> None:
    layer = layer_class(2, 4, 3).to(memory_format=memory_format)
    images = torch.rand(2, 2, 8, 9).to(memory_format=memory_format)
    weights = torch.randn(3, *layer.coord_weight.shape)

    def output(weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"coord_weight": weight}, (images,))

    torch.testing.assert_close(torch.vmap(output)(weights), torch.stack([output(one) for one in weights]))


@pytest.mark.parametrize("layer_class", [CoordConv2d, CoordConvTranspose2d])
def test_an_ensembles_stacked_weights_learn_each_its_own(
    layer_class: type[CoordConv2d] | type[CoordConvTranspose2d],
) -> None:
    layers, images = [layer_class(2, 4, 3) for _ in range(3)], torch.rand(2, 2, 8, 9)
    stacked, _ = torch.func.stack_module_state(layers)

    def ensemble(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(layers[0], parameters, (images,))

    torch.vmap(ensemble)(stacked).square().sum().backward()
    for number, layer in enumerate(layers):
        layer(images).square().sum().backward()
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(stacked[name].grad[number], parameter.grad)
    with torch.no_grad():  # nothing of it is kept
        torch.testing.assert_close(layers[0](images), torch.vmap(ensemble)(stacked)[0])
        torch.testing.assert_close(layers[0](images), torch.vmap(ensemble)(stacked)[0])


@pytest.mark.parametrize("layer_class", [CoordConv2d, CoordConvTranspose2d])
def test_meta_device_tells_shapes(layer_class: type[CoordConv2d] | type[CoordConvTranspose2d]) -> None:
    layer = layer_class(3, 4, 3, stride=2)
    images = torch.rand(2, 3, 9, 11)
    assert copy.deepcopy(layer).to("meta")(images.to("meta")).shape == layer(images).shape


@pytest.mark.parametrize("layer_class", [CoordConv2d, CoordConvTranspose2d])
@pytest.mark.parametrize("frozen", [False, True])
def test_forward_mode_differentiation(
    layer_class: type[CoordConv2d] | type[CoordConvTranspose2d], frozen: bool
) -> None:
    layer = layer_class(3, 4, 3).double().requires_grad_(not frozen)
    images = torch.rand(2, 3, 9, 11, dtype=torch.float64)
    layer(images)  # so that a term is kept that has no tangent
    weight, change = layer.coord_weight.detach(), torch.rand_like(layer.coord_weight)

    def compute(coord_weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"coord_weight": coord_weight}, (images,))

    _, tangent = torch.func.jvp(compute, (weight,), (change,))
    with torch.no_grad():
        difference = compute(weight + change) - compute(weight)  # the layer is linear in them
    assert torch.allclose(tangent, difference, atol=1e-12)


@pytest.mark.parametrize("layer_class", [CoordConv2d, CoordConvTranspose2d])
def test_positional_bias_is_exact_under_autocast(
    layer_class: type[CoordConv2d] | type[CoordConvTranspose2d],
) -> None:
    layer = layer_class(3, 4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer.positional_bias(9, 11)
    assert torch.equal(found, layer.positional_bias(9, 11))
