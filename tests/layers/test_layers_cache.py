"""What a layer keeps between calls follows everything that it depends on."""

from __future__ import annotations

import itertools

import pytest
import torch
from literal_layer import layer_and_images, literal
from torch import nn

from rl_coordconv.layers import AddCoords, CoordConv2d


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


def test_what_weights_are_multiplied_by_stays_where_it_is_when_precision_or_memory_format_change():
    # A CUDA graph goes on reading it while evaluations compute in float32, or on frames that lie otherwise.
    layer, images = CoordConv2d(2, 4, 3), torch.rand(2, 2, 8, 8)
    alive = []
    for bf16, memory_format in (
        (True, torch.contiguous_format),
        (False, torch.contiguous_format),
        (False, torch.channels_last),
        (True, torch.contiguous_format),
        (True, torch.channels_last),
    ):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = layer(images.to(memory_format=memory_format))
        assert out.dtype == (torch.bfloat16 if bf16 else torch.float32)
        alive.append({id(kept.constants): kept.constants for kept in layer._cached.kept.values()})
    for earlier, later in itertools.pairwise(alive):
        assert earlier.keys() <= later.keys()
    assert len(alive[-1]) == 2
