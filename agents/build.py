"""Make the SB3 algorithm that a run's config describes."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from agents.a2c import A2C
from agents.ppo import PPO
from rl_coordconv.extractors import CoordConvImpalaCNN, CoordConvNatureCNN
from rl_coordconv.runs.config import RunConfig


def build(config: RunConfig, env: VecEnv) -> OnPolicyAlgorithm:
    """
    Return the untrained algorithm of a config.

    :param config: Validated config
    :param env: Its training environments
    """
    common: dict[str, Any] = {
        "device": config.device,
        "seed": config.seed,
        "policy_kwargs": policy_kwargs(config),
        "precision": config.precision,
        "compile": config.compile,
        "channels_last": config.channels_last,
        "buffer": config.buffer,
        "strict": config.strict,
    }
    if config.algo == "ppo":
        ppo = config.ppo
        return PPO(
            "CnnPolicy",
            env,
            learning_rate=schedule(ppo.learning_rate, ppo.learning_rate_schedule),
            n_steps=ppo.n_steps,
            batch_size=ppo.batch_size,
            n_epochs=ppo.n_epochs,
            gamma=ppo.gamma,
            gae_lambda=ppo.gae_lambda,
            clip_range=schedule(ppo.clip_range, ppo.clip_range_schedule),
            ent_coef=ppo.ent_coef,
            vf_coef=ppo.vf_coef,
            max_grad_norm=ppo.max_grad_norm,
            **common,
        )
    a2c = config.a2c
    return A2C(
        "CnnPolicy",
        env,
        learning_rate=schedule(a2c.learning_rate, a2c.learning_rate_schedule),
        n_steps=a2c.n_steps,
        gamma=a2c.gamma,
        gae_lambda=a2c.gae_lambda,
        ent_coef=a2c.ent_coef,
        vf_coef=a2c.vf_coef,
        max_grad_norm=a2c.max_grad_norm,
        **common,
    )


def schedule(value: float, name: str) -> float | LinearSchedule:
    """Return a constant, or SB3's schedule that falls to 0 at the end of training."""
    return LinearSchedule(start=value, end=0.0, end_fraction=1.0) if name == "linear" else value


def policy_kwargs(config: RunConfig) -> dict[str, Any]:
    """Return SB3's ``policy_kwargs`` for the config's extractor (and A2C's TF-style RMSprop)."""
    kwargs: dict[str, Any] = {} if config.features_dim is None else {"features_dim": config.features_dim}
    if config.extractor != "cnn":
        plain = config.extractor == "impala"
        kwargs |= {"coord_layers": [] if plain else config.coord_layers, "with_r": config.with_r}
    extractors = {"cnn": NatureCNN, "coordconv": CoordConvNatureCNN}
    # SB3 leaves out its hidden layers of 64 only for its own NatureCNN; the arms must not differ in them.
    policy: dict[str, Any] = {
        "net_arch": [],
        "features_extractor_class": extractors.get(config.extractor, CoordConvImpalaCNN),
        "features_extractor_kwargs": kwargs,
    }
    if config.algo == "a2c":
        policy |= {"optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"eps": config.a2c.rms_prop_eps}}
    return policy
