"""
The typed configuration of one training run, from a YAML file plus command-line overrides.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

import numpy as np
import torch
import yaml
from gymnasium import spaces

from rl_coordconv.envs import BACKENDS, HALVING, MAX_FRAMES, canonical_game
from rl_coordconv.envs.contract import N_STACK, SCREEN_SIZE
from rl_coordconv.errors import UserError, choose
from rl_coordconv.extractors import EXTRACTORS, Pool, check_extractor
from rl_coordconv.hyperparameters import ALGORITHMS, A2CConfig, PPOConfig
from rl_coordconv.layers import CoordInit, CoordScale
from rl_coordconv.machine import check_device
from rl_coordconv.options import check_folder_name, check_output, check_values, fill, fits, read_yaml

if TYPE_CHECKING:
    from rl_coordconv.cli import OneLineParser

FRAMES = spaces.Box(0, 255, (N_STACK, SCREEN_SIZE, SCREEN_SIZE), np.uint8)
"""What every backend's agents see."""


@dataclass
class RunConfig:
    """One training run.

    Args:
        game: Atari game as people write it: breakout, Breakout, ALE/Breakout-v5, BreakoutNoFrameskip-v4
        algo: Algorithm: ppo or a2c
        extractor: Network that turns frames into features: cnn (SB3's NatureCNN), nature-pool, impala or
            impala-pool; with coordinates coordconv, coordconv-nature-pool, coordconv-impala,
            coordconv-impala-pool
        features_dim: Size of the feature vector (null: 512 for the Nature network, 256 for IMPALA)
        coord_layers: Which convolutions of a CoordConv extractor see coordinates, from 0 (null: the first, or
            the last of one that pools)
        with_r: Whether CoordConv adds the distance from the centre as a third coordinate (null: no)
        coord_init: zeros starts as the plain network, concat as the paper's literal layer (null: zeros)
        coord_scale: Factor on the coordinates; window is one over the pixels of a window, root one over
            their root (null: window for PPO's Adam, root for A2C's RMSprop)
        pool: What an extractor that pools takes over space (null: max for Nature, average for IMPALA)
        width: Factor on the channels of an extractor that pools, or of IMPALA (null: 1)
        extractor_kwargs: Further arguments, for an extractor of your own
        share_features_extractor: Whether actor and critic have one extractor; false gives each its own
        coord_critic: Whether the critic sees coordinates as the actor does; false needs one of its own
        name: Folder of the experiment under the output folder (null: the algorithm's name)
        arm: Name of this side of a comparison (null: the extractor's name)
        seed: Seed of network, environments and action sampling
        total_timesteps: Steps to train for, over all environments together (frames = 4 x steps)
        n_envs: Environments stepped in parallel
        backend: Environment implementation: native (C++ threads), gymnasium (SB3's wrappers) or envpool
        max_frames: Emulator frames after which a game is cut off, in training and evaluation
        num_threads: Emulator threads of a C++ backend (0: OMP_NUM_THREADS if it is set, else one per core)
        device: auto, cpu, cuda or cuda:N
        output: Folder that holds all experiments
        eval_freq: Steps between two evaluations (0: none until the end)
        eval_episodes: Full games per evaluation
        final_eval_episodes: Full games of the evaluation at the end, the run's score (null: as many)
        checkpoint_freq: Steps between two checkpoints; before an evaluation there is one too
        keep_checkpoints: How many of the newest checkpoints stay
        precision: Of the features extractor: fp32, bf16 where the machine has units for it, or auto
        compile: Compile the features extractor: true, false or auto (auto measures what is faster)
        channels_last: Convolve in the channels_last memory format
        buffer: Where rollouts are kept: on the training device, each frame once, or as SB3 does on the host
        halves: Let half of the environments play while the network acts for the others (null: on CUDA where
            environments outnumber cores)
        strict: Stop, not warn, where precision or compile cannot be had
        hyperparameters: The section of the algorithm in use (null: its defaults)
    """

    game: str
    algo: str = "ppo"
    extractor: str = "coordconv"
    features_dim: int | None = None
    coord_layers: list[int] | None = None
    with_r: bool | None = None
    coord_init: CoordInit | None = None
    coord_scale: CoordScale | None = None
    pool: Pool | None = None
    width: int | None = None
    extractor_kwargs: dict[str, Any] = field(default_factory=dict)
    share_features_extractor: bool = True
    coord_critic: bool = True
    name: str | None = None
    arm: str | None = None
    seed: int = 1
    total_timesteps: int = 10_000_000
    n_envs: int = 8
    backend: str = "native"
    max_frames: int = MAX_FRAMES
    num_threads: int = 0
    device: str = "auto"
    output: str = "runs"
    eval_freq: int = 250_000
    eval_episodes: int = 10
    final_eval_episodes: int | None = None
    checkpoint_freq: int = 100_000
    keep_checkpoints: int = 3
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    compile: bool | Literal["auto"] = False
    channels_last: bool = True
    buffer: Literal["device", "host"] = "device"
    halves: bool | None = None
    strict: bool = False
    hyperparameters: Any = None

    def validate(self) -> RunConfig:
        """
        Return the config with names made canonical and defaults filled in.

        :raises UserError: A value is not allowed; nothing has been created by then
        """
        check_values(self)
        check_output(self.output)
        choose("algo", self.algo, ALGORITHMS)
        if unfit := [name for name in self.extractor_kwargs if not isinstance(name, str)]:
            raise UserError(f"extractor_kwargs names option {unfit[0]}: names must be text")
        if doubled := [name for name in self.extractor_kwargs if name in EXTRACTOR_OPTIONS]:
            raise UserError(f"extractor_kwargs is for other options: give {doubled[0]} as one of its own")
        check_extractor(self.extractor, self.extractor_options, FRAMES)
        self._check_critic()
        choose("backend", self.backend, BACKENDS)
        hyperparameters = self._checked_hyperparameters()
        if self.halves and not self.can_halve:
            raise UserError(
                f"halves needs backend {' or '.join(HALVING)} and buffer device, not {self.backend} and "
                f"{self.buffer}"
            )
        check_device(self.device)
        changes: dict[str, Any] = {
            "game": canonical_game(self.game),
            "name": self.name or self.algo,
            "arm": self.arm or self.extractor,
            "hyperparameters": hyperparameters,
        }
        takes_window = EXTRACTORS[self.extractor].defaults.get("coord_scale") == "window"
        if takes_window and self.coord_scale is None:
            changes["coord_scale"] = ALGORITHMS[self.algo].coord_scale
        for part in ("name", "arm"):
            check_folder_name(part, changes[part])
        return dataclasses.replace(self, **changes)

    def _check_critic(self) -> None:
        if self.coord_critic:
            return
        if self.share_features_extractor:
            raise UserError("coord_critic false needs share_features_extractor false")
        if "coord_layers" not in EXTRACTORS[self.extractor].options:
            raise UserError(f"coord_critic false needs an extractor with coordinates, not {self.extractor}")

    def _checked_hyperparameters(self) -> Any:
        """Return the section of the algorithm, its defaults where there is none."""
        section = ALGORITHMS[self.algo].hyperparameters
        values = section() if self.hyperparameters is None else self.hyperparameters
        if not isinstance(values, section):
            raise UserError(f"hyperparameters of {self.algo} are a {section.__name__}, got {values}")
        _check_section(values, self.algo)
        if isinstance(values, PPOConfig) and values.batch_size < 2:  # whose advantages have no deviation
            raise UserError(f"{self.algo}.batch_size is {values.batch_size}: it must be 2 or more")
        if not hasattr(values, "n_steps"):
            return values
        rollout = self.n_envs * values.n_steps
        if rollout % getattr(values, "batch_size", 1):
            raise UserError(
                f"{self.algo}.batch_size {values.batch_size} does not divide a rollout of n_envs "
                f"{self.n_envs} x {self.algo}.n_steps {values.n_steps} = {rollout} steps"
            )
        return values

    @property
    def folder(self) -> Path:
        """Where the run lives: ``<output>/<name>/<game>/<arm>/seed<k>``."""
        assert self.name is not None
        assert self.arm is not None
        return Path(self.output) / self.name / self.game / self.arm / f"seed{self.seed}"

    @property
    def extractor_options(self) -> dict[str, Any]:
        """What the config says of its extractor, as arguments of :func:`~.extractors.policy_kwargs`."""
        given = {name: getattr(self, name) for name in EXTRACTOR_OPTIONS}
        return {
            **{name: value for name, value in given.items() if value is not None},
            **self.extractor_kwargs,
        }

    @property
    def can_halve(self) -> bool:
        """Whether half of the environments can play while the network acts for the others."""
        return self.backend in HALVING and self.buffer == "device"

    @property
    def game_options(self) -> dict[str, Any]:
        """What training and evaluation alike tell ``make_atari_vec_env`` about a game."""
        share = torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else 0
        return {"max_frames": self.max_frames, "num_threads": self.num_threads or share}

    def to_dict(self) -> dict[str, Any]:
        """
        Return the config as plain YAML values; hyperparameters are the section of the algorithm.

        Options of the extractor that are not given have the values that it takes for them today, so that what
        is written down means the same when its defaults change.
        """
        values = dataclasses.asdict(self)
        hyperparameters = values.pop("hyperparameters")
        hints = get_type_hints(RunConfig)
        for name, default in EXTRACTORS[self.extractor].defaults.items():
            if name in EXTRACTOR_OPTIONS and values[name] is None and fits(default, hints[name]):
                values[name] = default
        return {**values, self.algo: hyperparameters}

    def to_yaml(self) -> str:
        """Return the config as YAML that :func:`load_config` reads back."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


EXTRACTOR_OPTIONS = ("features_dim", "coord_layers", "with_r", "coord_init", "coord_scale", "pool", "width")


def build_parser() -> OneLineParser:
    """Return the parser of ``scripts/train.py``: every field of :class:`RunConfig`, and ``--config``."""
    from rl_coordconv.cli import OneLineParser  # of the extra [train]; loading an agent does without

    parser = OneLineParser(
        prog="train.py",
        allow_abbrev=False,
        description="Train an agent on an Atari game, or go on with a run: --resume RUN and nothing else.",
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_class_arguments(RunConfig, fail_untyped=True, skip={"hyperparameters"})
    for name, algorithm in ALGORITHMS.items():
        parser.add_class_arguments(algorithm.hyperparameters, name)
    return parser


def parse_config(args: Sequence[str]) -> RunConfig:
    """
    Build a validated config from command-line arguments.

    :param args: E.g. ``["--config", "configs/ppo_atari.yaml", "--n-envs", "4"]``; dashes and
        underscores in option names are the same
    :raises UserError: A key or value is not allowed
    """
    values = build_parser().parse_dashed(args, RunConfig)
    names = [entry.name for entry in dataclasses.fields(RunConfig) if entry.name != "hyperparameters"]
    config = RunConfig(**{name: values[name] for name in names})
    for name in ALGORITHMS:
        if name != config.algo and (others := [arg for arg in args if arg.startswith(f"--{name}.")]):
            print(f"note: {others[0]} has no effect with --algo {config.algo}", file=sys.stderr)
    return _with_section(config, {name: values[name] for name in ALGORITHMS})


def load_config(path: Path | str, **overrides: Any) -> RunConfig:
    """
    Read a validated config from a YAML file.

    :param path: File written by hand or by :meth:`RunConfig.to_yaml`
    :param overrides: Fields to change, e.g. ``seed=2``
    :raises UserError: The file is missing or holds a key or value that is not allowed
    """
    return config_from_dict({**read_yaml(path), **overrides}, str(path))


def upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """
    Return the options of a run that version 0.1.0 wrote, in today's words; today's as they are.

    :param values: A ``config.yaml`` that a run wrote: it names every option
    """
    if "coord_init" in values:
        return values
    values = {"halves" if name == "overlap" else name: value for name, value in values.items()}
    if values.get("precision") == "bf16-rounding":  # rounded, but computed in float32
        values["precision"] = "fp32"
    if str(values.get("extractor")).startswith("coordconv"):
        return {**values, "coord_init": "concat", "coord_scale": 1.0}
    return {name: value for name, value in values.items() if name not in ("coord_layers", "with_r")}


def config_from_dict(values: dict[str, Any], source: str) -> RunConfig:
    """
    Build a validated config from plain values.

    :param values: As in a YAML file; what is missing takes its default
    :param source: Where they come from, for the error message
    :raises UserError: A key or value is not allowed
    """
    sections = {name: values.get(name, {}) for name in ALGORITHMS}
    rest = {name: value for name, value in values.items() if name not in ALGORITHMS}
    try:
        if "hyperparameters" in rest:
            raise UserError(f"hyperparameters go into a section of their algorithm: {', '.join(ALGORITHMS)}")
        for name, section in sections.items():
            if not isinstance(section, dict):
                raise UserError(f"{name} is {section}: it must hold 'option: value' lines")
        config = fill(RunConfig, rest)
        filled = {
            name: fill(algorithm.hyperparameters, sections[name], f"{name}.")
            for name, algorithm in ALGORITHMS.items()
        }
        return _with_section(config, filled)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _with_section(config: RunConfig, sections: Mapping[str, Any]) -> RunConfig:
    """Return the config with the section of its algorithm, after a look at all of them."""
    for name, section in sections.items():
        _check_section(section, name)
    algo = choose("algo", config.algo, ALGORITHMS)
    return dataclasses.replace(config, hyperparameters=sections[algo]).validate()


def _check_section(section: Any, algo: str) -> None:
    """Check the hyperparameters of an algorithm; what those of one from elsewhere may be, it has to say."""
    check_values(section, f"{algo}.", isinstance(section, (PPOConfig, A2CConfig)))
