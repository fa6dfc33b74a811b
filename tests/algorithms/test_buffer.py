"""The device buffer against SB3's, on real games."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from fast_models import FAST, PPO_SIZE, keep_each_frame_once
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from rl_coordconv import make_atari_vec_env
from rl_coordconv.algorithms import PPO
from rl_coordconv.algorithms.buffer import DeviceRolloutBuffer
from rl_coordconv.errors import UserError


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

    def held(*parts: object) -> int:
        arrays = {id(value): value for part in parts for value in vars(part).values()}
        return sum(array.nbytes for array in arrays.values() if isinstance(array, (np.ndarray, torch.Tensor)))

    assert held(ours, ours.frames) < 0.3 * held(theirs)


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
    with pytest.raises(UserError, match=r"stacked uint8 frames .*: use buffer='host'"):
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
