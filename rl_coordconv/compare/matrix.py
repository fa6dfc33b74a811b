"""
The matrix of a comparison: games x arms x seeds from one YAML file.

An arm is a named set of options of ``scripts/train.py``, so adding an arm is adding lines::

    name: placement
    games: [Breakout, Pong]
    seeds: [1, 2, 3]
    score: eval                         # the final evaluation (default), or train: the last tenth of training
    baseline: cnn                       # the arm that others are compared with (default: cnn, else the first)
    common: {config: ../ppo_atari.yaml, total_timesteps: 1_000_000}
    arms:
      cnn: {extractor: cnn}
      coordconv-all: {extractor: coordconv, coord_layers: [0, 1, 2]}
      my-old-runs:                      # trained elsewhere with SB3 or RL Zoo; * stands for any text
        folders: {Breakout: logs/a2c/BreakoutNoFrameskip-v4_*}

Paths are relative to the YAML file. The same seed gives every arm the same environment seeds.
"""

from __future__ import annotations

import dataclasses
import glob
from pathlib import Path
from typing import Any

from rl_coordconv.compare.comparison import SCORE_KINDS, Comparison
from rl_coordconv.compare.foreign import check_holds_run
from rl_coordconv.compare.rundata import run_name
from rl_coordconv.config import RunConfig, config_from_dict
from rl_coordconv.envs import canonical_game
from rl_coordconv.errors import UserError, choose
from rl_coordconv.options import check_folder_name, read_yaml, repeated
from rl_coordconv.runs.folder import RunFolder

KEYS = ("name", "games", "seeds", "baseline", "output", "common", "arms", "score")
SET_BY_MATRIX = ("game", "seed", "arm", "name", "output")
# Options that may change between two starts of a comparison: they do not change what is learned.
MAY_DIFFER = ("output", "device", "num_threads", "checkpoint_freq", "keep_checkpoints", "eval_freq", "strict")


def label(config: RunConfig) -> str:
    """Return how people and TensorBoard call a run: ``Breakout/coordconv/seed1``."""
    return run_name(config.game, str(config.arm), config.seed)


def load_comparison(path: Path, output: str | None = None) -> Comparison:
    """
    Read a comparison and validate every run of it.

    :param path: YAML file
    :param output: Folder that holds all experiments, instead of the file's
    :raises UserError: It is empty, doubled, or an arm's options do not load; nothing has been created
    """
    values = read_yaml(path)
    games, arms, seeds = _checked_names(values, path)
    baseline = str(values.get("baseline") or ("cnn" if "cnn" in arms else next(iter(arms))))
    choose(f"baseline in {path}", baseline, arms)
    score = choose(f"score in {path}", str(values.get("score") or "eval"), SCORE_KINDS)
    name = str(values.get("name") or path.stem)
    check_folder_name(f"name in {path}", name)
    place = {"name": name, "output": output or values.get("output") or "runs"}
    first = [_arm_config(arm, options, values, games[0], place, path) for arm, options in arms.items()]
    trained = [config for config in first if config is not None]
    _check_all_different(trained, path)
    runs = [
        dataclasses.replace(config, game=game, seed=seed).validate()
        for seed in seeds
        for game in games
        for config in trained
    ]
    foreign = {
        arm: _foreign_folders(arm, options["folders"], games, path)
        for arm, options in arms.items()
        if options and "folders" in options
    }
    folder = Path(place["output"]) / name
    options = {str(config.arm): options_of_arm(config) for config in trained}
    return Comparison(
        folder, tuple(games), tuple(arms), tuple(seeds), baseline, tuple(runs), foreign, score, options
    )


def _checked_names(values: dict[str, Any], path: Path) -> tuple[list[str], dict[str, Any], list[int]]:
    """Return games, the options of every arm, and seeds; each once."""
    for key in values:
        if "arms" not in values and key in RunConfig.__dataclass_fields__ and key not in KEYS:
            raise UserError(
                f"{path} holds a run's options ('{key}'), not a comparison: give it to "
                "scripts/train.py --config"
            )
        choose(f"key in {path}", key, KEYS)
    games = [canonical_game(game) for game in _several(values, "games", path)]
    seeds = _several(values, "seeds", path)
    arms = values.get("arms")
    if not isinstance(arms, dict) or not arms:
        raise UserError(
            f"{path}: arms is {arms}: give at least one, e.g. 'arms: {{cnn: {{extractor: cnn}}}}'"
        )
    for what, found in (("game", games), ("seed", seeds)):
        if twice := repeated(found):
            raise UserError(f"{path}: {what} {twice[0]} is given twice")
    for seed in seeds:
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise UserError(f"{path}: seed '{seed}' must be a whole number")
    for arm in arms:
        check_folder_name(f"arm in {path}", str(arm))
    return games, {str(arm): options for arm, options in arms.items()}, seeds


