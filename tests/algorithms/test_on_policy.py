"""The fast PPO and A2C against Stable-Baselines3's own, on real games."""

from __future__ import annotations

import contextlib
import copy
import functools
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch
from fast_models import FAST, POLICY, PPO_SIZE, TF_STYLE, keep_each_frame_once, learn, parameters
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.vec_env import VecEnv

from rl_coordconv import CoordActorPolicy, make_atari_vec_env
from rl_coordconv.algorithms import A2C, PPO, on_policy
from rl_coordconv.algorithms.buffer import DeviceRolloutBuffer
from rl_coordconv.algorithms.losses import log_prob_and_entropy

PAIRS = [(PPO, stable_baselines3.PPO, PPO_SIZE), (A2C, stable_baselines3.A2C, {})]
# SB3's TF-style RMSprop is what our configs use; the fused Adam sums in another order.
UNFUSED_PPO: dict[str, Any] = {**POLICY, "optimizer_kwargs": {"fused": False}}
UNFUSED: dict[Any, dict[str, Any]] = {PPO: UNFUSED_PPO, A2C: {**POLICY, **TF_STYLE}}


@functools.cache
def stock(ours: Any) -> OnPolicyAlgorithm:
    """Return SB3's own, trained once for all switches of ours."""
    [(theirs, size)] = [(theirs, size) for model_class, theirs, size in PAIRS if model_class is ours]
    return learn(theirs, 192, policy_kwargs=UNFUSED[ours], **size)


@pytest.mark.parametrize(("ours", "size"), [(ours, size) for ours, _, size in PAIRS])
@pytest.mark.parametrize(
    "switches", [{}, {"buffer": "device"}, {"buffer": "device", "each_frame_once": True}]
)
@pytest.mark.numeric
def test_same_weights_and_log_as_sb3_to_the_bit(
    ours: Any, size: dict[str, Any], switches: dict[str, Any]
) -> None:
    one, other = learn(ours, 192, policy_kwargs=UNFUSED[ours], **switches, **size), stock(ours)
    assert torch.equal(parameters(one), parameters(other))
    assert one.logger.name_to_value == other.logger.name_to_value
    assert one._n_updates == other._n_updates


# Relative to the norm, for each parameter. Seen: gradients 1e-6 in fp32, 3e-2 in bf16.
@pytest.mark.parametrize(("precision", "outputs", "gradients"), [("fp32", 1e-5, 1e-4), ("bf16", 2e-2, 1e-1)])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.numeric
def test_gradient_of_a_minibatch_is_that_of_float64(
    env: VecEnv,
    monkeypatch: pytest.MonkeyPatch,
    channels_last: bool,
    precision: str,
    outputs: float,
    gradients: float,
) -> None:
    """Weights after Adam are ill conditioned: it turns rounding of gradients near 0 into steps."""
    monkeypatch.setattr(on_policy, "why_no_bf16", lambda device: "")  # emulated where there are no units
    switches = {"buffer": "device", "channels_last": channels_last, "precision": precision}
    model = PPO("CnnPolicy", env, seed=1, device="cpu", policy_kwargs=POLICY, **switches, **PPO_SIZE)
    frames = torch.as_tensor(np.random.default_rng(0).integers(0, 256, (16, 4, 84, 84), dtype=np.uint8))
    actions, coefficients = torch.arange(16) % 4, torch.linspace(-1, 1, 48).view(3, 16)
    assert model.network is not None
    logits, values = model.network(frames)
    found = torch.stack([*log_prob_and_entropy(logits, actions), values])
    (coefficients * found).sum().backward()
    policy = copy.deepcopy(model.policy).double()
    policy.zero_grad()
    actor, critic = policy.mlp_extractor(policy.features_extractor(frames.double() / 255))
    categorical = torch.distributions.Categorical(logits=policy.action_net(actor))
    values = policy.value_net(critic).flatten()
    expected = torch.stack([categorical.log_prob(actions), categorical.entropy(), values])
    (coefficients * expected).sum().backward()
    assert (found.double() - expected).norm() <= outputs * expected.norm()
    for ours, exact in zip(model.policy.parameters(), policy.parameters(), strict=True):
        assert ours.grad is not None
        assert exact.grad is not None
        assert (ours.grad.double() - exact.grad).norm() <= gradients * exact.grad.norm()


