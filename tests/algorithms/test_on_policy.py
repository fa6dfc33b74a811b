"""The fast PPO and A2C against Stable-Baselines3's own, on real games."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from rl_coordconv import CoordActorPolicy, CoordConvNatureCNN, make_atari_vec_env
from rl_coordconv.algorithms import A2C, PPO, on_policy
from rl_coordconv.algorithms.buffer import DeviceRolloutBuffer
from rl_coordconv.algorithms.frames import FrameStore
from rl_coordconv.algorithms.losses import log_prob_and_entropy
from rl_coordconv.algorithms.rmsprop import ForeachRMSpropTFLike

FAST: dict[str, Any] = {"channels_last": True, "buffer": "device"}
PPO_SIZE: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 2}
TF_STYLE = {"optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"eps": 1e-5}}
POLICY = {
    "features_extractor_class": CoordConvNatureCNN,
    "features_extractor_kwargs": {"features_dim": 64},
    "net_arch": [],
}


@pytest.fixture
def env() -> Iterator[VecEnv]:
    venv = make_atari_vec_env("Breakout", n_envs=4, seed=3)
    yield venv
    venv.close()


def keep_each_frame_once(buffer: DeviceRolloutBuffer) -> DeviceRolloutBuffer:
    """Keep frames as on a GPU."""
    size = (buffer.buffer_size, buffer.n_envs, buffer.obs_shape)
    buffer.frames = FrameStore(*size, torch.device("cpu"))
    return buffer


def parameters(model: OnPolicyAlgorithm) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.policy.parameters()])


def learn(
    model_class: Any,
    steps: int,
    *,
    policy: Any = "CnnPolicy",
    halves: bool = False,
    each_frame_once: bool = False,
    **kwargs: Any,
) -> OnPolicyAlgorithm:
    """Train on Breakout, where lives are lost every few steps."""
    env = make_atari_vec_env("Breakout", n_envs=4, seed=3, halves=halves)
    kwargs = {"policy_kwargs": POLICY, **kwargs}
    model = model_class(policy, env, seed=3, device="cpu", **kwargs)
    if each_frame_once:
        keep_each_frame_once(model.rollout_buffer)
    model.learn(steps)
    env.close()
    return model


STOCK_MODELS: dict[Any, OnPolicyAlgorithm] = {}
"""SB3's own, trained once for all switches of ours."""
PAIRS = [(PPO, stable_baselines3.PPO, PPO_SIZE), (A2C, stable_baselines3.A2C, {})]


@pytest.mark.parametrize(("ours", "theirs", "size"), PAIRS)
@pytest.mark.parametrize(
    "switches", [{}, {"buffer": "device"}, {"buffer": "device", "each_frame_once": True}]
)
@pytest.mark.numeric
def test_same_weights_and_log_as_sb3_to_the_bit(
    ours: Any, theirs: Any, size: dict[str, Any], switches: dict[str, Any]
) -> None:
    # SB3's TF-style RMSprop is what our configs use; the fused Adam sums in another order.
    unfused = {**POLICY, **(TF_STYLE if ours is A2C else {"optimizer_kwargs": {"fused": False}})}
    one = learn(ours, 192, policy_kwargs=unfused, **switches, **size)
    if theirs not in STOCK_MODELS:
        STOCK_MODELS[theirs] = learn(theirs, 192, policy_kwargs=unfused, **size)
    other = STOCK_MODELS[theirs]
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


def test_halves_choose_the_same_actions(env: VecEnv) -> None:
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


def fill(buffers: list[RolloutBuffer], env: VecEnv, rollouts: int) -> None:
    """Play at random, and give every buffer the same steps."""
    rng = np.random.default_rng(0)
    env.seed(5)
    observations: Any = env.reset()
    starts = np.ones(env.num_envs, dtype=bool)
    for _ in range(rollouts):
        for buffer in buffers:
            buffer.reset()
        for _ in range(buffers[0].buffer_size):
            actions = rng.integers(env.action_space.n, size=env.num_envs)  # type: ignore[attr-defined]
            following, rewards, dones, _ = env.step(actions)
            value, log_prob = torch.randn(env.num_envs, 1), torch.randn(env.num_envs)
            for buffer in buffers:
                buffer.add(observations, actions[:, None], rewards, starts, value, log_prob)
            observations, starts = following, dones
        for buffer in buffers:
            buffer.compute_returns_and_advantage(torch.zeros(env.num_envs), dones)


