"""Runs that SB3 or RL Zoo trained, read from what those left on disk."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
from stable_baselines3.common.monitor import LoadMonitorResultsError, load_results

from rl_coordconv.compare.read import read_run, read_scalars
from rl_coordconv.compare.rundata import Curve, RunData, with_curve
from rl_coordconv.errors import UserError
from rl_coordconv.runs.folder import Progress, RunFolder


def read_foreign(path: Path, comparison: str, game: str, arm: str, number: int) -> RunData:
    """
    Read a run that SB3 or RL Zoo trained: its Monitor files, else ``rollout/ep_rew_mean`` of its events.

    :param path: The folder with ``*monitor.csv`` or ``events.out.tfevents.*``; or a run of this project
    :param comparison: Name of the comparison that it takes part in
    :param game: Its game
    :param arm: Its arm
    :param number: Its number within the arm
    :raises UserError: Neither is there
    """
    if RunFolder(path).config_file.is_file():
        return dataclasses.replace(read_run(RunFolder(path), comparison, game, arm, number), foreign=True)
    scalars = read_scalars(path)
    curve = read_monitors(path) or scalars.get("rollout/ep_rew_mean")
    if curve is None or not len(curve[0]):
        inside = sorted({str(file.parent) for file in path.glob("**/*.tfevents.*")})
        hint = f": did you mean {', '.join(inside[:3])}?" if inside else ""
        raise UserError(
            f"arm '{arm}': '{path}' holds no finished game: neither *monitor.csv nor events with "
            f"rollout/ep_rew_mean{hint}"
        )
    fps = scalars.get("time/fps")
    total = int(curve[0][-1])
    end = Progress("finished", total, float(fps[1][-1]) if fps else 0.0)
    none = np.empty(0)
    return with_curve(RunData(comparison, game, arm, number, end, total, none, none, foreign=True), *curve)


def read_monitors(path: Path) -> Curve | None:
    """
    Return steps and returns of the games in SB3 ``Monitor`` files, or None if there are none.

    The environments of one file each move in step, so a game that ends after ``l`` steps of its own
    environment ends after ``l`` times the number of files. ``Monitor`` sits inside of SB3's Atari wrappers
    and counts the frames of a ``NoFrameskip`` environment, of which one step takes 4.

    :param path: Folder with ``*monitor.csv``
    """
    files = sorted(path.glob("*monitor.csv"))
    try:
        load_results(str(path))
        headers = [json.loads(file.read_text().partition("\n")[0][1:]) for file in files]
        tables = [np.genfromtxt(file, delimiter=",", skip_header=1, names=True, ndmin=1) for file in files]
    except LoadMonitorResultsError:
        return None
    except Exception as error:
        # Whatever pandas and json raise on a broken file is about that file.
        raise UserError(f"'{path}' holds Monitor files that cannot be read: {error}") from None
    frames = 4 if all("NoFrameskip" in str(header.get("env_id")) for header in headers) else 1
    steps = np.concatenate([np.cumsum(table["l"]) for table in tables]) * len(files) / frames
    returns = np.concatenate([table["r"] for table in tables]).astype(np.float64)
    order = np.argsort(steps, kind="stable")
    return steps[order], returns[order]
