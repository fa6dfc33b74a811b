"""
Runs that SB3 or RL Zoo trained, read from what those left on disk::

    <n>.monitor.csv           SB3's Monitor: a line per full game of an environment
    events.out.tfevents.*     SB3's logger
    evaluations.npz           SB3's EvalCallback
    <env>/args.yml            RL Zoo: the options of its command, among them how many steps
    <env>/config.yml          RL Zoo: its hyperparameters, the same
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from rl_coordconv.compare.read import read_run, read_scalars
from rl_coordconv.compare.rundata import WINDOW, Curve, RunData, curve_of
from rl_coordconv.errors import UserError
from rl_coordconv.runs.folder import Progress, RunFolder

SHORT = 0.1
"""Share of the steps asked for that may be after a run's last game."""

EVALUATIONS = "evaluations.npz"


def read_foreign(path: Path, comparison: str, game: str, arm: str, number: int) -> RunData:
    """
    Read a run that SB3 or RL Zoo trained.

    Its curve is that of its Monitor files, else ``rollout/ep_rew_mean`` of its events, else that of its
    evaluations. Its final evaluation is the last one, if that lies in the last tenth of its steps.

    :param path: Its folder; or a run of this project
    :param comparison: Name of the comparison that it takes part in
    :param game: Its game
    :param arm: Its arm
    :param number: Its number within the arm
    :raises UserError: None of these files is there, or one is damaged
    """
    if not path.exists():
        raise UserError(f"arm '{arm}': '{path}' is not there")
    if RunFolder(path).config_file.is_file():
        return dataclasses.replace(read_run(RunFolder(path), comparison, game, arm, number), foreign=True)
    scalars, evaluations = read_scalars(path), read_evaluations(path)
    curve, speed = read_monitors(path) or (scalars.get("rollout/ep_rew_mean"), 0.0)
    if curve is None and evaluations:
        counts = [len(returns) for returns in evaluations.values()]
        curve = np.repeat([*evaluations], counts).astype(np.float64), np.concatenate([*evaluations.values()])
    if curve is None or not len(curve[0]):
        raise UserError(f"arm '{arm}': '{path}' holds no finished game{_hint(path)}")
    if fps := scalars.get("time/fps"):
        speed = float(fps[1][-1])
    last = max(evaluations, default=0)
    total = max(int(curve[0][-1]), last)
    final = evaluations[last] if evaluations and last >= (1 - WINDOW) * total else np.empty(0)
    asked = _steps_asked_for(path) or total
    is_whole = total >= (1 - SHORT) * asked
    return RunData(
        comparison,
        game,
        arm,
        number,
        progress=Progress("finished" if is_whole else "unfinished", total, speed),
        total_steps=total if is_whole else asked,
        **curve_of(*curve, total, total),
        eval_score=float(final.mean()) if len(final) else None,
        eval_games=len(final),
        foreign=True,
    )


def check_holds_run(path: Path, where: str) -> None:
    """
    Refuse a folder that cannot be a run, before others are trained to be compared with it.

    :param path: The folder
    :param where: What names it, for the message
    :raises UserError: There is nothing in it that a report reads
    """
    kinds = ("config.yaml", "*monitor.csv", "*.tfevents.*", EVALUATIONS)
    if not any(any(path.glob(kind)) for kind in kinds):
        raise UserError(f"{where}: '{path}' holds no run{_hint(path)}")


def _hint(path: Path) -> str:
    inside = sorted({str(file.parent) for file in path.glob("**/*.tfevents.*")} - {str(path)})
    found = f": did you mean {', '.join(inside[:3])}?" if inside else ""
    return f": neither *monitor.csv nor events with rollout/ep_rew_mean nor {EVALUATIONS}{found}"


def read_evaluations(path: Path) -> Mapping[int, np.ndarray]:
    """
    Return the returns of each evaluation of SB3's ``EvalCallback`` by step, none if it was not used.

    :param path: Folder with ``evaluations.npz``
    :raises UserError: It is damaged
    """
    file = path / EVALUATIONS
    if not file.is_file():
        return {}
    try:
        with np.load(file, allow_pickle=False) as saved:
            steps, returns = saved["timesteps"], saved["results"].astype(np.float64)
            return {int(step): games for step, games in zip(steps, returns, strict=True)}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"'{file}' cannot be read: {error}") from None


def read_monitors(path: Path) -> tuple[Curve, float] | None:
    """
    Return steps and returns of the games in SB3 ``Monitor`` files with steps per second, or None without any.

    The environments of one file each move in step, so a game that ends after ``l`` steps of its own
    environment ends after ``l`` times the number of files. ``Monitor`` sits inside of SB3's Atari wrappers
    and counts the frames of a ``NoFrameskip`` environment, of which one step takes 4. It counts those of the
    wrappers' no-ops too, which are no steps: where that makes more steps than RL Zoo was asked for, all are
    scaled down to these.

    :param path: Folder with ``*monitor.csv``
    :raises UserError: One is damaged
    """
    files = sorted(path.glob("*monitor.csv"))
    try:
        headers = [json.loads(file.read_text().partition("\n")[0][1:]) for file in files]
        tables = [pd.read_csv(file, skiprows=1)[["r", "l", "t"]].dropna().astype(float) for file in files]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"'{path}' holds Monitor files that cannot be read: {error}") from None
    if not any(map(len, tables)):
        return None
    frames = 4 if all("NoFrameskip" in str(header.get("env_id")) for header in headers) else 1
    steps = np.concatenate([np.cumsum(table["l"]) for table in tables]) * len(files) / frames
    returns = np.concatenate([table["r"] for table in tables])
    if asked := _steps_asked_for(path):
        steps *= min(1.0, asked / steps.max())
    order = np.argsort(steps, kind="stable")
    seconds = max(table["t"].max() for table in tables if len(table))
    return (steps[order], returns[order]), float(steps[order][-1] / seconds) if seconds > 0 else 0.0


class _TolerantLoader(yaml.SafeLoader):
    """Reads RL Zoo's files, whose tags ask for Python objects, as the plain lists of which they are made."""


_TolerantLoader.add_multi_constructor(
    "tag:yaml.org,2002:python/",
    lambda loader, tag, node: loader.construct_sequence(node, deep=True),
)


def _steps_asked_for(path: Path) -> int | None:
    """Return how many steps RL Zoo was asked for, None if it does not say."""
    for file in (*path.glob("*/args.yml"), *path.glob("*/config.yml")):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
            [pairs] = yaml.load(file.read_text(encoding="utf-8"), Loader=_TolerantLoader)  # a SafeLoader
            steps = int(float(dict(pairs)["n_timesteps"]))
            if steps > 0:
                return steps
    return None
