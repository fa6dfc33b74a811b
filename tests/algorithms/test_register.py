"""An algorithm registered from outside trains as the built-in ones do."""

from __future__ import annotations

import contextlib
import pkgutil
from dataclasses import dataclass

import pytest
import sb3_contrib

import rl_coordconv
from rl_coordconv.algorithms import ALGORITHMS, PPO, Algorithm
from rl_coordconv.config import parse_config
from rl_coordconv.errors import UserError
from rl_coordconv.hyperparameters import PPOConfig
from rl_coordconv.runs.train import train

SMALL = [
    *("--game", "Breakout", "--n-envs", "2", "--features-dim", "8", "--total-timesteps", "256"),
    *("--max-frames", "400"),
]


@dataclass
class TRPOConfig:
    """Options of sb3-contrib's TRPO.

    Args:
        n_steps: Steps per environment between two updates
        batch_size: Minibatch size of the critic
        learning_rate: The critic's learning rate
        learning_rate_schedule: linear falls to 0
        cg_max_steps: Steps of the conjugate gradient method
    """

    n_steps: int = 64
    batch_size: int = 64
    learning_rate: float = 1e-3
    learning_rate_schedule: str = "constant"
    cg_max_steps: int = 5


def test_built_in_classes_are_where_the_table_says():
    for algorithm in ALGORITHMS.values():
        assert callable(pkgutil.resolve_name(str(algorithm.model)))


def test_registered_from_outside_it_trains_saves_and_loads(monkeypatch, tmp_path):
    monkeypatch.setitem(ALGORITHMS, "trpo", Algorithm(sb3_contrib.TRPO, TRPOConfig))
    options = [*SMALL, "--eval-freq", "0", "--eval-episodes", "1", "--output", str(tmp_path)]
    config = parse_config([*options, "--algo", "trpo", "--trpo.cg_max_steps", "3"])
    assert config.hyperparameters == TRPOConfig(cg_max_steps=3)
    folder = train(config)
    assert folder.load_config().to_dict() == config.to_dict()
    model = rl_coordconv.load_agent(folder.path, "cpu")
    assert type(model) is sb3_contrib.TRPO
    assert model.cg_max_steps == 3
    with pytest.raises(UserError, match=r"unknown option 'trpo\.cg_steps'"):
        parse_config([*options, "--algo", "trpo", "--trpo.cg_steps", "3"])


@dataclass
class EntropyConfig:
    """Options of an algorithm that has no rollouts.

    Args:
        batch_size: Minibatch size
        target_entropy: May be below 0
    """

    batch_size: int = 100
    target_entropy: float = -4.0


def test_what_options_of_an_algorithm_from_outside_may_be_is_its_own_affair(monkeypatch):
    monkeypatch.setitem(ALGORITHMS, "sac", Algorithm(sb3_contrib.TRPO, EntropyConfig))
    assert parse_config(SMALL).algo == "ppo"
    config = parse_config([*SMALL, "--algo", "sac", "--sac.target_entropy", "-2"])
    assert config.hyperparameters == EntropyConfig(target_entropy=-2.0)
    with pytest.raises(UserError, match=r"ppo\.n_epochs is -1"):
        parse_config([*SMALL, "--ppo.n_epochs=-1"])


def test_subclass_of_ours_keeps_its_switches(monkeypatch):
    class Half(PPO):
        """PPO whose minibatches are half as large."""

    monkeypatch.setitem(ALGORITHMS, "half", Algorithm(Half, PPOConfig))
    config = parse_config([*SMALL, "--algo", "half", "--half.batch_size", "32", "--half.n_steps", "32"])
    with contextlib.closing(rl_coordconv.runs.train.make_training_env(config)) as env:
        model = rl_coordconv.algorithms.build(config, env)
    assert isinstance(model, Half)
    assert (model.buffer, model.batch_size) == ("device", 32)
