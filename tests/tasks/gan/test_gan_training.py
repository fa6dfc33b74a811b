"""GAN networks and training steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from rl_coordconv.layers import CoordConv2d, CoordConvTranspose2d
from rl_coordconv.tasks.experiment import Run
from rl_coordconv.tasks.gan.models import ARMS, build_gan
from rl_coordconv.tasks.gan.sort_of_clevr import make_scenes, render
from rl_coordconv.tasks.gan.training import WALK_STEPS, WALKS, Gan, GanConfig, latent_walks, to_uint8

CPU = torch.device("cpu")


def small(**options: object) -> GanConfig:
    values = {"image_size": 16, "width": 8, "latent": 16, "images": 64, "batch_size": 16, "eval_images": 64}
    return GanConfig(**{**values, **options})  # type: ignore[arg-type]


def modules(network: nn.Module, kind: type[nn.Module]) -> int:
    return sum(type(module) is kind for module in network.modules())


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("size", [16, 32, 64])
def test_networks_have_the_image_size_at_both_ends(arm: str, size: int) -> None:
    generator, discriminator = build_gan(arm, size, 4, 12)
    images = generator(torch.randn(3, 12))
    assert images.shape == (3, 3, size, size)
    assert images.abs().max() <= 1
    assert discriminator(images).shape == (3,)


def test_arms_differ_in_coordinates_only() -> None:
    plain, plain_d = build_gan("plain", 64, 64, 256)
    coord, coord_d = build_gan("coordconv", 64, 64, 256)
    assert modules(plain, CoordConvTranspose2d) == modules(plain_d, CoordConv2d) == 0
    assert modules(coord, CoordConvTranspose2d) == modules(plain, nn.ConvTranspose2d) == 4
    assert modules(coord_d, CoordConv2d) == 1
    extra = sum(p.numel() for p in coord.parameters()) - sum(p.numel() for p in plain.parameters())
    assert extra == 2 * 25 * (256 + 128 + 64 + 3)  # two coordinates, 5×5, for each output channel
    assert [layer.out_features for layer in plain if isinstance(layer, nn.Linear)] == [512 * 16]
    assert [layer.out_channels for layer in plain_d if isinstance(layer, nn.Conv2d)] == [64, 128, 256, 512]


def test_the_papers_generator_has_its_channels() -> None:
    generator, _ = build_gan("coordconv-1x1", 64, 64, 256)
    layers = [module for module in generator.modules() if isinstance(module, nn.Conv2d)]
    assert [layer.out_channels for layer in layers] == [512, 256, 256, 128, 64, 64, 64, 3]
    assert [layer.kernel_size[0] for layer in layers] == [1, 1, 1, 1, 1, 3, 3, 1]


@pytest.mark.parametrize("arm", ARMS)
def test_the_discriminator_learns_to_tell_data_from_a_frozen_generator(arm: str) -> None:
    torch.manual_seed(0)
    gan = Gan(small(lr_generator=1e-12, lr_discriminator=1e-3), arm, CPU)
    real = render(make_scenes(16, 16, 0))
    losses = [gan.step(real)[0].item() for _ in range(15)]
    assert losses[0] > 1
    assert losses[-1] < losses[0] / 3


@pytest.mark.parametrize("arm", ARMS)
def test_the_generator_learns_to_fool_a_frozen_discriminator(arm: str) -> None:
    torch.manual_seed(0)
    gan = Gan(small(lr_generator=5e-3, lr_discriminator=1e-12), arm, CPU)
    real = render(make_scenes(16, 16, 0))
    before = [parameter.clone() for parameter in gan.discriminator.parameters()]
    losses = [gan.step(real)[1].item() for _ in range(40)]
    assert losses[-1] < losses[0] - 0.1
    for old, new in zip(before, gan.discriminator.parameters(), strict=True):
        assert torch.allclose(old, new, atol=1e-6)


def test_a_latent_walk_ends_where_it_says_and_images_become_bytes() -> None:
    walk = latent_walks(5, seed=1).view(WALKS, WALK_STEPS, 5)
    assert torch.allclose(walk[:, 1] - walk[:, 0], walk[:, -1] - walk[:, -2], atol=1e-5)
    assert not torch.allclose(walk[:, 0], walk[:, -1])
    image = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1)
    assert to_uint8(image).tolist() == [[[[0, 128, 255]]]]


def test_a_run_is_repeated_by_its_seed(make_run: Callable[..., Run]) -> None:
    config = small(steps=3, eval_every=2)
    one, same, other = (config.train(make_run("coordconv", seed)).samples for seed in (1, 1, 2))
    assert (one["images"] == same["images"]).all()
    assert (one["images"] != other["images"]).any()


def test_the_generator_may_be_updated_more_often() -> None:
    updates = {}
    for steps in (1, 2):
        gan = Gan(small(generator_steps=steps), "plain", CPU)
        gan.step(render(make_scenes(16, 16, 0)))
        updates[steps] = gan.generator_optimiser.state_dict()["state"][0]["step"]
        assert gan.discriminator_optimiser.state_dict()["state"][0]["step"] == 1
    assert updates == {1: 1, 2: 2}


@pytest.mark.parametrize("arm", ARMS)
def test_he_start_keeps_the_scale_of_the_layers(arm: str) -> None:
    torch.manual_seed(0)
    generator, _ = build_gan(arm, 32, 16, 64, "he")
    weights = [m.weight for m in generator.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for weight in weights:
        assert float(weight.detach().std()) == pytest.approx((2 / weight[0].numel()) ** 0.5, rel=0.3)
    assert (modules(generator, nn.BatchNorm2d) == 0) == (arm == "coordconv-1x1")


def test_the_counts_of_parameters_are_those_of_the_networks_that_are_trained() -> None:
    config = small(init="he", paper_generator=True)
    gan = Gan(config, "coordconv-1x1", CPU)
    counts = [sum(p.numel() for p in net.parameters()) for net in (gan.generator, gan.discriminator)]
    assert config.facts()["parameters"]["coordconv-1x1"] == counts


def test_a_run_stops_when_its_images_are_well_formed_enough(make_run: Callable[..., Run]) -> None:
    config = small(steps=6, eval_every=2, stop_at=1e-9)
    assert config.train(make_run("plain")).numbers["steps"] == 6  # no image is well formed so early
    first_evaluation = small(steps=6, eval_every=2)
    first_evaluation.stop_at = 0.0  # what any image reaches
    assert first_evaluation.train(make_run("plain")).numbers["steps"] == 2
