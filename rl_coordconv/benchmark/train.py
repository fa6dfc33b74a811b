"""Peers of the training benchmark: whole ``learn()`` calls of PPO or A2C, SB3's own and ours."""

from __future__ import annotations

from typing import Any

import stable_baselines3

from rl_coordconv import algorithms
from rl_coordconv.algorithms.build import sb3_arguments
from rl_coordconv.benchmark.setting import Benchmark, Cases, Peer, Setting
from rl_coordconv.config import RunConfig
from rl_coordconv.envs import make_atari_vec_env
from rl_coordconv.runs.train import make_training_env


def learning(model: Any, setting: Setting) -> Cases:
    """Return the case of an SB3 algorithm that goes on learning, a rollout (PPO) or 20 (A2C) at a time."""
    steps = model.n_steps * setting.n_envs * (20 if setting.algo == "a2c" else 1)

    def run() -> int:
        before = model.num_timesteps
        model.learn(steps, log_interval=None, reset_num_timesteps=False)
        return int(model.num_timesteps - before)

    return {f"{setting.algo.upper()}, {setting.game}, {setting.n_envs} environments": run}


def run_config(setting: Setting, extractor: str, **switches: Any) -> RunConfig:
    """Return RL Zoo's hyperparameters for one kind of network; a switch that cannot be had is an error."""
    options: dict[str, Any] = {"algo": setting.algo, "n_envs": setting.n_envs, "device": setting.device}
    return RunConfig(setting.game, extractor=extractor, strict=True, **options, **switches).validate()


def sb3(**env_options: Any) -> Peer:
    """Return the case of SB3's own algorithm with environments of these options."""

    def build(setting: Setting) -> Cases:
        env = make_atari_vec_env(setting.game, setting.n_envs, seed=1, **env_options)
        algorithm: Any = {"ppo": stable_baselines3.PPO, "a2c": stable_baselines3.A2C}[setting.algo]
        return learning(algorithm("CnnPolicy", env, **sb3_arguments(run_config(setting, "cnn"))), setting)

    return build


def ours(extractor: str, **switches: Any) -> Peer:
    """Return the case of our algorithm with an extractor and switches of the run config."""

    def build(setting: Setting) -> Cases:
        config = run_config(setting, extractor, **switches)
        return learning(algorithms.build(config, make_training_env(config)), setting)

    return build


TRAIN = Benchmark(
    title="Training with RL Zoo's hyperparameters, from environments to optimizer",
    peers={
        "sb3": sb3(backend="gymnasium", vec_env="dummy"),
        "sb3-subproc": sb3(backend="gymnasium", vec_env="subproc"),
        "sb3-native": sb3(backend="native"),
        "ours-cnn": ours("cnn"),
        "ours-coordconv": ours("coordconv"),
        "ours-coordconv-compile": ours("coordconv", compile=True),
        "ours-coordconv-bf16": ours("coordconv", precision="bf16"),
        "ours-coordconv-bf16-compile": ours("coordconv", precision="bf16", compile=True),
    },
    reference="sb3",
    unit="steps/s",
    seconds=5.0,
    rounds=3,
)
