"""Peers of the environment benchmark: an Atari game played at random, through SB3 or bare."""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_coordconv.benchmark.setting import Benchmark, Cases, Peer, Setting
from rl_coordconv.envs import make_atari_vec_env, rom_name

STEPS = 100
"""Steps of every environment in one piece of work."""


def played_at_random(env: Any, n_actions: int, setting: Setting) -> Cases:
    """Return the case of a vector environment, of SB3 or of Gymnasium."""
    env.reset()
    rng = np.random.default_rng(1)

    def run() -> int:
        for _ in range(STEPS):
            env.step(rng.integers(n_actions, size=setting.n_envs).astype(np.int32))
        return STEPS * setting.n_envs

    return {f"{setting.game}, {setting.n_envs} environments": run}


def env_peer(**options: Any) -> Peer:
    """Return the case of :func:`make_atari_vec_env` with these options."""

    def build(setting: Setting) -> Cases:
        env = make_atari_vec_env(setting.game, setting.n_envs, seed=1, **options)
        return played_at_random(env, int(env.action_space.n), setting)  # type: ignore[attr-defined]

    return build


def bare_ale(setting: Setting) -> Cases:
    """Return the case of ale_py's own object with the same preprocessing, without an adapter to SB3."""
    from ale_py.vector_env import AtariVectorEnv
    from gymnasium.vector import AutoresetMode

    env = AtariVectorEnv(
        rom_name(setting.game), setting.n_envs, autoreset_mode=AutoresetMode.SAME_STEP, reward_clipping=False
    )
    return played_at_random(env, len(env.ale.get_action_set()), setting)


def bare_envpool(setting: Setting) -> Cases:
    """Return the case of EnvPool's own object with the same preprocessing, without an adapter to SB3."""
    import envpool

    env = envpool.make_gymnasium(f"{setting.game}-v5", num_envs=setting.n_envs)
    return played_at_random(env, int(env.action_space.n), setting)


ENV = Benchmark(
    title="Environments played at random, DeepMind's preprocessing",
    peers={
        "sb3-dummy": env_peer(backend="gymnasium", vec_env="dummy"),
        "sb3-subproc": env_peer(backend="gymnasium", vec_env="subproc"),
        "native": env_peer(backend="native"),
        "native-halves": env_peer(backend="native", halves=True),
        "bare-ale": bare_ale,
        "envpool": env_peer(backend="envpool"),
        "bare-envpool": bare_envpool,
    },
    reference="sb3-subproc",
    unit="steps/s",
    seconds=5.0,
    rounds=5,
)
