"""Extractors inside of real SB3 algorithms."""

from __future__ import annotations

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv, VecTransposeImage
from torch import nn

from rl_coordconv import (
    EXTRACTORS,
    CoordActorPolicy,
    CoordConv2d,
    CoordConvCombinedExtractor,
    CoordConvImpalaCNN,
    CoordConvImpalaPool,
    CoordConvNatureCNN,
    CoordConvNaturePool,
    Extractor,
    policy_kwargs,
)
from rl_coordconv.algorithms.build import from_spaces
from rl_coordconv.config import config_from_dict
from rl_coordconv.coordinates import coord_weight_ratios
from rl_coordconv.errors import UserError
from rl_coordconv.extractors.image import see_coordinates

IMAGES = spaces.Box(0, 255, (4, 84, 84), np.uint8)
OFF_POLICY = {"buffer_size": 250, "learning_starts": 100}
ALGORITHMS = {
    "A2C": (A2C, {}),
    "PPO": (PPO, {"n_steps": 64, "n_epochs": 2}),
    "DQN": (DQN, OFF_POLICY),
    "QRDQN": (QRDQN, OFF_POLICY),
}


def conv_classes(extractor: nn.Module) -> list[type]:
    return [type(layer) for layer in extractor.modules() if isinstance(layer, nn.Conv2d)]


@pytest.mark.numeric
def test_without_coordinates_it_is_sb3s_nature_cnn_bit_for_bit():
    networks = []
    for make in (NatureCNN, lambda space: CoordConvNatureCNN(space, coord_layers=())):
        torch.manual_seed(1)
        networks.append(make(IMAGES))
    ours, stock = networks
    assert list(ours.state_dict()) == list(stock.state_dict())
    batch = torch.rand(3, 4, 84, 84)
    assert torch.equal(ours(batch), stock(batch))
    for a, b in zip(ours.parameters(), stock.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.numeric
def test_training_without_coordinates_equals_stock_sb3_bit_for_bit():
    plain = {"features_extractor_kwargs": {"coord_layers": ()}, "net_arch": []}
    weights = []
    for kwargs in ({}, {"features_extractor_class": CoordConvNatureCNN, **plain}):
        env = FakeImageEnv(screen_height=40, screen_width=40, n_channels=3)
        env.observation_space.seed(2)
        model = PPO("CnnPolicy", env, device="cpu", n_steps=32, batch_size=32, seed=2, policy_kwargs=kwargs)
        env.observation_space.seed(2)
        weights.append(list(model.learn(64).policy.parameters()))
    for a, b in zip(*weights, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("layers", "where"), [((0,), [1, 0, 0]), ([1, 2], [0, 1, 1]), ((2, 0), [1, 0, 1])])
def test_coord_layers_say_which_convolutions_see_coordinates(layers, where):
    extractor = CoordConvNatureCNN(IMAGES, coord_layers=layers, with_r=True)
    assert conv_classes(extractor) == [CoordConv2d if chosen else nn.Conv2d for chosen in where]
    assert extractor(torch.rand(2, 4, 84, 84)).shape == (2, 512)
    assert all(layer.with_r for layer in extractor.modules() if isinstance(layer, CoordConv2d))


def test_impala_has_15_convolutions_in_the_order_of_the_forward_pass():
    extractor = CoordConvImpalaCNN(IMAGES, coord_layers=range(15))
    assert conv_classes(extractor) == [CoordConv2d] * 15
    called = []
    for name, layer in extractor.named_modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda *_, name=name: called.append(name))
    assert extractor(torch.rand(1, 4, 84, 84)).shape == (1, 256)
    assert called == list(coord_weight_ratios(extractor))
    assert conv_classes(CoordConvImpalaCNN(IMAGES, coord_layers=())) == [nn.Conv2d] * 15
    # Espeholt et al.: 16, 32, 32 channels and a dense layer from 11 x 11 x 32.
    assert extractor.linear[0].in_features == 11 * 11 * 32


@pytest.mark.parametrize("layers", [(3,), (-1,), (0, 0), ("first",), (0.5,)])
@pytest.mark.parametrize("extractor", [CoordConvNatureCNN])
def test_coord_layers_that_are_not_there_are_refused(extractor, layers):
    with pytest.raises(UserError, match="use different numbers from 0 to 2"):
        extractor(IMAGES, coord_layers=layers)


