"""SB3 callbacks of a run: episode log, TensorBoard extras, checkpoints and signals."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from rl_coordconv.config import RunConfig
from rl_coordconv.coordinates import coord_weight_ratios
from rl_coordconv.hyperparameters import ALGORITHMS
from rl_coordconv.runs.checkpoints import save_checkpoint
from rl_coordconv.runs.folder import RunFolder

COORDINATE_POINTS = 200


class Interrupted(Exception):
    """Training was asked to stop and has saved its state; the message is the run's folder."""


class RunCallback(BaseCallback):
    """
    A callback of a run.

    :param folder: The run's folder
    :param config: The run's config
    """

    def __init__(self, folder: RunFolder, config: RunConfig) -> None:
        super().__init__()
        self.folder = folder
        self.config = config

    def _on_step(self) -> bool:
        return True


class EpisodeLog(RunCallback):
    """Write one line per full game to ``monitor.csv``, in the format of SB3's ``Monitor`` plus the step."""

    def _on_training_start(self) -> None:
        self.games: list[tuple[dict[str, float], int]] = []
        self.seconds_before = self.folder.keep_games_until(self.num_timesteps, self.config.game)

    def _on_step(self) -> bool:
        ended = [info["episode"] for info in self.locals["infos"] if "episode" in info]
        # The environments' clock begins anew with a resume; SB3 sorts games by it.
        self.games += [({**game, "t": game["t"] + self.seconds_before}, self.num_timesteps) for game in ended]
        return True

    def _on_rollout_end(self) -> None:
        self.folder.append_games(self.games)
        self.games.clear()


class TensorBoardExtras(RunCallback):
    """
    Log the hyperparameters once, and at every rollout how much of each CoordConv layer sits on coordinates.

    Some of the latter go to ``coordinates.csv`` too, from where a comparison reads them a hundred times
    faster.
    """

    @property
    def spacing(self) -> float:
        """Steps from one point of ``coordinates.csv`` to the next."""
        return self.config.total_timesteps / COORDINATE_POINTS

    def _on_training_start(self) -> None:
        values = self.config.to_dict()
        flat: dict[str, Any] = {**values.pop(self.config.algo), **values}
        kinds = (bool, int, float, str)
        plain = {key: value if isinstance(value, kinds) else str(value) for key, value in flat.items()}
        metrics: dict[str, float] = dict.fromkeys(
            ("eval/iqm", "eval/mean_reward", "rollout/ep_rew_mean"), 0.0
        )
        self.logger.record("hparams", HParam(plain, metrics))
        self.folder.keep_coordinates_until(self.num_timesteps)
        points = [steps[-1] for steps, _ in self.folder.read_coordinates().values()]
        self.next_point = max(points) + self.spacing if points else 0.0

    def _on_rollout_end(self) -> None:
        ratios = coord_weight_ratios(self.model.policy)
        for layer, ratio in ratios.items():
            self.logger.record(f"coordconv/{layer}/coord_weight_ratio", ratio)
        if ratios and self.num_timesteps >= self.next_point:
            self.next_point = self.num_timesteps + self.spacing
            self.folder.append_coordinates(self.num_timesteps, ratios)


class CurvePoints(RunCallback):
    """Write what SB3 logs every so many updates of the run; SB3 itself counts those of a resume anew."""

    def _on_rollout_end(self) -> None:
        assert isinstance(self.model, OnPolicyAlgorithm)
        updates = self.model.num_timesteps // (self.model.n_envs * self.model.n_steps)
        if updates % ALGORITHMS[self.config.algo].log_interval == 0:
            self.model.dump_logs(updates)


class Checkpoints(RunCallback):
    """
    Save at rollout boundaries: every ``checkpoint_freq`` steps, before evaluations, at the end, and when a
    signal asks to stop.

    The signals are SIGINT and SIGTERM. Ctrl-C after one of them ends the process at once; a second SIGTERM
    does not, as a supervisor and a comparison may each send one.
    """

    def __init__(self, folder: RunFolder, config: RunConfig) -> None:
        super().__init__(folder, config)
        self.last_step = 0
        self.signal: int | None = None
        self.previous: dict[int, Any] = {}

    def _on_training_start(self) -> None:
        self.last_step = self.num_timesteps
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            hint = "after this rollout if one runs (Ctrl-C to stop at once)"
            print(f"\nstopping: saving, {hint}", file=sys.stderr)
        self.signal = number
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def _on_rollout_start(self) -> None:
        if (
            self.signal is not None
            or self.model.num_timesteps >= self.last_step + self.config.checkpoint_freq
        ):
            self.save()
        self.stop_if_asked()

    def _on_training_end(self) -> None:
        self.save()
        self.stop_if_asked()

    def stop_if_asked(self, *_: object) -> None:
        """
        End training if a signal came; a callback of :func:`~.evaluation.play_games` too.

        :raises Interrupted: A signal came
        """
        if self.signal is not None:
            raise Interrupted(str(self.folder.path))

    def save(self) -> None:
        """Write a checkpoint, unless training went no further since the last."""
        assert isinstance(self.model, OnPolicyAlgorithm)
        if self.model.num_timesteps == self.last_step:
            return
        # The losses of the last update wait in the logger until the next dump.
        numbers = (int, float, np.floating)
        logged, hidden = self.logger.name_to_value.items(), self.logger.name_to_excluded
        pending = {
            key: float(value)
            for key, value in logged
            if isinstance(value, numbers) and "tensorboard" not in (hidden.get(key) or ())
        }
        keep = self.config.keep_checkpoints
        save_checkpoint(self.model, self.folder.checkpoints, {"pending_log": pending}, keep)
        self.last_step = self.model.num_timesteps

    def restore_signals(self) -> None:
        """Put back the handlers that were there before training."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)
