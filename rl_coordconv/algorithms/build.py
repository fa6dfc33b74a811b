"""Make the SB3 algorithm that a run's config describes."""

from __future__ import annotations

import dataclasses
from typing import Any

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from rl_coordconv.algorithms.a2c import A2C
from rl_coordconv.algorithms.ppo import PPO
from rl_coordconv.config import RunConfig
from rl_coordconv.extractors import policy_kwargs


def build(config: RunConfig, env: VecEnv) -> OnPolicyAlgorithm:
    """
    Return the untrained algorithm of a config.

    :param config: Validated config
    :param env: Its training environments
    :raises UserError: The config is strict, and this machine cannot do what it asks for
    """
    algorithm: Any = PPO if config.algo == "ppo" else A2C
    return algorithm(
        "CnnPolicy",
        env,
        **sb3_arguments(config),
        precision=config.precision,
        compile=config.compile,
        channels_last=config.channels_last,
        buffer=config.buffer,
        strict=config.strict,
    )


def sb3_arguments(config: RunConfig) -> dict[str, Any]:
    """Return what SB3's own ``PPO`` or ``A2C`` would be given for a config."""
    values = dataclasses.asdict(config.hyperparameters)
    values.pop("rms_prop_eps", None)
    for name in ("learning_rate", "clip_range"):
        if name in values:
            values[name] = schedule(values[name], values.pop(f"{name}_schedule"))
    return {**values, "device": config.device, "seed": config.seed, "policy_kwargs": _policy_kwargs(config)}


def schedule(value: float, name: str) -> float | LinearSchedule:
    """Return a constant, or SB3's schedule that falls to 0 at the end of training."""
    return LinearSchedule(start=value, end=0.0, end_fraction=1.0) if name == "linear" else value


def _policy_kwargs(config: RunConfig) -> dict[str, Any]:
    """Return SB3's ``policy_kwargs`` for the config's extractor (and A2C's TF-style RMSprop)."""
    policy = policy_kwargs(config.extractor, **config.extractor_options)
    if config.algo == "a2c":
        policy |= {"optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"eps": config.a2c.rms_prop_eps}}
    return policy