def test_a_copy_of_the_policy_computes_with_its_own_weights(env: VecEnv) -> None:
    model = PPO("CnnPolicy", env, device="cpu", policy_kwargs=POLICY, **PPO_SIZE, **FAST)
    model.learn(64)
    twin = copy.deepcopy(model.policy)
    frames = torch.as_tensor(env.reset())
    before = model.policy.predict_values(frames)
    assert torch.equal(twin.predict_values(frames), before)
    with torch.no_grad():
        for weight in twin.features_extractor.parameters():
            weight.zero_()
    assert not torch.equal(twin.predict_values(frames), before)
    assert torch.equal(model.policy.predict_values(frames), before)


def test_halves_choose_the_same_actions() -> None:
    rollouts = []
    for halves in (False, True):
        model = learn(
            PPO, 64, halves=halves, n_steps=16, batch_size=16, n_epochs=1, learning_rate=0.0, **FAST
        )
        rollouts.append(model.rollout_buffer)
    whole, halved = rollouts
    assert np.array_equal(whole.actions, halved.actions)
    for name in ("values", "log_probs", "advantages"):
        np.testing.assert_allclose(getattr(halved, name), getattr(whole, name), atol=1e-5)


class StopsAt(BaseCallback):
    """Stop, or break off, at the fifth step."""

    def __init__(self, error: type[BaseException] | None) -> None:
        super().__init__()
        self.error = error

    def _on_step(self) -> bool:
        if self.n_calls == 5 and self.error is not None:
            raise self.error
        return self.n_calls < 5


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_training_goes_on_after_a_callback_has_stopped_it(
    halves: bool, error: type[BaseException] | None
) -> None:
    env = make_atari_vec_env("Breakout", n_envs=4, seed=3, halves=halves)
    model = PPO("CnnPolicy", env, seed=3, device="cpu", policy_kwargs=POLICY, **PPO_SIZE, **FAST)
    assert isinstance(model.rollout_buffer, DeviceRolloutBuffer)
    keep_each_frame_once(model.rollout_buffer)
    with pytest.raises(error) if error else contextlib.nullcontext():
        model.learn(64, callback=StopsAt(error))
    # It compares every observation of its first whole rollout with the one before.
    model.learn(64, reset_num_timesteps=False)
    assert model.rollout_buffer.full
    env.close()


@pytest.mark.parametrize(
    "extras", [{"clip_range_vf": 0.05}, {"target_kl": 1e-5}, {"normalize_advantage": False}]
)
@pytest.mark.numeric
def test_same_weights_and_log_as_sb3_to_the_bit_with_further_options(extras: dict[str, Any]) -> None:
    size = {**PPO_SIZE, "learning_rate": 1e-2}  # so that the second epoch is further away than target_kl
    one = learn(PPO, 128, policy_kwargs=UNFUSED_PPO, buffer="device", **extras, **size)
    other = learn(stable_baselines3.PPO, 128, policy_kwargs=UNFUSED_PPO, **extras, **size)
    assert torch.equal(parameters(one), parameters(other))
    assert one.logger.name_to_value == other.logger.name_to_value
    stopped_early = one._n_updates < 2 * PPO_SIZE["n_epochs"]
    assert stopped_early == ("target_kl" in extras)


@pytest.mark.parametrize(("ours", "theirs", "size"), PAIRS)
@pytest.mark.parametrize("policy", ["CnnPolicy", CoordActorPolicy])
@pytest.mark.numeric
def test_same_weights_as_sb3_to_the_bit_with_an_extractor_for_each_head(
    ours: Any, theirs: Any, size: dict[str, Any], policy: Any
) -> None:
    kwargs = {**UNFUSED[ours], "share_features_extractor": False}
    one = learn(ours, 128, policy=policy, policy_kwargs=kwargs, buffer="device", **size)
    assert one.network is not None
    other = learn(theirs, 128, policy=policy, policy_kwargs=kwargs, **size)
    assert torch.equal(parameters(one), parameters(other))
    critic = {name for name in one.policy.state_dict() if name.startswith("vf_features_extractor.")}
    assert any(name.endswith("coord_weight") for name in critic) == (policy == "CnnPolicy")


def test_a_policy_of_ones_own_is_left_to_sb3() -> None:
    class Mine(ActorCriticCnnPolicy):
        pass

    one = learn(PPO, 64, policy=Mine, policy_kwargs=POLICY, buffer="device", **PPO_SIZE)
    assert one.network is None
    other = learn(stable_baselines3.PPO, 64, policy=Mine, policy_kwargs=POLICY, **PPO_SIZE)
    for name in ("actions", "values", "log_probs", "advantages"):
        found, expected = getattr(one.rollout_buffer, name), getattr(other.rollout_buffer, name)
        # SB3's buffer has been flattened by its update, environment by environment.
        assert np.array_equal(RolloutBuffer.swap_and_flatten(found).ravel(), expected.ravel()), name
