"""
The state of running games, so that the ``gymnasium`` backend resumes a run to the bit.

The C++ vector environments keep the state of their emulators to themselves: a resumed run starts new games.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ale_py import ALEState
from gymnasium.wrappers import OrderEnforcing, TimeLimit
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv, MaxAndSkipEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecEnvWrapper, VecFrameStack

# What each wrapper remembers between two steps. Monitor's lists of past games are not needed.
REMEMBERED: dict[type, tuple[str, ...]] = {
    TimeLimit: ("_elapsed_steps",),
    OrderEnforcing: ("_has_reset",),
    Monitor: ("rewards", "needs_reset", "total_steps"),
    EpisodicLifeEnv: ("lives", "was_real_done"),
    MaxAndSkipEnv: ("_obs_buffer",),
}


def capture_layer(layer: Any) -> dict[str, Any]:
    """Return what one wrapper remembers, as plain values and tensors."""
    names = next((names for kind, names in REMEMBERED.items() if isinstance(layer, kind)), ())
    values = {name: getattr(layer, name) for name in names}
    return {
        name: torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else _plain(value)
        for name, value in values.items()
    }


def restore_layer(layer: Any, values: dict[str, Any]) -> None:
    """Give a wrapper back what :func:`capture_layer` returned."""
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            getattr(layer, name)[...] = value.numpy()
        else:
            setattr(layer, name, value)


def _plain(value: Any) -> Any:
    """Return a number or list without NumPy types, which a checkpoint must not hold."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def capture_emulator(env: Any) -> dict[str, Any]:
    """
    Return the emulator with its random numbers, as plain values and tensors.

    :param env: ale_py's ``AtariEnv``
    """
    emulator = env.clone_state(include_rng=True).__getstate__()
    return {
        "emulator": torch.frombuffer(bytearray(emulator), dtype=torch.uint8),
        "np_random": env.np_random.bit_generator.state,
    }


def restore_emulator(env: Any, values: dict[str, Any]) -> None:
    """Put ale_py's ``AtariEnv`` where :func:`capture_emulator` found it."""
    state = ALEState.__new__(ALEState)
    state.__setstate__(values["emulator"].numpy().tobytes())
    env.restore_state(state)
    env.np_random.bit_generator.state = values["np_random"]


def capture_games(env: VecEnv) -> dict[str, Any] | None:
    """
    Return the state of all games as plain values and tensors, or None where a backend cannot tell it.

    :param env: From ``make_atari_vec_env``
    """
    stack, games = _find(env)
    if stack is None or games is None:
        return None
    return {
        "stacked": torch.from_numpy(stack.stacked_obs.stacked_obs.copy()),
        "games": games.env_method("capture_state"),
    }


def restore_games(env: VecEnv, state: dict[str, Any]) -> None:
    """
    Put games where :func:`capture_games` found them.

    :param env: Environments of the same game, number and backend
    :param state: From :func:`capture_games`
    """
    stack, games = _find(env)
    assert stack is not None
    assert games is not None
    games.reset()  # the emulators must be running before they can be moved
    for index, values in enumerate(state["games"]):
        games.env_method("restore_state", values, indices=[index])
    stack.stacked_obs.stacked_obs[...] = state["stacked"].numpy()


def _find(env: VecEnv) -> tuple[VecFrameStack | None, VecEnv | None]:
    stack = None
    while isinstance(env, VecEnvWrapper):
        stack = env if isinstance(env, VecFrameStack) else stack
        env = env.venv
    return stack, env if isinstance(env, (DummyVecEnv, SubprocVecEnv)) else None
