"""Bring a saved agent back from its run folder, without running pickled code."""

from __future__ import annotations

import contextlib
from pathlib import Path

from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from rl_coordconv.config import RunConfig
from rl_coordconv.errors import UserError
from rl_coordconv.runs.checkpoints import load_parameters, newest_intact
from rl_coordconv.runs.export import MODEL, check_hashes, load_policy
from rl_coordconv.runs.folder import RunFolder
from rl_coordconv.runs.train import BuildModel, make_training_env


def find_run(path: Path) -> tuple[RunFolder, Path]:
    """
    Return the run folder and the model file that ``path`` means.

    :param path: A run folder (its best model, else the final one, else the newest checkpoint), a zip
        inside of one, or a folder from ``scripts/export.py``
    :raises UserError: There is no run, or nothing saved in it yet
    """
    if not path.exists():
        raise UserError(f"'{path}' does not exist: give a run folder or a zip inside of one")
    if path.is_file():
        for parent in list(path.absolute().parents)[:2]:
            if RunFolder(parent).config_file.is_file():
                return RunFolder(parent), path
        raise UserError(
            f"'{path}' is not inside of a run folder, so only its pickled part says how to build the "
            "agent, and that can run any code: if you trust its source, add --trust with --algo and --game"
        )
    folder = RunFolder(path)
    if (path / MODEL).is_file():
        check_hashes(path)
        return folder, path / MODEL
    folder.load_config()
    for model in (folder.best_model, folder.final_model, newest_intact(folder.checkpoints)[0]):
        if model is not None and model.is_file():
            return folder, model
    raise UserError(f"run '{path}' has saved no agent yet")


def load_run(
    path: Path | str, build_model: BuildModel, device: str = "auto"
) -> tuple[OnPolicyAlgorithm, RunConfig, Path]:
    """
    Rebuild the agent of a run from its ``config.yaml`` and the tensors in its zip.

    :param path: A run folder, a zip inside of one, or a folder from ``scripts/export.py``
    :param build_model: Makes the SB3 algorithm (``algorithms.build``)
    :param device: Where to put the agent
    :return: The agent, its run's config, and the file it came from
    :raises UserError: The folder or the zip is missing, damaged, or they do not fit together
    """
    folder, model_file = find_run(Path(path))
    config = folder.load_config(device=device)
    with contextlib.closing(make_training_env(config)) as env:
        model = build_model(config, env)
    try:
        if model_file.name == MODEL:
            load_policy(model.policy, model_file)
        else:
            model.policy.load_state_dict(load_parameters(model_file, model.device)["policy"])
    except RuntimeError as error:
        raise UserError(f"model '{model_file}' does not fit the config of its run: {error}") from None
    return model, config, model_file


def load_foreign_zip(
    path: Path, algo: str | None, game: str | None, device: str = "auto"
) -> tuple[BaseAlgorithm, RunConfig, Path]:
    """
    Load a Stable-Baselines3 zip that someone else made; its pickled part can run any code.

    :param path: The zip
    :param algo: Which class loads it
    :param game: The game it plays
    :param device: Where to put the agent
    :return: As :func:`load_run`
    :raises UserError: It cannot be loaded, or algorithm or game is not given
    """
    if algo is None or game is None:
        raise UserError("a zip from elsewhere needs --algo (ppo, a2c or dqn) and --game")
    load_parameters(path, "cpu")
    config = RunConfig(game=game, device=device).validate()
    try:
        model: BaseAlgorithm
        if algo == "ppo":
            model = PPO.load(path, device=device)
        elif algo == "a2c":
            model = A2C.load(path, device=device)
        else:
            model = DQN.load(path, device=device)
    except Exception as error:
        # Whatever unpickling a stranger's file raises is about that file.
        raise UserError(f"model '{path}' does not load as {algo}: {error}") from None
    return model, config, path
