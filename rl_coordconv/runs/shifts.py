"""What a shifted screen does to an agent: how much its actions and values depend on position."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from rl_coordconv.config import RunConfig
from rl_coordconv.errors import UserError
from rl_coordconv.files import atomic_path
from rl_coordconv.runs.evaluation import make_eval_env, play_games

SHIFTS = tuple(range(-12, 13, 3))
N_FRAMES = 128
N_ENVS = 8


@dataclass(frozen=True)
class ShiftEffects:
    """
    How an agent reacts when everything on its screen is moved.

    :param shifts: Pixels of the agent's 84 x 84 screen, right and down
    :param kl: Mean KL divergence in nats from the action probabilities on the frames as they are to those on
        the moved ones, ``(len(shifts), len(shifts)) float64``, first axis down, second right
    :param value: Mean absolute change of the value, in standard deviations of the values of all frames, same
        shape
    """

    shifts: tuple[int, ...]
    kl: np.ndarray
    value: np.ndarray


def shift_frames(frames: np.ndarray, right: int, down: int) -> np.ndarray:
    """
    Return frames with everything moved; what comes in at the edges is black.

    :param frames: ``(..., height, width)``
    :param right: Pixels, negative for left
    :param down: Pixels, negative for up
    """
    moved = np.roll(frames, (down, right), axis=(-2, -1))
    if down:
        moved[..., slice(0, down) if down > 0 else slice(down, None), :] = 0
    if right:
        moved[..., slice(0, right) if right > 0 else slice(right, None)] = 0
    return moved


def policy_with_values(model: BaseAlgorithm) -> ActorCriticPolicy:
    """
    Return an agent's policy, if it has what shifts are measured by.

    :param model: The agent
    :raises UserError: It has no action probabilities
    """
    if not isinstance(model.policy, ActorCriticPolicy):
        raise UserError(
            f"positions needs an agent with actor and critic (PPO, A2C), not {type(model).__name__}"
        )
    return model.policy


def shift_effects(model: BaseAlgorithm, frames: np.ndarray, shifts: Sequence[int] = SHIFTS) -> ShiftEffects:
    """
    Measure how action probabilities and value change when the whole screen is shifted.

    :param model: An agent with actor and critic
    :param frames: What it saw, ``(n, stack, height, width) uint8``
    :param shifts: Pixels by which to move it, in both directions
    :raises UserError: The agent has no action probabilities
    """
    policy = policy_with_values(model)

    def answers(images: np.ndarray) -> tuple[Tensor, Tensor]:
        observations, _ = policy.obs_to_tensor(images)
        distribution: Any = policy.get_distribution(observations).distribution
        return distribution.logits.double().log_softmax(-1), policy.predict_values(observations).double()

    shape = (len(shifts), len(shifts))
    kl, value = np.zeros(shape), np.zeros(shape)
    with torch.no_grad():
        policy.set_training_mode(False)
        logits, values = answers(frames)
        spread = float(values.std()) or 1.0
        for (row, column), _ in np.ndenumerate(kl):
            moved_logits, moved_values = answers(shift_frames(frames, shifts[column], shifts[row]))
            kl[row, column] = float((logits.exp() * (logits - moved_logits)).sum(1).mean())
            value[row, column] = float((values - moved_values).abs().mean()) / spread
    return ShiftEffects(tuple(shifts), kl, value)


def collect_frames(
    model: BaseAlgorithm, config: RunConfig, seed: int, n_frames: int = N_FRAMES
) -> np.ndarray:
    """
    Return what an agent sees while it plays, evenly over its games.

    :param model: The agent
    :param config: Its run's config
    :param seed: Seed of the games
    :param n_frames: How many observations at most
    :return: ``(n, stack, height, width) uint8``
    """
    seen: list[np.ndarray] = []
    step, last, every = 0, N_ENVS, 10

    def keep(local_variables: dict[str, Any], _: dict[str, Any]) -> None:
        nonlocal step, last, every
        # Called for each environment whose game still counts, in order: fewer and fewer of them.
        is_new, last = local_variables["i"] <= last, local_variables["i"]
        step += is_new
        if is_new and step % every == 0:
            seen.append(np.array(local_variables["observations"]))
            if len(seen) * env.num_envs > n_frames:
                seen[:], every = seen[1::2], 2 * every

    with contextlib.closing(make_eval_env(config, N_ENVS)) as env:
        play_games(model, env, env.num_envs, seed, callback=keep)
    if not seen:
        raise UserError(f"the games of {config.game} were too short to see how the agent reacts to shifts")
    return np.concatenate(seen)[:n_frames]


def draw_shift_effects(effects: ShiftEffects, title: str, path: Path) -> None:
    """
    Draw both maps over the shift, and both measures over its distance.

    :param effects: From :func:`shift_effects`
    :param title: The agent
    :param path: PNG to write
    """
    from matplotlib.figure import Figure  # of the extra [train]

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    axes = figure.subplots(1, 3)
    reach = max(effects.shifts, key=abs)
    edges = np.linspace(-abs(reach) - 1.5, abs(reach) + 1.5, len(effects.shifts) + 1)
    names = ("KL of action probabilities (nats)", "change of the value (standard deviations)")
    right, down = np.meshgrid(effects.shifts, effects.shifts)
    distance = np.hypot(right, down).ravel()
    for index, (name, values) in enumerate(zip(names, (effects.kl, effects.value), strict=True)):
        mesh = axes[index].pcolormesh(edges, edges, values, cmap="viridis", vmin=0)
        axes[index].invert_yaxis()
        axes[index].set(xlabel="shift to the right (pixels of 84)", ylabel="shift down (pixels)", title=name)
        axes[index].set_aspect("equal")
        figure.colorbar(mesh, ax=axes[index])
        rings = np.round(distance / 3)
        means = [values.ravel()[rings == ring].mean() for ring in np.unique(rings)]
        axes[2].plot(np.unique(rings) * 3, means, "o-", label=name)
    axes[2].set(xlabel="distance of the shift (pixels)", ylim=(0, None))
    axes[2].margins(y=0.25)
    axes[2].grid(alpha=0.3)
    axes[2].legend(loc="upper left")
    figure.suptitle(title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
