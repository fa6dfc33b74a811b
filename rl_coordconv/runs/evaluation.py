"""Evaluation on full games with raw scores: now and then during training, or of a saved agent."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Image
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from rl_coordconv.config import RunConfig
from rl_coordconv.envs import make_atari_vec_env
from rl_coordconv.errors import UserError
from rl_coordconv.runs.bias_maps import bias_maps, bias_picture
from rl_coordconv.runs.callbacks import Checkpoints, RunCallback
from rl_coordconv.runs.checkpoints import save_model
from rl_coordconv.runs.folder import RunFolder

if TYPE_CHECKING:
    from rich.table import Table

# Seeds of evaluation environments start here, away from those of training.
EVAL_SEED = 10_000


def make_eval_env(config: RunConfig, n_envs: int, backend: str | None = None) -> VecEnv:
    """
    Return environments as in training, but with raw rewards and the returns of whole games.

    An agent of SB3's wrappers is played with a lost life as an end of an episode: only there do these press
    FIRE for it. A game that ends in the steps which they take then is not counted, as in SB3.

    :param config: The run's config
    :param n_envs: How many
    :param backend: Backend to use instead of the run's
    """
    return make_atari_vec_env(
        config.game,
        n_envs,
        backend=backend or config.backend,
        seed=config.seed + EVAL_SEED,
        clip_reward=False,
        terminal_on_life_loss=config.backend == "gymnasium",
        **config.game_options,
    )


def play_games(
    model: BaseAlgorithm,
    env: VecEnv,
    n_games: int,
    seed: int,
    deterministic: bool = False,
    callback: Callable[[dict[str, Any], dict[str, Any]], None] | None = None,
) -> tuple[list[float], list[int]]:
    """
    Play full games and leave every random state of the process as it was.

    :param model: The agent
    :param env: From :func:`make_eval_env`
    :param n_games: How many games, shared evenly over the environments
    :param seed: Seed of the environments and of action sampling
    :param deterministic: Take the likeliest action instead of sampling (Atari results are usually sampled)
    :param callback: Called after every step with the locals of SB3's ``evaluate_policy``
    :return: Raw return and length in steps of each game
    :raises UserError: The agent has other actions or observations than the game
    """
    if env.action_space != model.action_space:
        raise UserError(
            f"the agent chooses from {model.action_space}, the game has {env.action_space}: another game's?"
        )
    seen, shown = model.observation_space.shape, env.observation_space.shape
    if seen != shown:
        raise UserError(f"the agent sees observations of shape {seen}, the game has {shown}")
    with own_random_states(model, seed):
        env.seed(seed)
        returns, lengths = evaluate_policy(
            model,
            env,
            n_games,
            deterministic=deterministic,
            return_episode_rewards=True,
            callback=callback,
        )
    assert isinstance(returns, list)
    assert isinstance(lengths, list)
    return [float(value) for value in returns], [int(value) for value in lengths]


@contextlib.contextmanager
def own_random_states(model: BaseAlgorithm, seed: int) -> Iterator[None]:
    """
    Seed everything that an agent's actions are drawn with, and put it back afterwards.

    :param model: The agent; PPO and A2C draw with PyTorch, DQN with NumPy and its action space
    :param seed: Of all of them
    """
    devices = [model.device] if model.device.type == "cuda" else []
    numpy_state = np.random.get_state()
    space_state = model.action_space.np_random.bit_generator.state
    with torch.random.fork_rng(devices):
        try:
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            model.action_space.seed(seed)
            yield
        finally:
            np.random.set_state(numpy_state)
            model.action_space.np_random.bit_generator.state = space_state


def summarise_games(returns: list[float]) -> dict[str, float]:
    """
    Return mean, std, IQM (mean without the lowest and the highest quarter of the games), min and max.

    :param returns: Raw returns, at least one
    """
    cut = len(returns) // 4
    return {
        "mean": float(np.mean(returns)),
        "std": float(np.std(returns)),
        "iqm": float(np.mean(np.sort(returns)[cut : len(returns) - cut])),
        "min": float(np.min(returns)),
        "max": float(np.max(returns)),
    }


def score_table(returns: list[float]) -> Table:
    """
    Return the table that people read: games, mean, std, IQM, min and max.

    :param returns: Raw returns, at least one
    """
    from rich.table import Table  # of the extra [train]; loading an agent does without

    table = Table("games", "mean", "std", "IQM", "min", "max")
    table.add_row(str(len(returns)), *(f"{value:.1f}" for value in summarise_games(returns).values()))
    return table


def best_of(records: list[dict[str, Any]]) -> dict[str, Any]:
    """
    Return the evaluation whose agent is ``best_model.zip``: the first with the highest mean.

    :param records: From :meth:`~.folder.RunFolder.read_evaluations`, at least one with an agent
    """
    return max(with_agent(records), key=lambda record: float(np.mean(record["returns"])))


def with_agent(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the evaluations since the last time that a resume had to forget the best agent."""
    return [record for record in records if not record.get("agent_forgotten")]