def options_of_arm(config: RunConfig) -> dict[str, Any]:
    """Return the options of a run that decide what is learned, without those that the matrix sets."""
    left_out = {*SET_BY_MATRIX, *MAY_DIFFER}
    return {key: value for key, value in config.to_dict().items() if key not in left_out}


def check_existing_runs(comparison: Comparison) -> None:
    """
    Make sure that runs which are already there were trained with the same options.

    :raises UserError: One was not; it is left as it is
    """
    for config in comparison.runs:
        run = RunFolder(config.folder)
        if not run.config_file.is_file():
            continue
        if found := difference(options_of_arm(run.load_config(device="cpu")), options_of_arm(config)):
            raise UserError(
                f"run '{run.path}' is there with {found}: name the comparison otherwise, or remove that run"
            )


def check_recorded_options(comparison: Comparison, recorded: Comparison) -> None:
    """
    Make sure that scores which are already recorded come from the same options; arms may have been added.

    :param comparison: What is wanted
    :param recorded: From the folder of the scores
    :raises UserError: An arm was trained with others, or what is recorded is no longer an option
    """
    for arm in comparison.arms:
        if arm in recorded.arms and (arm in comparison.foreign) != (arm in recorded.foreign):
            kind = "trained elsewhere" if arm in recorded.foreign else "trained here"
            raise UserError(
                f"'{recorded.file}' records arm '{arm}' as {kind}, which it is not: give it another name"
            )
    for arm, wanted in comparison.options.items():
        if arm not in recorded.options:
            continue
        values = {**recorded.options[arm], "game": comparison.games[0], "device": "cpu"}
        there = options_of_arm(config_from_dict(values, f"{recorded.file}: arm '{arm}'"))
        if found := difference(there, wanted):
            raise UserError(
                f"'{recorded.file}' records arm '{arm}' with {found}: give another results folder, or the "
                "arm another name"
            )


def difference(there: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Return the first option in which a run that is there differs, in words; empty if there is none."""
    for key, value in wanted.items():
        if there.get(key) != value:
            return f"{key} {there.get(key)}, but the comparison wants {value}"
    return ""


def _several(values: dict[str, Any], key: str, path: Path) -> list[Any]:
    found = values.get(key)
    if not isinstance(found, list) or not found:
        raise UserError(f"{path}: {key} is {found}: give a list of at least one, e.g. '{key}: [...]'")
    return found


def _arm_config(
    arm: str, options: Any, values: dict[str, Any], game: str, place: dict[str, Any], path: Path
) -> RunConfig | None:
    """Return the config of an arm on one game, or None for an arm trained elsewhere."""
    where = f"{path}: arm '{arm}'"
    if options is None:
        raise UserError(f"{where} has no options: give some, indented below it, or {{}} for the defaults")
    common = values.get("common") or {}
    if not isinstance(options, dict) or not isinstance(common, dict):
        raise UserError(f"{where}: its options, and 'common', must be 'option: value' lines")
    if "folders" in options:
        if len(options) > 1:
            raise UserError(
                f"{where}: 'folders' says that it is trained already, so it takes no other option"
            )
        return None
    merged = _merge(common, options)
    for key in SET_BY_MATRIX:
        if key in merged:
            raise UserError(f"{where}: '{key}' is set by the comparison, not by an arm")
    file = merged.pop("config", None)
    if file is not None and not isinstance(file, str):
        raise UserError(f"{where}: config is {file}: it must be a file name")
    base = read_yaml(path.parent / file) if file else {}
    fixed = {**place, "game": game, "arm": arm}
    return config_from_dict({**_merge(base, merged), **fixed}, where)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the values of ``over``, section by section."""
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        merged[key] = _merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def _check_all_different(configs: list[RunConfig], path: Path) -> None:
    for index, config in enumerate(configs):
        for other in configs[:index]:
            if dataclasses.replace(config, arm=other.arm).to_dict() == other.to_dict():
                raise UserError(f"{path}: arms '{other.arm}' and '{config.arm}' have the same options")


def _foreign_folders(arm: str, folders: Any, games: list[str], path: Path) -> dict[str, list[Path]]:
    where = f"{path}: arm '{arm}'"
    if not isinstance(folders, dict) or not folders:
        raise UserError(f"{where}: folders must be 'game: folder' lines")
    found: dict[str, list[Path]] = {}
    for game, patterns in folders.items():
        choose(f"game of arm '{arm}'", canonical_game(game), games)
        paths: list[Path] = []
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            matches = sorted(glob.glob(str(Path(glob.escape(str(path.parent))) / str(pattern))))
            if not matches:
                raise UserError(f"{where}: there is no folder '{path.parent / str(pattern)}'")
            paths += [Path(match).resolve() for match in matches]
        if twice := repeated(paths):
            raise UserError(f"{where}: folder '{twice[0]}' is given twice")
        if canonical_game(game) in found:
            raise UserError(f"{where}: game {canonical_game(game)} is given twice")
        found[canonical_game(game)] = paths
    for run in (run for paths in found.values() for run in paths):
        check_holds_run(run, where)
    return found
