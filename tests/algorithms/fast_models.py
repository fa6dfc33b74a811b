"""Small models of the fast PPO and A2C, and of SB3's own."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

from rl_coordconv import CoordConvNatureCNN, make_atari_vec_env
from rl_coordconv.algorithms.buffer import DeviceRolloutBuffer
from rl_coordconv.algorithms.frames import FrameStore

FAST: dict[str, Any] = {"channels_last": True, "buffer": "device"}
PPO_SIZE: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 2}
TF_STYLE = {"optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"eps": 1e-5}}
POLICY = {
    "features_extractor_class": CoordConvNatureCNN,
    "features_extractor_kwargs": {"features_dim": 64},
    "net_arch": [],
}


def keep_each_frame_once(buffer: DeviceRolloutBuffer) -> DeviceRolloutBuffer:
    """Keep frames as on a GPU."""
    size = (buffer.buffer_size, buffer.n_envs, buffer.obs_shape)
    buffer.frames = FrameStore(*size, torch.device("cpu"))
    return buffer


def parameters(model: OnPolicyAlgorithm) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.policy.parameters()])


def learn(
    model_class: Any,
    steps: int,
    *,
    policy: Any = "CnnPolicy",
    halves: bool = False,
    each_frame_once: bool = False,
    **kwargs: Any,
) -> OnPolicyAlgorithm:
    """Train on Breakout, where lives are lost every few steps."""
    env = make_atari_vec_env("Breakout", n_envs=4, seed=3, halves=halves)
    kwargs = {"policy_kwargs": POLICY, **kwargs}
    model = model_class(policy, env, seed=3, device="cpu", **kwargs)
    if each_frame_once:
        keep_each_frame_once(model.rollout_buffer)
    model.learn(steps)
    env.close()
    return model