@pytest.mark.parametrize("extractor", [CoordConvNatureCNN, CoordConvImpalaCNN])
def test_spaces_that_are_not_images_get_the_error_sb3_users_know(extractor):
    with pytest.raises(AssertionError, match=r"(?s)You should use .* only with images.*MlpPolicy"):
        extractor(spaces.Box(0, 1, (4,)))
    floats = spaces.Box(0, 1, (3, 40, 40))
    assert extractor(floats, normalized_image=True)(torch.rand(1, 3, 40, 40)).shape[0] == 1


# Every algorithm and every extractor once, not each with each.
WITH_ALL = [
    ("A2C", "coordconv-impala"),
    ("PPO", "coordconv"),
    ("PPO", "coordconv-nature-pool"),
    ("DQN", "coordconv-impala-pool"),
    ("QRDQN", "coordconv"),
]


@pytest.mark.parametrize(("name", "extractor"), WITH_ALL)
def test_algorithms_learn_save_and_load(name, extractor, tmp_path):
    algorithm, options = ALGORITHMS[name]
    kwargs = policy_kwargs(extractor, features_dim=16, with_r=True)
    env = FakeImageEnv(screen_height=40, screen_width=40, n_channels=1)
    model = algorithm("CnnPolicy", env, device="cpu", policy_kwargs=kwargs, seed=1, **options).learn(150)
    observation = VecTransposeImage(DummyVecEnv([lambda: env])).reset()
    expected = model.predict(observation, deterministic=True)[0]
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", device="cpu")
    assert np.array_equal(loaded.predict(observation, deterministic=True)[0], expected)
    ratios = coord_weight_ratios(loaded.policy)
    assert 0 < max(ratios.values()) < 1  # a target network may not have moved yet


def test_coordinates_drawn_for_several_layers_of_one_shape_differ():
    network = nn.Sequential(*(nn.Conv2d(4, 4, 3) for _ in range(3)))
    state = torch.get_rng_state()
    see_coordinates(network, [0, 1, 2], coord_init="concat")
    assert torch.equal(torch.get_rng_state(), state)
    first, second, third = (layer.coord_weight for layer in network)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


PLAIN = {
    "coordconv": "cnn",
    "coordconv-nature-pool": "nature-pool",
    "coordconv-impala": "impala",
    "coordconv-impala-pool": "impala-pool",
}


@pytest.mark.parametrize("coord_init", ["zeros", "concat"])
@pytest.mark.parametrize(("algorithm", "extractor"), [(PPO, "coordconv"), (A2C, "coordconv-nature-pool")])
@pytest.mark.numeric
def test_with_one_seed_both_arms_start_as_the_same_network(algorithm, extractor, coord_init):
    policies = []
    for name, options in ((PLAIN[extractor], {}), (extractor, {"coord_init": coord_init})):
        env = FakeImageEnv(screen_height=40, screen_width=40, n_channels=3)
        kwargs = policy_kwargs(name, **options)
        policies.append(algorithm("CnnPolicy", env, device="cpu", seed=7, policy_kwargs=kwargs).policy)
    plain, ours = (policy.state_dict() for policy in policies)
    added = {name for name in ours if name.endswith("coord_weight")}
    assert added
    assert set(ours) - added == set(plain)
    for name, values in plain.items():
        assert torch.equal(values, ours[name]), name
    if coord_init == "zeros":
        images = torch.randint(0, 255, (4, 3, 40, 40), dtype=torch.uint8)
        with torch.no_grad():
            results = []
            for policy in policies:
                torch.manual_seed(0)
                results.append([policy.extract_features(images), *policy(images)])
        for one, other in zip(*results, strict=True):
            assert torch.equal(one, other)
    else:
        # Orthogonal over the literal weight: coordinates are 2 of 5 channels (first layer) or 2 of 66 (last).
        share = 2 / 5 if extractor == "coordconv" else 2 / 66
        coords = ours[sorted(added)[0]]
        assert float(coords.square().sum() / len(coords)) == pytest.approx(2 * share, rel=0.3)


