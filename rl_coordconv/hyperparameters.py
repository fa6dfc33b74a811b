"""
The algorithms that a run can be trained with, and their hyperparameters.

Defaults are RL Zoo's tuned Atari hyperparameters (``hyperparams/ppo.yml`` and ``a2c.yml``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

ScheduleName = Literal["constant", "linear"]


@dataclass
class PPOConfig:
    """PPO hyperparameters, named as in Stable-Baselines3.

    Args:
        n_steps: Steps per environment between two updates
        batch_size: Minibatch size
        n_epochs: Passes over each rollout
        learning_rate: Adam's learning rate at the start
        learning_rate_schedule: ``linear`` falls to 0 at the end of training
        clip_range: Clipping of the probability ratio at the start
        clip_range_schedule: ``linear`` falls to 0 at the end of training
        gamma: Discount factor
        gae_lambda: Bias-variance trade-off of generalised advantage estimation
        ent_coef: Weight of the entropy bonus
        vf_coef: Weight of the value loss
        max_grad_norm: Largest norm of the gradient
        adam_eps: Adam's epsilon
    """

    n_steps: int = 128
    batch_size: int = 256
    n_epochs: int = 4
    learning_rate: float = 2.5e-4
    learning_rate_schedule: ScheduleName = "linear"
    clip_range: float = 0.1
    clip_range_schedule: ScheduleName = "linear"
    gamma: float = 0.99
    gae_lambda: float = 0.95
    ent_coef: float = 0.01
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    adam_eps: float = 1e-5


@dataclass
class A2CConfig:
    """A2C hyperparameters, named as in Stable-Baselines3; the optimizer is its TF-style RMSprop.

    Args:
        n_steps: Steps per environment between two updates
        learning_rate: RMSprop's learning rate at the start
        learning_rate_schedule: ``linear`` falls to 0 at the end of training
        gamma: Discount factor
        gae_lambda: Bias-variance trade-off of generalised advantage estimation (1: plain returns)
        ent_coef: Weight of the entropy bonus
        vf_coef: Weight of the value loss
        max_grad_norm: Largest norm of the gradient
        rms_prop_eps: RMSprop's epsilon
    """

    n_steps: int = 5
    learning_rate: float = 7e-4
    learning_rate_schedule: ScheduleName = "constant"
    gamma: float = 0.99
    gae_lambda: float = 1.0
    ent_coef: float = 0.01
    vf_coef: float = 0.25
    max_grad_norm: float = 0.5
    rms_prop_eps: float = 1e-5


@dataclass(frozen=True)
class Algorithm:
    """
    An algorithm that a run can be trained with.

    :param model: Class with the constructor of SB3's ``PPO``, or ``"module:Class"`` where it is found, so
        that reading a config imports no algorithm
    :param hyperparameters: Dataclass whose fields, with defaults, are keyword arguments of the class; a field
        ``<name>_schedule`` says how ``<name>`` changes
    :param log_interval: Updates between two points of a curve
    :param coord_scale: What a run takes instead of the extractors' ``window`` (None: ``window``)
    """

    model: str | type[Any]
    hyperparameters: type[Any]
    log_interval: int = 1
    coord_scale: float | str | None = None


ALGORITHMS: dict[str, Algorithm] = {
    "ppo": Algorithm("rl_coordconv.algorithms:PPO", PPOConfig),
    "a2c": Algorithm("rl_coordconv.algorithms:A2C", A2CConfig, log_interval=100, coord_scale="root"),
}
"""
Algorithms by their name in configs, where each has a section of that name.

``ALGORITHMS["mine"] = Algorithm(MyPPO, MyConfig)`` adds one from anywhere, before a config is read.
"""
