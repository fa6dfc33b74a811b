"""
Checkpoints that are either intact or absent, and load without running pickled code.

A checkpoint is an SB3 zip with one more entry, ``resume_state.pt``: random states, episode statistics,
the last observation. Its name carries the first 16 hex digits of the SHA-256 of its bytes, so that a cut
or a flipped bit anywhere is seen before anything is read from it::

    checkpoints/step_000100352_sha256_3f9c0a51b7e2d846.zip
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import random
import re
import zipfile
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file

from rl_coordconv.envs.state import capture_games, restore_games
from rl_coordconv.errors import UserError
from rl_coordconv.files import atomic_path

NAME = re.compile(r"step_(\d+)_sha256_([0-9a-f]{16})\.zip")
STATE_ENTRY = "resume_state.pt"
COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_total_timesteps")


def save_model(model: OnPolicyAlgorithm, path: Path) -> None:
    """
    Write an SB3 zip so that it is there complete or not at all.

    :param model: The algorithm to save
    :param path: Where to, ending in ``.zip``
    """
    with atomic_path(path) as temporary:
        model.save(temporary)


def save_checkpoint(model: OnPolicyAlgorithm, folder: Path, extra: dict[str, Any], keep: int) -> Path:
    """
    Write a checkpoint at a rollout boundary and drop the oldest ones.

    :param model: The algorithm; its rollout buffer is empty at this moment
    :param folder: The folder ``checkpoints``
    :param extra: Plain values and tensors of the callbacks, handed back by :func:`restore`
    :param keep: How many of the newest stay
    :return: The checkpoint's path
    :raises FloatingPointError: A weight is NaN or infinite; nothing is written
    """
    if bad := [name for name, value in model.policy.named_parameters() if not bool(value.isfinite().all())]:
        raise FloatingPointError(f"policy.{bad[0]} is not finite")
    state = io.BytesIO()
    torch.save({**capture(model), "extra": extra}, state)
    draft = folder / "draft.zip"
    with atomic_path(draft) as temporary:
        model.save(temporary)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(STATE_ENTRY, state.getvalue())
    path = folder / f"step_{model.num_timesteps:09d}_sha256_{digest(draft)}.zip"
    os.replace(draft, path)
    for old in list_checkpoints(folder)[keep:]:
        old.unlink()
    return path


def digest(path: Path) -> str:
    """Return the first 16 hex digits of the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()[:16]


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, newest first, without looking inside."""
    names = (NAME.fullmatch(path.name) for path in folder.glob("step_*.zip"))
    steps = {folder / match[0]: int(match[1]) for match in names if match}
    return sorted(steps, key=lambda path: (steps[path], path), reverse=True)


def newest_intact(folder: Path) -> tuple[Path | None, list[Path]]:
    """
    Find the checkpoint to resume from.

    :param folder: The folder ``checkpoints``
    :return: The newest intact checkpoint, or None, and the damaged ones newer than it
    """
    damaged: list[Path] = []
    for path in list_checkpoints(folder):
        match = NAME.fullmatch(path.name)
        assert match is not None
        if digest(path) == match[2]:
            return path, damaged
        damaged.append(path)
    return None, damaged


def load_parameters(path: Path, device: torch.device | str) -> dict[str, Any]:
    """
    Read the state dicts of an SB3 zip; its pickled ``data`` entry is not touched.

    :param path: SB3 zip
    :param device: Where the tensors go
    :return: E.g. ``{"policy": ..., "policy.optimizer": ...}``
    :raises UserError: The zip is missing or damaged
    """
    if not path.is_file():
        raise UserError(f"model '{path}' {'is not a file' if path.exists() else 'does not exist'}")
    try:
        _, parameters, _ = load_from_zip_file(path, load_data=False, device=device)
    except Exception as error:
        # zipfile, zlib, pickle and torch each have their own words for a damaged file.
        raise UserError(f"model '{path}' is damaged or not a Stable-Baselines3 zip ({error})") from None
    if "policy" not in parameters:
        raise UserError(f"model '{path}' is not a Stable-Baselines3 zip: it holds no policy.pth")
    return parameters


def capture(model: OnPolicyAlgorithm) -> dict[str, Any]:
    """
    Return what a run needs besides its parameters, as plain values and tensors.

    :param model: The algorithm at a rollout boundary
    """
    env = model.get_env()
    numpy_state: Any = np.random.get_state()
    python_state: Any = random.getstate()
    state: dict[str, Any] = {name: getattr(model, name, 0) for name in COUNTERS}
    state |= {
        "python": [python_state[0], list(python_state[1]), python_state[2]],
        "numpy": [numpy_state[0], torch.as_tensor(numpy_state[1].astype(np.int64)), *numpy_state[2:]],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "episodes": [
            {key: float(value) for key, value in info.items()} for info in model.ep_info_buffer or ()
        ],
        "last_obs": torch.as_tensor(model._last_obs),
        "last_episode_starts": torch.as_tensor(model._last_episode_starts),
        "games": capture_games(env) if env else None,
    }
    return state


def restore(model: OnPolicyAlgorithm, path: Path) -> dict[str, Any]:
    """
    Put a freshly built model where the checkpoint left off.

    :param model: Built from the same config
    :param path: An intact checkpoint
    :return: The ``extra`` given to :func:`save_checkpoint`
    :raises UserError: The checkpoint does not belong to this config
    """
    parameters = load_parameters(path, model.device)
    try:
        model.set_parameters(parameters, exact_match=True, device=model.device)
        with zipfile.ZipFile(path) as archive:
            state = torch.load(io.BytesIO(archive.read(STATE_ENTRY)), weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"checkpoint '{path}' holds code: it was not made by scripts/train.py") from None
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"checkpoint '{path}' does not fit the run's config: {error}") from None
    for name in COUNTERS:
        setattr(model, name, state[name])
    random.setstate((state["python"][0], tuple(state["python"][1]), state["python"][2]))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
    model.ep_info_buffer = deque(state["episodes"], maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(maxlen=model._stats_window_size)
    env = model.get_env()
    if env is not None and state["games"] is not None and len(state["games"]["games"]) == env.num_envs:
        restore_games(env, state["games"])
        model._last_obs = state["last_obs"].numpy()
        model._last_episode_starts = state["last_episode_starts"].numpy()
    return state["extra"]
