"""SB3 callbacks of a run: episode log, TensorBoard extras, checkpoints and signals, progress bar."""

from __future__ import annotations

import json
import signal
import sys
import time
from types import FrameType
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from rl_coordconv.config import RunConfig
from rl_coordconv.coordinates import coord_weight_ratios
from rl_coordconv.runs.checkpoints import save_checkpoint
from rl_coordconv.runs.folder import RunFolder, write_text


class Interrupted(Exception):
    """Training was asked to stop and has saved its state; the message is the run's folder."""


class EpisodeLog(BaseCallback):
    """
    Write one line per full game to ``monitor.csv``, in the format of SB3's ``Monitor`` plus the step.

    :param folder: The run's folder
    :param config: The run's config
    """

    def __init__(self, folder: RunFolder, config: RunConfig) -> None:
        super().__init__()
        self.path = folder.monitor
        self.header = json.dumps({"t_start": time.time(), "env_id": config.game})

    def _on_training_start(self) -> None:
        if self.path.exists():
            self._drop_lines_after(self.num_timesteps)
        else:
            write_text(self.path, f"#{self.header}\nr,l,t,step\n")
        self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (closed in _on_training_end)

    def _drop_lines_after(self, step: int) -> None:
        """Forget games played after the checkpoint that training resumes from: they are played again."""
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines[2:] if line.endswith("\n") and line.count(",") == 3]
        write_text(self.path, "".join(lines[:2] + [x for x in whole if int(x.rsplit(",", 1)[1]) <= step]))

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                episode = info["episode"]
                self.file.write(f"{episode['r']},{episode['l']},{episode['t']},{self.num_timesteps}\n")
        return True

    def _on_rollout_end(self) -> None:
        self.file.flush()

    def _on_training_end(self) -> None:
        self.file.close()


class TensorBoardExtras(BaseCallback):
    """
    Log the hyperparameters once, and at every rollout how much of each CoordConv layer sits on coordinates.

    :param config: The run's config
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.config = config

    def _on_training_start(self) -> None:
        values = self.config.to_dict()
        flat: dict[str, Any] = {**values.pop(self.config.algo), **values}
        kinds = (bool, int, float, str)
        plain = {key: value if isinstance(value, kinds) else str(value) for key, value in flat.items()}
        metrics: dict[str, float] = dict.fromkeys(
            ("eval/iqm", "eval/mean_reward", "rollout/ep_rew_mean"), 0.0
        )
        self.logger.record("hparams", HParam(plain, metrics))

    def _on_rollout_end(self) -> None:
        for layer, ratio in coord_weight_ratios(self.model.policy).items():
            self.logger.record(f"coordconv/{layer}/coord_weight_ratio", ratio)

    def _on_step(self) -> bool:
        return True


class Checkpoints(BaseCallback):
    """
    Save at rollout boundaries: every ``checkpoint_freq`` steps, and when SIGINT or SIGTERM arrives.

    A second signal ends the process at once.

    :param folder: The run's folder
    :param config: The run's config
    """

    def __init__(self, folder: RunFolder, config: RunConfig) -> None:
        super().__init__()
        self.folder = folder
        self.freq = config.checkpoint_freq
        self.keep = config.keep_checkpoints
        self.last_step = 0
        self.signal: int | None = None

    def _on_training_start(self) -> None:
        self.last_step = self.num_timesteps
        self.previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in self.previous:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        print("\nstopping: finishing this rollout and saving (again to stop at once)", file=sys.stderr)
        signal.signal(number, signal.SIG_DFL)

    def _on_rollout_start(self) -> None:
        if self.signal is None and self.model.num_timesteps < self.last_step + self.freq:
            return
        self.save()
        if self.signal is not None:
            raise Interrupted(str(self.folder.path))

    def save(self) -> None:
        """Write a checkpoint now."""
        assert isinstance(self.model, OnPolicyAlgorithm)
        # The losses of the last update wait in the logger until the next dump.
        numbers = (int, float, np.floating)
        logged = self.logger.name_to_value.items()
        pending = {key: float(value) for key, value in logged if isinstance(value, numbers)}
        save_checkpoint(self.model, self.folder.checkpoints, {"pending_log": pending}, self.keep)
        self.last_step = self.model.num_timesteps

    def _on_step(self) -> bool:
        return True

    def restore_signals(self) -> None:
        """Put back the handlers that were there before training."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)


class ProgressBar(BaseCallback):
    """
    Show steps, steps/s, recent return and time left; one line every 10 seconds where there is no terminal.

    :param total: Steps at the end of training
    :param label: What is being trained
    """

    def __init__(self, total: int, label: str) -> None:
        super().__init__()
        self.total = total
        self.label = label
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn(label),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} steps"),
            TextColumn("{task.fields[speed]:,.0f}/s  return {task.fields[recent]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def _on_training_start(self) -> None:
        self.start = self.last_print = time.monotonic()
        self.first_step = self.num_timesteps
        self.task = self.bar.add_task("", total=self.total, completed=self.first_step, speed=0.0, recent="-")
        self.bar.start()

    def _on_step(self) -> bool:
        now = time.monotonic()
        if now - self.last_print >= (1 if self.console.is_terminal else 10):
            self.last_print = now
            self._show((self.num_timesteps - self.first_step) / max(now - self.start, 1e-9))
        return True

    def _on_training_end(self) -> None:
        self._show((self.num_timesteps - self.first_step) / max(time.monotonic() - self.start, 1e-9))

    def _show(self, speed: float) -> None:
        episodes = self.model.ep_info_buffer or ()
        recent = f"{np.mean([info['r'] for info in episodes]):.1f}" if episodes else "-"
        self.bar.update(self.task, completed=min(self.num_timesteps, self.total), speed=speed, recent=recent)
        if not self.console.is_terminal:
            left = max(self.total - self.num_timesteps, 0) / max(speed, 1e-9)
            self.console.print(
                f"{self.label}: {self.num_timesteps:,}/{self.total:,} steps, {speed:,.0f} steps/s, "
                f"recent return {recent}, {left:.0f} s left",
                highlight=False,
                soft_wrap=True,
            )

    def close(self) -> None:
        """Take the bar off the screen."""
        self.bar.stop()
