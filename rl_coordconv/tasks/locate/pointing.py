"""By reward: SB3's PPO learns to point at a square, and nobody tells it where that was."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from stable_baselines3.common.utils import LinearSchedule, safe_mean
from torch import Tensor

from rl_coordconv.errors import UserError
from rl_coordconv.runs.faults import FiniteLoss, is_not_finite
from rl_coordconv.tasks.experiment import Outcome, Run
from rl_coordconv.tasks.locate.experiment import SquareExperiment, arm_kwargs, image_space
from rl_coordconv.tasks.toy.not_so_clevr import NotSoClevr

LOG_STD_INIT = -1.0
"""With SB3's 0 an agent begins by pointing beyond the image as often as into it."""


class PointEnv(gym.Env[np.ndarray, np.ndarray]):
    """
    A square stands somewhere; the one action of an episode points at a pixel.

    Observations are ``(1, canvas, canvas) uint8``; an action is x and y in CoordConv's coordinates, -1 the
    first pixel's centre and 1 the last one's. The reward is 1 at the square's centre and falls with the
    distance, to 0 at half the canvas and below it beyond.

    :param data: The squares
    :param centres: Where they stand, ``(samples, 2) int64`` as x, y; one at random each episode
    """

    def __init__(self, data: NotSoClevr, centres: Tensor) -> None:
        self.data = data
        self.centres = centres
        self.observation_space = image_space(data)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        chosen = int(self.np_random.integers(len(self.centres)))
        self.centre = self.centres[chosen : chosen + 1]
        self.image = paint(self.data, self.centre)[0]
        return self.image, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        pointed = self.data.to_pixels(torch.as_tensor(action))
        distance = float((pointed - self.centre).norm())
        return self.image, 1 - 2 * distance / self.data.canvas, True, False, {}


@dataclass(kw_only=True)
class PointConfig(SquareExperiment):
    """Let agents of SB3's PPO point at a square for reward, also where they have never seen one.

    Args:
        extractors: Arms: names of extractors; also literal and pool-literal, which are coordconv and
            coordconv-nature-pool with the paper's literal layer as their last convolution, and
            pool-all-layers, which has coordinates in all three
        split: quadrant (a quarter of the canvas held out) or uniform (20 % held out at random)
        canvas: Side of the image in pixels
        square: Side of the square in pixels
        total_timesteps: Steps of a run, each of them an episode
        n_envs: Environments
        n_steps: Steps of each environment between updates
        batch_size: Steps per minibatch
        n_epochs: Epochs per update
        lr: Adam's learning rate at the start, which falls to 0 over the steps as a line
        seeds: One run per arm each
        device: auto, cpu, cuda or cuda:N
        name: Folder of the experiments, inside of output
        output: Folder for curves, results and figures
    """

    extractors: list[str] = field(
        default_factory=lambda: ["cnn", "coordconv", "nature-pool", "coordconv-nature-pool", "pool-literal"]
    )
    total_timesteps: int = 50_000
    n_envs: int = 32
    n_steps: int = 16
    batch_size: int = 128
    n_epochs: int = 4
    lr: float = 2e-3
    name: str = "point"

    @property
    def title(self) -> str:
        return f"PPO points at a square, {self.split} split, {self.canvas} pixels; errors in pixels"

    def check(self) -> None:
        """Refuse options that cannot be run, before anything is written."""
        super().check()
        rollout = self.n_envs * self.n_steps
        if self.batch_size < 2 or rollout % self.batch_size:
            raise UserError(
                f"batch_size is {self.batch_size}: it must be 2 or more and divide the {rollout} steps of an "
                "update (n_envs * n_steps)"
            )

    def train(self, run: Run) -> Outcome:
        data = self.data
        train = data.split(self.split, run.seed)[0]
        env = make_vec_env(lambda: PointEnv(data, train), self.n_envs)
        model = PPO(
            "CnnPolicy",
            env,
            learning_rate=LinearSchedule(self.lr, 0, 1),
            n_steps=self.n_steps,
            batch_size=self.batch_size,
            n_epochs=self.n_epochs,
            policy_kwargs={**arm_kwargs(run.arm), "log_std_init": LOG_STD_INIT},
            seed=run.seed,
            device=run.device,
        )
        # SB3 seeds environment k of run s with s + k: neighbouring runs would see nearly the same squares.
        env.seed(int(np.random.SeedSequence(run.seed).generate_state(1)[0]))
        model.set_logger(Logger(None, [TensorBoardOutputFormat(run.writer.log_dir)]))
        try:
            model.learn(self.total_timesteps, [FiniteLoss(), ShowReward(run, self.total_timesteps)])
        except (FloatingPointError, ValueError) as error:
            if not is_not_finite(error):
                raise
            raise UserError(
                f"{run.arm}/seed{run.seed} diverged at step {model.num_timesteps}; lower the learning rate"
            ) from None
        finally:
            model.logger.close()

        def pointed(centres: Tensor) -> Tensor:
            actions, _ = model.predict(paint(data, centres.cpu()), deterministic=True)
            return data.to_pixels(torch.as_tensor(actions, device=centres.device))

        return self.outcome(run, model.policy, pointed)


class ShowReward(BaseCallback):
    """
    Show the mean reward of the last 100 episodes.

    :param run: The experiment's run
    :param total: Its steps
    """

    def __init__(self, run: Run, total: int) -> None:
        super().__init__()
        self.run = run
        self.total = total

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        reward = safe_mean([episode["r"] for episode in self.model.ep_info_buffer or ()])
        done = min(self.num_timesteps, self.total)
        self.run.show_progress(done, self.total, "reward {:.3f}", torch.tensor(reward))


def paint(data: NotSoClevr, centres: Tensor) -> np.ndarray:
    """Return the images of squares at ``centres``, ``(batch, 1, canvas, canvas) uint8`` of 0 and 255."""
    return (data.squares(centres) * 255).numpy().astype(np.uint8)