class PeriodicEvaluation(RunCallback):
    """
    Play full games every ``eval_freq`` steps and at the end; log ``eval/*`` and keep the best agent.

    It happens at rollout boundaries with random states of its own, so that a run with and one without
    evaluations train alike, and a resumed run like an uninterrupted one.

    :param folder: The run's folder
    :param config: The run's config
    :param checkpoints: Save before games are played, and say whether a signal came; the resume plays them
    """

    env: VecEnv | None = None
    best = -float("inf")
    last_step = 0
    seconds = 0.0  # spent on games

    def __init__(self, folder: RunFolder, config: RunConfig, checkpoints: Checkpoints) -> None:
        super().__init__(folder, config)
        self.checkpoints = checkpoints

    def _on_training_start(self) -> None:
        records = self.folder.read_evaluations()
        kept = [record for record in records if record["step"] <= self.num_timesteps]
        if with_agent(records) and best_of(records) not in kept:
            # Its evaluation is forgotten below, and its score would be taken for another's.
            self.folder.best_model.unlink(missing_ok=True)
            kept = [{**record, "agent_forgotten": True} for record in kept]
        has_best = bool(with_agent(kept))
        self.best = float(np.mean(best_of(kept)["returns"])) if has_best else self.best
        self.last_step = max((record["step"] for record in kept), default=0)
        self.folder.write_evaluations(kept)
        if has_best and best_of(kept)["step"] == self.num_timesteps:
            # The process may have died between the line and the agent.
            assert isinstance(self.model, OnPolicyAlgorithm)
            save_model(self.model, self.folder.best_model)

    def _on_rollout_start(self) -> None:
        freq = self.config.eval_freq
        if freq and self.model.num_timesteps // freq > self.last_step // freq:
            self.evaluate(self.config.eval_episodes)

    @property
    def final_games(self) -> int:
        """Games to play once training is over, whose mean is the run's score; 0 if they have been played."""
        is_due = self.last_step < self.model.num_timesteps
        return (self.config.final_eval_episodes or self.config.eval_episodes) if is_due else 0

    def evaluate(self, n_games: int) -> None:
        """
        Play games now, log them, and save the agent if it is the best so far.

        :param n_games: How many
        :raises Interrupted: A signal came; a checkpoint is saved
        """
        self.checkpoints.save()  # a run that is killed goes on from here, with this evaluation
        assert isinstance(self.model, OnPolicyAlgorithm)
        n_envs = min(self.config.n_envs, n_games)
        if self.env is None or self.env.num_envs != n_envs:
            self.close()
            self.env = make_eval_env(self.config, n_envs)
        seed = self.config.seed + EVAL_SEED
        step = self.last_step = self.model.num_timesteps
        start = time.monotonic()
        try:
            returns, lengths = play_games(
                self.model, self.env, n_games, seed, callback=self.checkpoints.stop_if_asked
            )
        finally:
            self.seconds += time.monotonic() - start
        self.folder.append_evaluation({"step": step, "returns": returns, "lengths": lengths})
        mean = float(np.mean(returns))
        writer = self.logger.output_formats[0]
        pictures = {
            f"coordconv/{layer}/positional_bias": Image(bias_picture(maps), "HWC")
            for layer, maps in bias_maps(self.model.policy, self.env.observation_space.shape or ()).items()
        }
        values: dict[str, Any] = {
            "eval/mean_reward": mean,
            "eval/iqm": summarise_games(returns)["iqm"],
            "eval/mean_ep_length": float(np.mean(lengths)),
            **pictures,
        }
        writer.write(values, dict.fromkeys(values, ()), step)
        if mean > self.best:
            self.best = mean
            save_model(self.model, self.folder.best_model)

    def close(self) -> None:
        """Close the evaluation environments."""
        if self.env is not None:
            self.env.close()
