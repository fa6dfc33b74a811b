"""Bring a saved agent back from its run folder, without running pickled code and without starting a game."""

from __future__ import annotations

from pathlib import Path

from gymnasium import spaces
from safetensors import SafetensorError
from safetensors.torch import load_file
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from rl_coordconv.algorithms.build import algorithm_class, from_spaces, policy_class, sb3_arguments
from rl_coordconv.config import FRAMES, RunConfig
from rl_coordconv.errors import UserError
from rl_coordconv.runs.checkpoints import load_parameters, newest_intact
from rl_coordconv.runs.export import MODEL, check_hashes, with_aliases
from rl_coordconv.runs.folder import RunFolder, run_around


def load_agent(folder: Path | str, device: str = "auto") -> OnPolicyAlgorithm:
    """
    Return the agent in a folder; nothing in it is unpickled, no game is started.

    :param folder: From ``scripts/export.py``, or a run folder, or a zip inside of one
    :param device: auto, cpu, cuda or cuda:N
    :return: An SB3 algorithm, ready to ``predict``, or to ``learn`` after ``set_env`` with
        ``n_envs=model.n_envs`` environments, as many as its run had; it takes frames ``(n, 4, 84, 84)`` uint8
    :raises UserError: The folder is missing or damaged, hashes or shapes differ
    """
    return load_run(*find_run(Path(folder)), device)[0]


def find_run(path: Path) -> tuple[RunFolder, Path]:
    """
    Return the run folder and the model file that ``path`` means.

    :param path: A run folder (its best model, else the final one, else the newest checkpoint), a zip
        inside of one, or a folder from ``scripts/export.py``
    :raises UserError: There is no run, or nothing saved in it yet
    """
    if not path.exists():
        raise UserError(f"'{path}' does not exist: give a run folder or a zip inside of one")
    if path.name == MODEL:
        path = path.parent
    if path.is_file():
        if run := run_around(path):
            return run, path
        raise UserError(
            f"'{path}' is not inside of a run folder: scripts/evaluate.py takes it with --algo, --game and "
            "--extractor (then only tensors are read), or with --trust where it has classes of its own"
        )
    folder = RunFolder(path)
    if (path / MODEL).is_file():
        check_hashes(path)
        return folder, path / MODEL
    if not folder.config_file.is_file():
        raise UserError(f"'{path}' is not a run folder or exported agent: it holds no config.yaml")
    for model in (folder.best_model, folder.final_model, newest_intact(folder.checkpoints)[0]):
        if model is not None and model.is_file():
            return folder, model
    raise UserError(f"run '{path}' has saved no agent yet")


def load_run(folder: RunFolder, model_file: Path, device: str) -> tuple[OnPolicyAlgorithm, RunConfig]:
    """
    Rebuild the agent of a run from its ``config.yaml`` and its tensors, whatever its switches for speed were.

    :param folder: Its run's, as :func:`find_run` returns it
    :param model_file: Its zip or safetensors, likewise
    :param device: Where to put the agent
    :return: The agent and its run's config
    :raises UserError: The folder or the file is damaged, or they do not fit together
    """
    config = folder.load_config(device=device)
    is_export = model_file.name == MODEL
    try:
        weights = load_file(model_file) if is_export else load_parameters(model_file, "cpu")["policy"]
        actions = spaces.Discrete(len(weights["action_net.weight"]))
        model = from_spaces(
            algorithm_class(config),
            FRAMES,
            actions,
            config.n_envs,
            policy_class(config),
            **sb3_arguments(config),
        )
        assert isinstance(model, OnPolicyAlgorithm)
        model.policy.load_state_dict(with_aliases(weights))
    except UserError:  # it says itself what is damaged
        raise
    except (LookupError, RuntimeError, TypeError, ValueError, MemoryError, SafetensorError) as error:
        raise UserError(f"model '{model_file}' does not fit the config of its run: {error}") from None
    return model, config
