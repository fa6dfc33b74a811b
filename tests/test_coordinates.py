"""Coordinates given to trained models, and states of the time before they were parameters of their own."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from rl_coordconv import PPO as FastPPO
from rl_coordconv import CoordConv2d, UserError, add_coordinates, policy_kwargs
from rl_coordconv.coordinates import coord_weight_ratios, split_optimizer_state

TF_STYLE = {"optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"eps": 1e-5}}
TRAINED = {
    "PPO": (PPO, {"n_steps": 32, "batch_size": 32, "n_epochs": 2}, {}),
    "A2C": (A2C, {}, TF_STYLE),
    "DQN": (DQN, {"buffer_size": 200, "learning_starts": 20}, {}),
    "PPO with IMPALA": (
        PPO,
        {"n_steps": 32, "batch_size": 32, "n_epochs": 1},
        policy_kwargs("impala", features_dim=16),
    ),
}
FRAMES = np.random.default_rng(0).integers(0, 255, (8, 1, 40, 40), dtype=np.uint8)


def make_env() -> FakeImageEnv:
    return FakeImageEnv(screen_height=40, screen_width=40, n_channels=1)


@pytest.mark.parametrize("name", TRAINED)
def test_a_trained_model_acts_as_before_keeps_its_optimizer_and_learns_on(name: str, tmp_path: Any) -> None:
    algorithm, options, kwargs = TRAINED[name]
    model = algorithm("CnnPolicy", make_env(), device="cpu", seed=1, policy_kwargs=kwargs, **options).learn(
        64
    )
    model.policy.set_training_mode(False)
    before = model.predict(FRAMES, deterministic=True)[0]
    parameters = dict(model.policy.named_parameters())
    states = {
        key: copy.deepcopy(model.policy.optimizer.state.get(value)) for key, value in parameters.items()
    }
    assert add_coordinates(model, coord_layers=[0, 1], with_r=True) is model
    assert np.array_equal(model.predict(FRAMES, deterministic=True)[0], before)
    assert set(coord_weight_ratios(model.policy).values()) == {0.0}
    trained = 0
    for key, value in model.policy.named_parameters():
        now = model.policy.optimizer.state.get(value)
        if key.endswith("coord_weight"):
            assert not now
        elif states[key]:
            trained += 1
            assert torch.equal(value, parameters[key])
            assert all(np.array_equal(now[entry], states[key][entry]) for entry in now)
    assert trained >= 8
    model.save(tmp_path / "model")
    again = algorithm.load(tmp_path / "model", env=make_env(), device="cpu")
    assert np.array_equal(again.predict(FRAMES, deterministic=True)[0], before)
    for learner in (model, again):
        learner.learn(64)
        assert any(ratio > 0 for ratio in coord_weight_ratios(learner.policy).values())


class Mine(BaseFeaturesExtractor):
    """Takes the option, but is built otherwise than the package's extractors."""

    def __init__(self, observation_space: gym.Space, coord_layers: Sequence[int] = ()) -> None:
        super().__init__(observation_space, features_dim=4)
        self.linear = nn.Linear(math.prod(observation_space.shape or ()), 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(images.flatten(1))


def test_models_that_cannot_see_coordinates_are_left_as_they_are() -> None:
    model = PPO("CnnPolicy", make_env(), device="cpu", n_steps=32, policy_kwargs=policy_kwargs("coordconv"))
    with pytest.raises(UserError, match="sees coordinates already"):
        add_coordinates(model)
    with pytest.raises(UserError, match="extractor FlattenExtractor cannot be given coordinates: it must be"):
        add_coordinates(PPO("MlpPolicy", "CartPole-v1"))
    with pytest.raises(UserError, match=r"an SB3 algorithm, .* not a ActorCriticPolicy"):
        add_coordinates(PPO("MlpPolicy", "CartPole-v1").policy)  # type: ignore[type-var]
    mine = {"features_extractor_class": Mine}
    other = PPO("CnnPolicy", make_env(), device="cpu", n_steps=32, policy_kwargs=mine)
    with pytest.raises(UserError, match="extractor Mine cannot be given coordinates"):
        add_coordinates(other)
    with pytest.raises(UserError, match="SAC has an optimizer for each network"):
        add_coordinates(SAC("MlpPolicy", "Pendulum-v1"))
    plain = PPO("CnnPolicy", make_env(), device="cpu", n_steps=32)
    with pytest.raises(UserError, match=r"coord_layers is 0: give a list, e.g. \[0\]"):
        add_coordinates(plain, coord_layers=0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"coord_layers is .5.: use different numbers from 0 to 2"):
        add_coordinates(plain, coord_layers=[5])
    with pytest.raises(UserError, match="coord_layers is empty"):
        add_coordinates(plain, coord_layers=[])
    assert not any(isinstance(module, CoordConv2d) for module in plain.policy.modules())


@pytest.mark.parametrize(
    ("algorithm", "options", "scale"),
    [(A2C, {}, 1 / 8), (PPO, {}, 1 / 64), (PPO, {"optimizer_class": torch.optim.SGD}, 1 / 8)],
)
def test_coordinates_get_the_scale_that_suits_the_optimizer(
    algorithm: Any, options: dict[str, Any], scale: float
) -> None:
    options = options and {"policy_kwargs": {**options, "optimizer_kwargs": {}}}
    model = add_coordinates(algorithm("CnnPolicy", make_env(), n_steps=8, device="cpu", **options))
    layer = model.policy.features_extractor.cnn[0]
    assert isinstance(layer, CoordConv2d)
    assert float(layer.coord_scale) == scale


def test_what_is_frozen_stays_frozen() -> None:
    model = PPO("CnnPolicy", make_env(), n_steps=32, device="cpu")
    for parameter in model.policy.features_extractor.parameters():
        parameter.requires_grad_(False)
    add_coordinates(model)
    learns = [
        name for name, value in model.policy.features_extractor.named_parameters() if value.requires_grad
    ]
    assert learns == ["cnn.0.coord_weight"]


def test_a_model_that_is_refused_halfway_is_as_it_was() -> None:
    two_groups = PPO("CnnPolicy", make_env(), n_steps=32, device="cpu")
    [group] = two_groups.policy.optimizer.param_groups
    two_groups.policy.optimizer.add_param_group({"params": [group["params"].pop()]})
    with pytest.raises(UserError, match="optimizer has 2 groups of parameters: it must have one"):
        add_coordinates(two_groups)

    class Own(nn.Conv2d):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) + 1

    second_is_own = PPO("CnnPolicy", make_env(), n_steps=32, device="cpu")
    network = second_is_own.policy.features_extractor.cnn
    network[2] = Own(32, 64, 4, 2)
    with pytest.raises(UserError, match="a Own is no plain convolution"):
        add_coordinates(second_is_own, [0, 1])
    for model in (two_groups, second_is_own):
        assert not coord_weight_ratios(model.policy)