@pytest.mark.parametrize("each_frame_once", [False, True])
@pytest.mark.parametrize("backend", ["native", "gymnasium"])
def test_device_buffer_samples_what_sb3_samples(backend: str, each_frame_once: bool) -> None:
    env = make_atari_vec_env("Breakout", n_envs=3, backend=backend, seed=1)
    theirs, ours = (
        kind(100, env.observation_space, env.action_space, "cpu", 0.95, 0.99, n_envs=3)
        for kind in (RolloutBuffer, DeviceRolloutBuffer)
    )
    assert isinstance(ours, DeviceRolloutBuffer)
    if each_frame_once:
        keep_each_frame_once(ours)
    fill([theirs, ours], env, rollouts=2)
    env.close()
    assert theirs.episode_starts.sum() >= 3
    np.random.seed(0)
    expected = list(theirs.get(64))
    np.random.seed(0)
    for sample, reference in zip(ours.get(64), expected, strict=True):
        assert sample.observations.is_contiguous(memory_format=torch.channels_last)
        for name, value in sample._asdict().items():
            assert torch.equal(value, getattr(reference, name)), name


def test_device_buffer_memory_on_a_gpu(env: VecEnv) -> None:
    theirs, ours = (
        kind(128, env.observation_space, env.action_space, "cpu", n_envs=4)
        for kind in (RolloutBuffer, DeviceRolloutBuffer)
    )
    assert isinstance(ours, DeviceRolloutBuffer)
    keep_each_frame_once(ours)
    held = sum(value.nbytes for value in vars(theirs).values() if isinstance(value, np.ndarray))
    assert ours.nbytes < 0.3 * held


def test_device_buffer_refuses_what_it_cannot_rebuild(env: VecEnv) -> None:
    class Shifted(gym.ObservationWrapper[np.ndarray, int, np.ndarray]):
        """Newest frame first."""

        def observation(self, observation: np.ndarray) -> np.ndarray:
            return observation[::-1].copy()

    class Frames(gym.Env[np.ndarray, int]):
        observation_space = env.observation_space
        action_space = gym.spaces.Discrete(2)

        def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
            return self.observation_space.sample(), {}

        def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            return self.observation_space.sample(), 0.0, False, False, {}

    model = PPO("CnnPolicy", DummyVecEnv([lambda: Shifted(Frames())]), device="cpu", **PPO_SIZE, **FAST)
    assert isinstance(model.rollout_buffer, DeviceRolloutBuffer)
    model.learn(16)  # whole stacks may be anything
    keep_each_frame_once(model.rollout_buffer)
    with pytest.raises(ValueError, match="use buffer='host'"):
        model.learn(16)
    with pytest.raises(ValueError, match="stacked uint8 frames"):
        PPO("MlpPolicy", "CartPole-v1", buffer="device")


@pytest.mark.parametrize("each_frame_once", [False, True])
def test_device_buffer_takes_single_frames(each_frame_once: bool) -> None:
    space = gym.spaces.Box(0, 255, (1, 84, 84), np.uint8)
    buffer = DeviceRolloutBuffer(3, space, gym.spaces.Discrete(2), "cpu", n_envs=2)
    if each_frame_once:
        keep_each_frame_once(buffer)
    frames = np.random.default_rng(0).integers(256, size=(3, 2, 1, 84, 84), dtype=np.uint8)
    for frame in frames:
        buffer.add(frame, np.zeros(2), np.zeros(2), np.zeros(2), torch.zeros(2), torch.zeros(2))
    [chosen] = buffer.minibatches()
    assert torch.equal(buffer.samples(chosen).observations, torch.from_numpy(frames).flatten(0, 1)[chosen])


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


@pytest.mark.parametrize(
    "extras", [{"clip_range_vf": 0.05}, {"target_kl": 1e-5}, {"normalize_advantage": False}]
)
@pytest.mark.numeric
def test_same_weights_and_log_as_sb3_to_the_bit_with_further_options(extras: dict[str, Any]) -> None:
    policy = {**POLICY, "optimizer_kwargs": {"fused": False}}
    size = {**PPO_SIZE, "learning_rate": 1e-2}  # so that the second epoch is further away than target_kl
    one = learn(PPO, 128, policy_kwargs=policy, buffer="device", **extras, **size)
    other = learn(stable_baselines3.PPO, 128, policy_kwargs=policy, **extras, **size)
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
    kwargs = {**POLICY, **(TF_STYLE if ours is A2C else {"optimizer_kwargs": {"fused": False}})}
    kwargs["share_features_extractor"] = False
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