def test_the_actor_alone_sees_coordinates_and_starts_as_the_plain_network(tmp_path):
    models = []
    for policy, name in (("CnnPolicy", "cnn"), (CoordActorPolicy, "coordconv")):
        env = FakeImageEnv(screen_height=40, screen_width=40, n_channels=3)
        kwargs = {**policy_kwargs(name), "share_features_extractor": False}
        models.append(PPO(policy, env, device="cpu", n_steps=16, batch_size=16, seed=7, policy_kwargs=kwargs))
    plain, ours = (model.policy.state_dict() for model in models)
    names = {f"{prefix}features_extractor.cnn.0.coord_weight" for prefix in ("", "pi_")}
    assert set(ours) - set(plain) == names
    for name, values in plain.items():
        assert torch.equal(values, ours[name]), name
    model = models[1].learn(32)
    assert list(coord_weight_ratios(model.policy)) == ["cnn.0"]
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", device="cpu")
    assert isinstance(loaded.policy, CoordActorPolicy)
    for name, values in model.policy.state_dict().items():
        assert torch.equal(values, loaded.policy.state_dict()[name]), name


@pytest.mark.parametrize("extractor", ["nature-pool", "cnn"])
def test_an_actor_without_coordinates_is_refused(extractor):
    with pytest.raises(UserError, match="CoordActorPolicy needs an extractor with coordinates, not"):
        from_spaces(
            PPO, IMAGES, spaces.Discrete(4), policy=CoordActorPolicy, policy_kwargs=policy_kwargs(extractor)
        )


@pytest.mark.parametrize("name", EXTRACTORS)
def test_every_name_makes_an_extractor_that_runs(name):
    kwargs = policy_kwargs(name)
    extractor = kwargs["features_extractor_class"](IMAGES, **kwargs["features_extractor_kwargs"])
    assert extractor(torch.rand(2, 4, 84, 84)).shape == (2, extractor.features_dim)
    has_coordinates = any(isinstance(layer, CoordConv2d) for layer in extractor.modules())
    assert has_coordinates == name.startswith("coordconv")
    assert kwargs["net_arch"] == []


@pytest.mark.parametrize("pool", ["max", "average"])
def test_pooling_throws_position_away_and_coordinates_bring_it_back(pool):
    square = torch.zeros(2, 4, 84, 84, dtype=torch.float64)
    square[0, :, 30:42, 30:42] = 1
    square[1, :, 38:50, 38:50] = 1  # moved by the stride of the whole network, seen by as many windows
    torch.manual_seed(0)
    here, there = CoordConvNaturePool(IMAGES, coord_layers=(), pool=pool).double()(square)
    torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-9)
    literal = {"coord_init": "concat", "coord_scale": 1.0}
    here, there = CoordConvNaturePool(IMAGES, pool=pool, **literal).double()(square)
    assert (here - there).abs().max() > 1e-4


def test_pooled_networks_are_small():
    def count(extractor: nn.Module) -> int:
        return sum(parameter.numel() for parameter in extractor.parameters())

    assert count(NatureCNN(IMAGES)) == 1_684_128
    assert count(CoordConvNaturePool(IMAGES, coord_layers=())) == 111_264
    assert count(CoordConvNaturePool(IMAGES)) == 111_264 + 64 * 2 * 9
    assert count(CoordConvNaturePool(IMAGES, width=2, coord_layers=())) > 3 * 111_264
    # Impoola's head is 32 x 256 instead of 11 x 11 x 32 x 256.
    flat, pooled = CoordConvImpalaCNN(IMAGES, coord_layers=()), CoordConvImpalaPool(IMAGES, coord_layers=())
    assert count(flat) - count(pooled) == (11 * 11 - 1) * 32 * 256


