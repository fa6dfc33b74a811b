"""Games played at random, and what was seen of them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecEnv

from rl_coordconv.envs import make_atari_vec_env


class Maker:
    """Makes environments of one backend, and closes them after the test."""

    def __init__(self, backend: str, halves: bool = False) -> None:
        self.backend = backend
        self.halves = halves
        self.envs: list[VecEnv] = []
        if backend == "envpool":
            pytest.importorskip("envpool")

    def __call__(self, game: str = "Breakout", n_envs: int = 2, **options: Any) -> VecEnv:
        env = make_atari_vec_env(game, n_envs, backend=self.backend, halves=self.halves, **options)
        self.envs.append(env)
        return env


@dataclass
class Record:
    """What happened; observations begin with the reset's, as given and as copied at once."""

    observations: list[np.ndarray] = field(default_factory=list)
    copies: list[np.ndarray] = field(default_factory=list)
    rewards: list[np.ndarray] = field(default_factory=list)
    dones: list[np.ndarray] = field(default_factory=list)
    infos: list[list[dict[str, Any]]] = field(default_factory=list)


def play(env: VecEnv, n_steps: int, action_seed: int = 0) -> Record:
    """Reset, and play random actions."""
    rng = np.random.default_rng(action_seed)
    record = Record()
    first = env.reset()
    assert isinstance(first, np.ndarray)
    record.observations.append(first)
    record.copies.append(first.copy())
    for _ in range(n_steps):
        actions = rng.integers(0, env.action_space.n, env.num_envs)  # type: ignore[attr-defined]
        observations, rewards, dones, infos = env.step(actions)
        assert isinstance(observations, np.ndarray)
        record.observations.append(observations)
        record.copies.append(observations.copy())
        record.rewards.append(rewards)
        record.dones.append(dones)
        record.infos.append(infos)
    return record


def assert_same(one: Record, other: Record) -> None:
    np.testing.assert_array_equal(one.rewards, other.rewards)
    np.testing.assert_array_equal(one.dones, other.dones)
    np.testing.assert_array_equal(one.copies, other.copies)


def differs(one: Record, other: Record) -> bool:
    return not np.array_equal(one.copies, other.copies)