@pytest.mark.parametrize("kind", [torch.optim.Adam, RMSpropTFLike])
@pytest.mark.numeric
def test_optimizer_state_of_a_literal_weight_splits(kind: Any) -> None:
    """One literal convolution, trained; its state in two parts goes on as the literal one does."""
    torch.manual_seed(0)
    literal = torch.nn.Sequential(torch.nn.Conv2d(5, 4, 3), torch.nn.Conv2d(4, 2, 3)).double()
    ours = torch.nn.Sequential(CoordConv2d(3, 4, 3), torch.nn.Conv2d(4, 2, 3)).double()
    images = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=torch.float64) for n in (9, 8)), indexing="ij")
    with_coordinates = torch.cat([images, torch.stack([x, y]).expand(2, -1, -1, -1)], 1)

    def step(network: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: torch.Tensor) -> None:
        optimizer.zero_grad()
        network(batch).square().sum().backward()
        optimizer.step()

    old = kind(literal.parameters(), lr=0.01)
    for _ in range(3):
        step(literal, old, with_coordinates)
    ours.load_state_dict(literal.state_dict())
    new = kind(ours.parameters(), lr=0.5)
    new.load_state_dict(split_optimizer_state(ours, copy.deepcopy(old.state_dict())))
    assert split_optimizer_state(ours, new.state_dict()) == new.state_dict()
    for _ in range(3):
        step(literal, old, with_coordinates)
        step(ours, new, images)
    torch.testing.assert_close(ours[0].concat_weight(), literal[0].weight, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours[1].weight, literal[1].weight, rtol=1e-9, atol=1e-9)


def test_an_optimizer_of_several_groups_is_left_as_it_is() -> None:
    policy = nn.Sequential(CoordConv2d(2, 3, 3), nn.Linear(2, 2))
    groups = [{"params": list(part.parameters())} for part in policy]
    state = torch.optim.Adam(groups).state_dict()
    assert split_optimizer_state(policy, state) is state


def test_the_fused_adam_goes_on_with_state_laid_out_as_the_new_weights() -> None:
    switches: dict[str, Any] = {"buffer": "device", "channels_last": True}
    model = FastPPO(
        "CnnPolicy", make_env(), device="cpu", n_steps=32, batch_size=32, n_epochs=1, **switches
    ).learn(64)
    add_coordinates(model)
    assert model.policy.features_extractor.cnn[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert len(model.policy.optimizer.state) >= 10
    for parameter, state in model.policy.optimizer.state.items():
        assert state["exp_avg"].stride() == state["exp_avg_sq"].stride() == parameter.stride()
    before = model.policy.features_extractor.cnn[0].coord_weight.clone()
    model.learn(64)
    assert not torch.equal(model.policy.features_extractor.cnn[0].coord_weight, before)


def test_graphs_recorded_with_the_old_parameters_are_forgotten() -> None:
    model = FastPPO("CnnPolicy", make_env(), device="cpu", n_steps=32, buffer="device")
    for captured in (model.captured_act, model.captured_minibatch):
        captured.recordings["shapes"] = object()
    add_coordinates(model)
    assert not model.captured_act.recordings
    assert not model.captured_minibatch.recordings
