"""Film one game of an agent, in the game's own colours, as a GIF or MP4."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from rl_coordconv.config import RunConfig
from rl_coordconv.errors import UserError, needs
from rl_coordconv.files import atomic_path, check_place_of
from rl_coordconv.runs.evaluation import make_eval_env, play_games

# The agent acts 15 times a second: 60 frames of the console, four to a step.
STEPS_PER_SECOND = 15


def film_game(
    model: BaseAlgorithm, config: RunConfig, seed: int, deterministic: bool, max_steps: int
) -> tuple[list[np.ndarray], float]:
    """
    Play one game and keep a picture per step.

    :param model: The agent
    :param config: Its run's config
    :param seed: Seed of the game
    :param deterministic: Take the likeliest action instead of sampling
    :param max_steps: Most pictures to keep: of a longer game, the stretch that scores most
    :return: Pictures ``(height, width, 3) uint8``, and the game's raw return
    """
    frames: deque[np.ndarray] = deque(maxlen=max_steps)
    rewards: deque[float] = deque(maxlen=max_steps)
    best: tuple[float, list[np.ndarray]] = -math.inf, []

    def keep(local_variables: dict[str, Any], _: dict[str, Any]) -> None:
        nonlocal best
        if local_variables["done"]:  # the screen is that of the next game
            return
        frames.append(np.asarray(local_variables["env"].get_images()[0], dtype=np.uint8))
        rewards.append(float(local_variables["reward"]))
        if len(frames) == max_steps and sum(rewards) > best[0]:
            best = sum(rewards), list(frames)

    with contextlib.closing(make_eval_env(config, 1, backend="gymnasium")) as env:
        returns, _ = play_games(model, env, 1, seed, deterministic, keep)
    return best[1] or list(frames), returns[0]


def write_video(frames: list[np.ndarray], path: Path) -> None:
    """
    Write pictures as a looping GIF or an MP4, complete or not at all.

    :param frames: Pictures ``(height, width, 3) uint8``
    :param path: Ends in ``.gif`` or ``.mp4``
    """
    with needs("video"):
        import imageio.v3 as imageio
    with atomic_path(path) as temporary:
        if path.suffix == ".gif":
            imageio.imwrite(temporary, frames, duration=1000 / STEPS_PER_SECOND, loop=0)
        else:
            imageio.imwrite(temporary, frames, fps=STEPS_PER_SECOND, codec="libx264", macro_block_size=2)


def check_picture_path(path: Path | None, suffix: str) -> None:
    """
    Refuse a path that cannot be written, before a game is played for it.

    :param path: Where the film or picture goes, if anywhere
    :param suffix: E.g. ``.gif``
    :raises UserError: The ending is another one, the folder does not exist, or a package is missing
    """
    if path is None:
        return
    if path.suffix != suffix:
        raise UserError(f"picture '{path}' must end in {suffix}")
    check_place_of(path, "picture")
    if suffix != ".png":
        with needs("video"):
            import imageio.v3  # noqa: F401