def test_an_extractor_of_ones_own_is_one_line(monkeypatch):
    class Wide(NatureCNN):
        def __init__(self, observation_space, features_dim=64, spread=1, width=0.5):
            super().__init__(observation_space, features_dim * spread)

    monkeypatch.setitem(EXTRACTORS, "wide", Extractor(Wide))
    config = config_from_dict(
        {"game": "Pong", "extractor": "wide", "features_dim": 8, "extractor_kwargs": {"spread": 2}}, "here"
    )
    assert config_from_dict(config.to_dict(), "a run's folder") == config, "what it writes is read back"
    kwargs = policy_kwargs(config.extractor, **config.extractor_options)
    env = FakeImageEnv(screen_height=40, screen_width=40, n_channels=1)
    assert PPO("CnnPolicy", env, device="cpu", policy_kwargs=kwargs).policy.features_dim == 16
    with pytest.raises(UserError, match=r"extractor 'wide' has no option 'with_r': it takes .*spread"):
        policy_kwargs("wide", with_r=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"extractor": "coordcov"},
            "unknown extractor 'coordcov': use one of cnn, .*mean 'coordconv'",
        ),
        ({"extractor": "cnn", "coord_layers": [0]}, "extractor 'cnn' has no option 'coord_layers': it takes"),
        ({"extractor": "nature-pool", "coord_scale": 1.0}, "has no option 'coord_scale'"),
        ({"extractor": "coordconv", "pool": "max"}, "has no option 'pool'"),
        ({"extractor": "nature-pool", "pool": "min"}, "pool is 'min': it must be one of average, max|pool"),
        ({"extractor": "impala-pool", "width": 0}, "width is 0: it must be"),
        ({"extractor": "impala-pool", "width": 5_000}, "out of memory.*: lower features_dim, or width"),
        ({"extractor": "coordconv", "coord_scale": 0.0}, "coord_scale is 0"),
        (
            {"extractor": "coordconv", "extractor_kwargs": {"features_dim": 8}},
            "give features_dim as one of its own",
        ),
        ({"extractor": "coordconv", "coord_critic": False}, "needs share_features_extractor false"),
        (
            {"extractor": "cnn", "coord_critic": False, "share_features_extractor": False},
            "needs an extractor with coordinates, not cnn",
        ),
        (
            {"extractor": "coordconv", "coord_layers": [3]},
            "coord_layers is .3.: use different numbers",
        ),
    ],
)
def test_options_that_an_extractor_cannot_have_are_one_line(options, message):
    with pytest.raises(UserError, match=message):
        config_from_dict({"game": "Pong", **options}, "here")


@pytest.mark.parametrize("extractor", [CoordConvNaturePool, CoordConvImpalaPool])
def test_images_that_are_too_small_are_one_line(extractor):
    small = spaces.Box(0, 255, (4, 20, 20), np.uint8)
    if extractor is CoordConvImpalaPool:  # pads, so that one pixel is enough
        assert extractor(small)(torch.rand(1, 4, 20, 20)).shape == (1, 256)
    else:
        with pytest.raises(UserError, match="CoordConvNaturePool needs larger images than 20 x 20"):
            extractor(small)


def test_small_images_and_other_spaces_say_what_is_needed():
    images = spaces.Box(0, 255, (4, 36, 36), np.uint8)
    assert CoordConvNatureCNN(images)(torch.rand(1, 4, 36, 36)).shape == (1, 512)
    for space, message in (
        (spaces.Box(0, 255, (1, 35, 80), np.uint8), "images of 36 x 36 or more, channels first, not 35 x 80"),
        (spaces.Dict({"image": images}), "for Dict observations give CoordConvCombinedExtractor"),
    ):
        with pytest.raises(UserError, match=message):
            CoordConvNatureCNN(space)
    for space, message in (
        (images, "is for Dict observations: give CoordConvNatureCNN"),
        (spaces.Dict({"speed": spaces.Box(-1, 1, (3,))}), "needs an image among speed"),
    ):
        with pytest.raises(UserError, match=message):
            CoordConvCombinedExtractor(space)


def test_numbers_of_numpy_are_numbers_and_other_types_are_one_line():
    images = spaces.Box(0, 255, (4, 40, 40), np.uint8)
    for layers in (np.array([0, 2]), [np.int64(0), 2]):
        found = CoordConvNatureCNN(images, coord_layers=layers, coord_scale=np.float32(0.5))
        assert [layer.coord_scale for layer in found.cnn if isinstance(layer, CoordConv2d)] == [0.5, 0.5]
    with pytest.raises(UserError, match="with_r is 'no': it must be true or false"):
        CoordConvNatureCNN(images, with_r="no")
    with pytest.raises(UserError, match="unknown pool 'None'"):
        CoordConvNaturePool(images, pool=None)


