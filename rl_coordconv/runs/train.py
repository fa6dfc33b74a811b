"""Train one agent: from a config to a finished run folder, or on from its newest intact checkpoint."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import numpy as np
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv
from torch.utils.tensorboard.writer import SummaryWriter

from rl_coordconv.algorithms import build
from rl_coordconv.config import RunConfig
from rl_coordconv.envs import make_atari_vec_env
from rl_coordconv.envs.contract import SCREEN_SIZE
from rl_coordconv.errors import UserError
from rl_coordconv.machine import available_cores, check_fits_memory, enough_memory
from rl_coordconv.runs import decisions
from rl_coordconv.runs.callbacks import (
    Checkpoints,
    CurvePoints,
    EpisodeLog,
    Interrupted,
    TensorBoardExtras,
)
from rl_coordconv.runs.checkpoints import newest_intact, restore, save_model
from rl_coordconv.runs.evaluation import PeriodicEvaluation
from rl_coordconv.runs.export import MODEL
from rl_coordconv.runs.faults import FiniteLoss, explained
from rl_coordconv.runs.folder import RunFolder
from rl_coordconv.runs.progress import ProgressReport


def train(config: RunConfig, command: str | None = None) -> RunFolder:
    """
    Train a new agent.

    :param config: Validated config
    :param command: The command line to keep in ``command.txt``
    :return: The folder of the finished run
    :raises UserError: The config cannot be run; nothing has been created by then
    :raises Interrupted: A signal asked to stop; the state is saved
    """
    folder = RunFolder(config.folder)
    folder.check_free()
    with enough_memory(f"n_envs or {config.algo}.n_steps"):
        frames = config.n_envs * getattr(config.hyperparameters, "n_steps", 1)
        check_fits_memory(frames * SCREEN_SIZE**2)
    with contextlib.closing(make_training_env(config)) as env:
        with decisions.decided(config) as (settled, known):
            model = build_within_memory(settled, env)
            folder.create(config, command)
            decisions.keep(config, folder.path, known, model)
        with folder.lock():
            learn(model, config, folder, resumed=False)
    return folder


def resume(path: Path | str) -> RunFolder:
    """
    Continue a run from its newest intact checkpoint, or from the start if there is none yet.

    :param path: The run's folder
    :return: The folder of the finished run
    :raises UserError: No run lives there, it was handed on without what training needs, or another process is
        training it
    :raises Interrupted: A signal asked to stop; the state is saved
    """
    folder = RunFolder(path)
    config = folder.load_config()
    if (folder.path / MODEL).is_file():
        raise UserError(f"'{folder.path}' is an exported agent: to train it on, see load_agent")
    if folder.finished:
        print(
            f"'{folder.path}' is finished: nothing to resume (to train on, load_agent its final_model.zip)",
            file=sys.stderr,
        )
        return folder
    with folder.lock(), contextlib.closing(make_training_env(config)) as env:
        model = rebuild(config, folder, env)
        checkpoint, damaged = newest_intact(folder.checkpoints)
        for path in damaged:
            path.rename(path.with_suffix(".damaged"))  # else it would count among those that are kept
            print(f"checkpoint '{path}' is damaged: skipped", file=sys.stderr)
        extra = restore(model, checkpoint) if checkpoint else {}
        if model._last_obs is None:  # its games are over: not those again that the run began with
            env.seed(int(np.random.SeedSequence([config.seed, model.num_timesteps]).generate_state(1)[0]))
        decisions.note_changes(folder.path, model)
        learn(model, config, folder, resumed=True, pending_log=extra.get("pending_log"))
    return folder


def rebuild(config: RunConfig, folder: RunFolder, env: VecEnv) -> OnPolicyAlgorithm:
    """Return the untrained algorithm of a run that exists, as fast as it was decided for the run."""
    kept = decisions.of_run(folder.path)
    if decisions.open_switches(config) <= kept.keys():
        return build_within_memory(decisions.settled(config, kept), env)
    with decisions.decided(config) as (settled, known):
        model = build_within_memory(settled, env)
        decisions.keep(config, folder.path, known, model)
    return model


def build_within_memory(config: RunConfig, env: VecEnv) -> OnPolicyAlgorithm:
    """Return the untrained algorithm, or say in one line what to lower where memory is too small for it."""
    with enough_memory(f"features_dim, n_envs or {config.algo}.n_steps"):
        return build(config, env)


def make_training_env(config: RunConfig) -> VecEnv:
    """Return the environments that an agent of this config learns from."""
    halves = config.halves
    if halves is None:
        # With a core for each emulator, half of them take as long as all.
        is_cuda = get_device(config.device).type == "cuda"
        halves = is_cuda and config.can_halve and config.n_envs > available_cores()
    return make_atari_vec_env(
        config.game,
        config.n_envs,
        backend=config.backend,
        seed=config.seed,
        halves=halves,
        **config.game_options,
    )


def learn(
    model: OnPolicyAlgorithm,
    config: RunConfig,
    folder: RunFolder,
    resumed: bool,
    pending_log: dict[str, float] | None = None,
) -> None:
    """
    Run SB3's ``learn`` with a run's callbacks up to ``total_timesteps``, then evaluate and save.

    :param model: New, or put where a checkpoint left off
    :param config: The run's config
    :param folder: The run's folder, locked
    :param resumed: Whether the folder already holds curves
    :param pending_log: Values that the logger held at the checkpoint
    """
    checkpoints = Checkpoints(folder, config)
    evaluation = PeriodicEvaluation(folder, config, checkpoints)
    progress = ProgressReport(folder, config, evaluation)
    # The checkpoint stands before the evaluation: a signal saves at once, resuming evaluates what was due.
    log, extras = EpisodeLog(folder, config), TensorBoardExtras(folder, config)
    callbacks = [log, extras, FiniteLoss(), checkpoints, evaluation, progress, CurvePoints(folder, config)]
    purge_step = model.num_timesteps + 1 if resumed else None
    logger: Logger | None = None
    try:
        with progress.until_the_end(model), explained(model, config, folder):
            logger = Logger(str(folder.path), [TensorBoardCurves(folder.path, purge_step)])
            model.set_logger(logger)
            for key, value in (pending_log or {}).items():
                logger.record(key, value)
            progress.report()
            # Where no step is left, it still lets the callbacks begin and end.
            model.learn(
                max(config.total_timesteps - model.num_timesteps, 0),
                callback=callbacks,
                log_interval=None,  # type: ignore[arg-type]  # CurvePoints has its own; SB3 takes None
                reset_num_timesteps=False,
            )
            if games := evaluation.final_games:
                progress.tell(f"playing {games} games for its score")
                evaluation.evaluate(games)
            save_model(model, folder.final_model)
    finally:
        checkpoints.restore_signals()
        evaluation.close()
        if logger is not None:
            with contextlib.suppress(OSError):  # on a full disk, what is to be told is already
                logger.close()


class TensorBoardCurves(TensorBoardOutputFormat):
    """
    SB3's TensorBoard output, continued after a resume without doubled points.

    :param folder: Where the event files go
    :param purge_step: First step to be written again; TensorBoard forgets older points from there on
    """

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        self.writer = SummaryWriter(str(folder), purge_step=purge_step)
        self._is_closed = False


__all__ = ["Interrupted", "learn", "resume", "train"]
