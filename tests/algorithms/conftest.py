"""Environments of a game in which lives are lost every few steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from stable_baselines3.common.vec_env import VecEnv

from rl_coordconv import make_atari_vec_env


@pytest.fixture
def env() -> Iterator[VecEnv]:
    venv = make_atari_vec_env("Breakout", n_envs=4, seed=3)
    yield venv
    venv.close()
