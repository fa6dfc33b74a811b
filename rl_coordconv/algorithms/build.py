"""Make the SB3 algorithm that a run's config describes."""

from __future__ import annotations

import dataclasses
import pkgutil
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from rl_coordconv.algorithms.on_policy import FastOnPolicyAlgorithm
from rl_coordconv.config import RunConfig
from rl_coordconv.errors import UserError
from rl_coordconv.extractors import policy_kwargs
from rl_coordconv.hyperparameters import ALGORITHMS
from rl_coordconv.policies import CoordActorPolicy

EPSILONS = {"adam_eps": torch.optim.Adam, "rms_prop_eps": RMSpropTFLike}
"""Hyperparameters that are an optimizer's epsilon, and say which optimizer."""

SWITCHES = ("precision", "compile", "channels_last", "buffer", "strict")


def build(config: RunConfig, env: VecEnv) -> OnPolicyAlgorithm:
    """
    Return the untrained algorithm of a config.

    :param config: Validated config
    :param env: Its training environments
    :raises UserError: The config is strict and asks for what this machine cannot do, or it sets a switch for
        speed that its algorithm does not have
    """
    model_class = algorithm_class(config)
    arguments = sb3_arguments(config)
    if issubclass(model_class, FastOnPolicyAlgorithm):
        arguments |= {name: getattr(config, name) for name in SWITCHES}
    elif config.precision == "bf16" or config.compile is True:
        raise UserError(f"{config.algo} has no switches for speed: leave out precision and compile")
    return model_class(policy_class(config), env, **arguments)


def algorithm_class(config: RunConfig) -> type[Any]:
    """Return the class of a config's algorithm."""
    model = ALGORITHMS[config.algo].model
    found: type[Any] = pkgutil.resolve_name(model) if isinstance(model, str) else model
    return found


def policy_class(config: RunConfig) -> str | type[CoordActorPolicy]:
    """Return the policy of a config, as SB3's algorithms take it."""
    return "CnnPolicy" if config.coord_critic else CoordActorPolicy


def from_spaces(
    model_class: Any,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    n_envs: int = 1,
    policy: str | type[BasePolicy] = "CnnPolicy",
    **kwargs: Any,
) -> BaseAlgorithm:
    """
    Return an algorithm without environments, made as SB3's ``load`` makes one.

    :param model_class: An SB3 class, e.g. ``PPO``
    :param observation_space: What its policy sees
    :param action_space: What its policy answers
    :param n_envs: How many environments it will take
    :param policy: Class of its policy
    :param kwargs: Further arguments of the class
    """
    model: BaseAlgorithm = model_class(policy, None, _init_setup_model=False, **kwargs)
    model.observation_space, model.action_space, model.n_envs = observation_space, action_space, n_envs
    model._setup_model()
    return model


def sb3_arguments(config: RunConfig) -> dict[str, Any]:
    """Return what SB3's own class would be given for a config."""
    values = dataclasses.asdict(config.hyperparameters)
    for name in EPSILONS:
        values.pop(name, None)
    for name in [name for name in values if f"{name}_schedule" in values]:
        values[name] = schedule(values[name], values.pop(f"{name}_schedule"))
    return {**values, "device": config.device, "seed": config.seed, "policy_kwargs": _policy_kwargs(config)}


def schedule(value: float, name: str) -> float | LinearSchedule:
    """Return a constant, or SB3's schedule that falls to 0 at the end of training."""
    return LinearSchedule(start=value, end=0.0, end_fraction=1.0) if name == "linear" else value


def _policy_kwargs(config: RunConfig) -> dict[str, Any]:
    """Return SB3's ``policy_kwargs`` for the config's extractor and optimizer."""
    policy = policy_kwargs(config.extractor, **config.extractor_options)
    if not config.share_features_extractor:  # algorithms without a critic of this kind do not take it
        policy["share_features_extractor"] = False
    for name, optimizer in EPSILONS.items():
        if (eps := getattr(config.hyperparameters, name, None)) is not None:
            policy |= {"optimizer_class": optimizer, "optimizer_kwargs": {"eps": eps}}
    return policy
