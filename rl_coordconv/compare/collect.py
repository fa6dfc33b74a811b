"""
Read the runs of a comparison back from disk: its own, and those trained elsewhere with SB3 or RL Zoo.

The curve of a run is the mean raw return of the full games that ended within the last tenth of the steps
before each point of a grid. All runs of a game share one grid. A run's score is the mean of its final
evaluation, or the last point of its curve (``score`` of the comparison).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from stable_baselines3.common.monitor import LoadMonitorResultsError, load_results
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rl_coordconv.compare.matrix import Comparison
from rl_coordconv.errors import UserError
from rl_coordconv.runs.folder import Progress, RunFolder

GRID_POINTS = 50
WINDOW = 0.1
# A run takes part once it has come half as far as the longest one; until then it would cut all others short.
TAKES_PART = 0.5
COORD_TAG = ("coordconv/", "/coord_weight_ratio")
Curve = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class RunData:
    """
    What the report needs of one run.

    :param game: Game
    :param arm: Arm
    :param seed: Seed; runs trained elsewhere are numbered from 1
    :param path: Its folder
    :param steps: Steps at which full games ended, shape ``(games,)``
    :param returns: Their raw returns, shape ``(games,)``
    :param last_step: How far training has come
    :param progress: Where it stands, how often it was started and why it ended
    :param evaluation: Raw returns of the final evaluation, shape ``(games,)``, or None before it
    :param fps: Steps per second
    :param coord_use: Share of the weight norm on coordinates over steps, by layer
    :param foreign: Trained elsewhere, so that equal seeds do not mean equal environments
    """

    game: str
    arm: str
    seed: int
    path: Path
    steps: np.ndarray
    returns: np.ndarray
    last_step: int
    progress: Progress
    evaluation: np.ndarray | None = None
    fps: float | None = None
    coord_use: dict[str, Curve] = field(default_factory=dict)
    foreign: bool = False

    @property
    def name(self) -> str:
        """E.g. ``Breakout/coordconv/seed1``."""
        return f"{self.game}/{self.arm}/seed{self.seed}"

    @property
    def finished(self) -> bool:
        """Whether it is complete."""
        return self.progress.state == "finished"


def collect(comparison: Comparison) -> list[RunData]:
    """
    Read every run of a comparison that has begun.

    :param comparison: From ``Comparison.load`` or ``load_comparison``
    :raises UserError: A run trained elsewhere cannot be read
    """
    runs = [
        read_run(run, game, arm, seed)
        for game in comparison.games
        for arm in comparison.arms
        for seed in comparison.seeds
        if (run := RunFolder(comparison.folder / game / arm / f"seed{seed}")).config_file.is_file()
    ]
    return runs + [
        read_foreign(path, game, arm, number)
        for arm, games in comparison.foreign.items()
        for game, paths in games.items()
        for number, path in enumerate(paths, start=1)
    ]


def read_run(run: RunFolder, game: str, arm: str, seed: int) -> RunData:
    """Read a run of this project."""
    steps, returns = run.read_games()
    scalars = read_scalars(run.path)
    fps = scalars.get("time/fps")
    prefix, suffix = COORD_TAG
    coord_use = {
        tag.removeprefix(prefix).removesuffix(suffix): curve
        for tag, curve in scalars.items()
        if tag.startswith(prefix) and tag.endswith(suffix)
    }
    progress, evaluations = run.read_progress(), run.read_evaluations()
    finished = progress.state == "finished"
    # Version 0.1.0 kept no progress: its curves tell how far a run has come.
    reached = [curve[0][-1] for curve in (fps, (steps, returns)) if curve is not None and len(curve[0])]
    total = run.load_config(device="cpu").total_timesteps
    last_step = total if finished else min(int(max([progress.steps, *reached])), total)
    final = np.array(evaluations[-1]["returns"], dtype=np.float64) if finished and evaluations else None
    speed = float(fps[1][-1]) if fps else None
    return RunData(game, arm, seed, run.path, steps, returns, last_step, progress, final, speed, coord_use)


def read_foreign(path: Path, game: str, arm: str, number: int) -> RunData:
    """
    Read a run that SB3 or RL Zoo trained: its Monitor files, else ``rollout/ep_rew_mean`` of its events.

    :param path: The folder with ``*monitor.csv`` or ``events.out.tfevents.*``; or a run of this project
    :param game: Its game
    :param arm: Its arm
    :param number: Its number within the arm
    :raises UserError: Neither is there
    """
    if RunFolder(path).config_file.is_file():
        return dataclasses.replace(read_run(RunFolder(path), game, arm, number), foreign=True)
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
    speed = float(fps[1][-1]) if fps else None
    steps, end = int(curve[0][-1]), Progress("finished", int(curve[0][-1]))
    return RunData(game, arm, number, path, *curve, steps, end, fps=speed, foreign=True)


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


def read_scalars(path: Path) -> dict[str, Curve]:
    """
    Return all scalars in a folder's event files, as steps and values.

    :param path: Folder; files cut off by a crash are read up to there
    """
    if not any(path.glob("*.tfevents.*")):
        return {}
    events = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 1, "images": 1})
    events.Reload()
    return {
        tag: (
            np.array([event.step for event in events.Scalars(tag)], dtype=np.float64),
            np.array([event.value for event in events.Scalars(tag)], dtype=np.float64),
        )
        for tag in events.Tags()["scalars"]
    }


def taking_part(runs: Sequence[RunData]) -> tuple[list[RunData], int]:
    """
    Return the runs of one game that can be compared, and the step up to which.

    :param runs: All runs of the game
    :return: Those that have come at least half as far as the longest and have finished a game by the end of
        the shortest of them, and that end
    """
    longest = max((run.last_step for run in runs), default=0)
    far = [run for run in runs if longest and run.last_step >= TAKES_PART * longest]
    end = min((run.last_step for run in far), default=0)
    return [run for run in far if len(run.steps) and run.steps[0] <= end], end


def step_grid(end: int) -> np.ndarray:
    """Return the common grid of a game, shape ``(GRID_POINTS,)``, from the first step to ``end``."""
    return np.linspace(end / GRID_POINTS, end, GRID_POINTS)


def curve_on_grid(run: RunData, grid: np.ndarray) -> np.ndarray:
    """
    Return a run's curve on the grid of its game.

    :param run: A run with at least one game
    :param grid: From :func:`step_grid`
    :return: Mean return of the games in the window before each point, shape of ``grid``; where none ended
        in the window, the last one before; NaN before the first game
    """
    width = grid[-1] * WINDOW
    sums = np.concatenate([[0.0], np.cumsum(run.returns)])
    ends = np.searchsorted(run.steps, grid, side="right")
    starts = np.searchsorted(run.steps, grid - width, side="right")
    starts = np.minimum(starts, np.maximum(ends - 1, 0))
    with np.errstate(invalid="ignore"):
        return np.where(ends > 0, (sums[ends] - sums[starts]) / (ends - starts), np.nan)
