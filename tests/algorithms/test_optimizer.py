"""Optimizers: kernels, options, and states that go from one kind of model to the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch
from fast_models import FAST, POLICY, PPO_SIZE, learn
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import VecEnv

from rl_coordconv.algorithms import PPO
from rl_coordconv.algorithms.buffer import DeviceRolloutBuffer
from rl_coordconv.algorithms.rmsprop import ForeachRMSpropTFLike


@pytest.mark.parametrize("kwargs", [{}, {"momentum": 0.9}, {"centered": True}, {"weight_decay": 0.1}])
@pytest.mark.numeric
def test_rmsprop_on_the_gpu_is_that_of_sb3(kwargs: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(20, 10), torch.nn.Linear(20, 10)]
    layers[1].load_state_dict(layers[0].state_dict())
    optimizers = [
        kind(layer.parameters(), lr=0.01, eps=1e-5, **kwargs)
        for kind, layer in zip((RMSpropTFLike, ForeachRMSpropTFLike), layers, strict=True)
    ]
    for _ in range(5):
        images = torch.randn(4, 20)
        for layer, optimizer in zip(layers, optimizers, strict=True):
            optimizer.zero_grad()
            layer(images).square().sum().backward()
            optimizer.step()
    assert torch.equal(layers[0].weight, layers[1].weight)
    theirs, ours = (optimizer.state_dict() for optimizer in optimizers)
    assert theirs["param_groups"] == ours["param_groups"]
    for index, values in theirs["state"].items():
        assert values["step"] == ours["state"][index]["step"] == 5
        assert torch.equal(values["square_avg"], ours["state"][index]["square_avg"])


@pytest.mark.parametrize("kernel", [{"foreach": True}, {"foreach": False}, {"fused": False}])
def test_a_kernel_that_the_caller_chose_stays(env: VecEnv, kernel: dict[str, bool]) -> None:
    policy = {**POLICY, "optimizer_kwargs": kernel}
    model = PPO("CnnPolicy", env, device="cpu", policy_kwargs=policy, buffer="device", **PPO_SIZE)
    model.learn(64)
    [group] = model.policy.optimizer.param_groups
    assert group["fused"] is (False if "fused" in kernel else None)
    assert group["foreach"] is kernel.get("foreach")


@pytest.mark.parametrize("kwargs", [None, {}, {"weight_decay": 0.1}, {"eps": 1e-3}])
def test_optimizer_options_are_those_of_sb3(env: VecEnv, kwargs: dict[str, Any] | None) -> None:
    policy = {**POLICY, "optimizer_kwargs": kwargs}
    ours = PPO("CnnPolicy", env, device="cpu", policy_kwargs=policy, buffer="device", **PPO_SIZE)
    theirs = stable_baselines3.PPO("CnnPolicy", env, device="cpu", policy_kwargs=policy, **PPO_SIZE)
    [found], [expected] = (model.policy.optimizer.state_dict()["param_groups"] for model in (ours, theirs))
    assert found == {**expected, "fused": True}


def unfused_update(model: OnPolicyAlgorithm, gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return what a plain Adam with the model's state adds to its parameters."""
    weights = [p.detach().clone(memory_format=torch.contiguous_format) for p in model.policy.parameters()]
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    eps = model.policy.optimizer.param_groups[0]["eps"]
    optimizer = torch.optim.Adam(weights, lr=1e-3, eps=eps, fused=False, foreach=False)
    for weight, state in zip(weights, model.policy.optimizer.state.values(), strict=True):
        optimizer.state[weight] = {name: value.clone().contiguous() for name, value in state.items()}
    optimizer.step()
    return [new - old.detach() for new, old in zip(weights, model.policy.parameters(), strict=True)]


STOCK = stable_baselines3.PPO
FORMATS: list[tuple[Any, dict[str, Any], Any, dict[str, Any]]] = [
    (PPO, FAST, STOCK, {}),
    (STOCK, {}, PPO, FAST),
    (PPO, FAST, PPO, {**FAST, "channels_last": False}),
    (PPO, {**FAST, "channels_last": False}, PPO, FAST),
    (PPO, FAST, PPO, {}),
]


@pytest.mark.parametrize(("before", "switches", "after", "new_switches"), FORMATS)
def test_zips_open_on_both_sides_and_training_goes_on_as_it_was(
    env: VecEnv,
    tmp_path: Path,
    before: Any,
    switches: dict[str, Any],
    after: Any,
    new_switches: dict[str, Any],
) -> None:
    observations = np.stack([env.observation_space.sample() for _ in range(8)])
    old = learn(before, 64, **PPO_SIZE, **switches)
    old.save(tmp_path / "model")
    model = after.load(tmp_path / "model", env=env, device="cpu", **new_switches)
    is_fast = new_switches.get("buffer", switches.get("buffer")) == "device" and after is PPO
    assert type(model.rollout_buffer) is (DeviceRolloutBuffer if is_fast else RolloutBuffer)
    expected = old.predict(observations, deterministic=True)[0]
    assert np.array_equal(model.predict(observations, deterministic=True)[0], expected)
    [group] = model.policy.optimizer.param_groups
    group["lr"] = 1e-3
    gradients = [torch.randn(p.shape) * 1e-3 for p in model.policy.parameters()]
    expected_updates = unfused_update(old, gradients)
    weights = [p.detach().clone() for p in model.policy.parameters()]
    for parameter, gradient in zip(model.policy.parameters(), gradients, strict=True):
        parameter.grad = torch.empty_like(parameter).copy_(gradient)
    model.policy.optimizer.step()
    for new, weight, update in zip(model.policy.parameters(), weights, expected_updates, strict=True):
        torch.testing.assert_close(new - weight, update, rtol=1e-3, atol=1e-6)
    assert group["fused"] is (True if is_fast else None)
    model.learn(64)