class ImageAndVector(gym.Env):
    """Shows a random image and a vector."""

    observation_space = spaces.Dict(
        {"image": spaces.Box(0, 255, (40, 36, 3), np.uint8), "vector": spaces.Box(-1, 1, (3,))}
    )
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        self.left = 8
        return self.observation_space.sample(), {}

    def step(self, action):
        self.left -= 1
        return self.observation_space.sample(), float(action == 1), self.left == 0, False, {}


def test_combined_extractor_handles_dict_observations(tmp_path):
    kwargs = {
        "features_extractor_class": CoordConvCombinedExtractor,
        "features_extractor_kwargs": {"cnn_output_dim": 16},
    }
    model = PPO(
        "MultiInputPolicy", ImageAndVector(), device="cpu", n_steps=32, batch_size=32, policy_kwargs=kwargs
    ).learn(64)
    assert model.policy.features_extractor.features_dim == 16 + 3
    assert list(coord_weight_ratios(model.policy)) == ["extractors.image.cnn.0"]
    model.save(tmp_path / "model")
    assert evaluate_policy(PPO.load(tmp_path / "model", device="cpu"), ImageAndVector(), 1, warn=False)


def test_normalize_images_false_reaches_the_extractor():
    class Floats(ImageAndVector):
        observation_space = spaces.Box(0, 1, (3, 40, 36), np.float32)

    kwargs = {"features_extractor_class": CoordConvNatureCNN, "normalize_images": False}
    PPO("CnnPolicy", Floats(), device="cpu", n_steps=32, batch_size=32, policy_kwargs=kwargs).learn(32)


@pytest.mark.parametrize("extractor", sorted(EXTRACTORS))
def test_images_that_are_floats_already_are_taken(extractor):
    space = spaces.Box(0.0, 1.0, (3, 40, 40), np.float32)
    kwargs = {**policy_kwargs(extractor, normalized_image=True), "normalize_images": False}
    policy = ActorCriticCnnPolicy(space, spaces.Discrete(2), lambda progress: 1e-3, **kwargs)
    assert policy.extract_features(torch.rand(2, 3, 40, 40)).shape[0] == 2


def test_dqn_target_network_follows_its_polyak_updates():
    # SB3 updates the target through .data, which leaves no trace in a version counter.
    kwargs = {
        "features_extractor_class": CoordConvNatureCNN,
        "features_extractor_kwargs": {"features_dim": 16},
    }
    env = FakeImageEnv(screen_height=40, screen_width=40, n_channels=1)
    model = DQN(
        "CnnPolicy", env, device="cpu", policy_kwargs=kwargs, target_update_interval=1, tau=0.5, **OFF_POLICY
    )
    images = torch.randint(0, 255, (4, 1, 40, 40), dtype=torch.uint8)
    for _ in range(2):
        with torch.no_grad():
            model.q_net_target(images)
        model.learn(150, reset_num_timesteps=False)
        with torch.no_grad():
            # A copy has no cache.
            assert torch.equal(model.q_net_target(images), copy.deepcopy(model.q_net_target)(images))


def test_an_extractor_that_hands_on_its_arguments_takes_its_parent_s(monkeypatch):
    class Scaled(CoordConvNatureCNN):
        def __init__(self, observation_space, gain: float = 1.0, **kwargs):
            super().__init__(observation_space, **kwargs)
            self.gain = gain

    monkeypatch.setitem(EXTRACTORS, "scaled", Extractor(Scaled))
    kwargs = policy_kwargs("scaled", features_dim=64, gain=2.0)["features_extractor_kwargs"]
    assert kwargs == {"features_dim": 64, "gain": 2.0}
    assert {"gain", "features_dim", "coord_scale"} <= {*EXTRACTORS["scaled"].options}
    config = config_from_dict(
        {"game": "Pong", "extractor": "scaled", "extractor_kwargs": {"gain": 3.0}}, "here"
    )
    assert config.extractor_options["gain"] == 3.0
    with pytest.raises(UserError, match="has no option 'kwargs': it takes features_dim"):
        policy_kwargs("scaled", kwargs={})
