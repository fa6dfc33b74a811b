"""
What makes SB3's on-policy algorithms fast here, through the places where SB3 lets itself be extended.

The losses, the updates and the order of the minibatches are SB3's own ``train()``. Changed are where frames
are kept (``rollout_buffer_class``), how the features extractor computes, and the optimizer's kernel.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from rl_coordconv.algorithms.buffer import DeviceRolloutBuffer
from rl_coordconv.algorithms.memory import keep_freed_memory
from rl_coordconv.algorithms.rmsprop import ForeachRMSpropTFLike
from rl_coordconv.algorithms.rounding import RoundToBF16
from rl_coordconv.envs.halves import HalvedAtariVecEnv, join
from rl_coordconv.errors import UserError

Precision = Literal["fp32", "bf16", "bf16-rounding"]
Buffer = Literal["host", "device"]


class FastOnPolicyAlgorithm(OnPolicyAlgorithm):
    """
    Mixin before SB3's ``PPO`` or ``A2C``: the same constructor with five more keywords.

    With their defaults the algorithm is SB3's, bit for bit. Each side opens the other's zip files.

    :param precision: ``bf16`` computes the features extractor in bfloat16 autocast; weights, heads, losses
        and optimizer stay in float32. ``bf16-rounding`` rounds much as bfloat16 does but computes in float32:
        shows on a machine without bfloat16 units whether training bears such rounding
    :param compile: Compile the features extractor for the batch sizes of rollout and update; on CUDA as
        CUDA graphs
    :param channels_last: Convolve in the ``channels_last`` memory format
    :param buffer: ``device`` keeps rollouts in a :class:`~rl_coordconv.algorithms.buffer.DeviceRolloutBuffer`
    :param strict: Raise instead of warn where this machine cannot do what is asked
    :raises UserError: With ``strict``: bf16 or compile cannot be had
    """

    def __init__(
        self,
        *args: Any,
        precision: Precision = "fp32",
        compile: bool = False,
        channels_last: bool = False,
        buffer: Buffer = "host",
        strict: bool = False,
        **kwargs: Any,
    ) -> None:
        self.precision = precision
        self.compile = compile
        self.channels_last = channels_last
        self.buffer = buffer
        self.strict = strict
        super().__init__(*args, **kwargs)

    @property
    def is_plain(self) -> bool:
        """Whether everything is computed as in SB3."""
        return (self.precision, self.compile, self.channels_last, self.buffer) == (
            "fp32",
            False,
            False,
            "host",
        )

    def _setup_model(self) -> None:
        if self.buffer == "device":
            self.rollout_buffer_class = DeviceRolloutBuffer
        super()._setup_model()
        if self.is_plain:
            return
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32
        else:
            keep_freed_memory()
        policy = self.policy
        kwargs = policy.optimizer_kwargs
        if policy.optimizer_class is torch.optim.Adam:
            kwargs = {**kwargs, "fused": True}
            policy.optimizer = torch.optim.Adam(policy.parameters(), lr=self.lr_schedule(1), **kwargs)
        elif policy.optimizer_class is RMSpropTFLike and self.device.type == "cuda":
            policy.optimizer = ForeachRMSpropTFLike(policy.parameters(), lr=self.lr_schedule(1), **kwargs)
        self._choose_what_works()
        batch_size = getattr(self, "batch_size", self.n_steps * self.n_envs)
        group_sizes = [group.env.num_envs for group in step_groups(self.env)] if self.env else []
        accelerate(
            policy.features_extractor,
            self.precision,
            self.channels_last,
            compiled_for={self.n_envs, *group_sizes, batch_size} if self.compile else set(),
        )

    def _choose_what_works(self) -> None:
        """Fall back, with one warning each, from what this machine cannot do."""
        if self.precision == "bf16" and (reason := why_no_bf16(self.device)):
            self._fall_back("precision 'bf16'", reason)
            self.precision = "fp32"
        if self.compile and (reason := why_no_compile(self.device)):
            self._fall_back("compile", reason)
            self.compile = False

    def _fall_back(self, what: str, reason: str) -> None:
        if self.strict:
            raise UserError(f"{what} cannot be had here: {reason}")
        warnings.warn(f"{what} is left out: {reason}", stacklevel=2)

    def _excluded_save_params(self) -> list[str]:
        # SB3 has to open the file without this package's buffer.
        ours = ["rollout_buffer_class"] if self.buffer == "device" else []
        return [*super()._excluded_save_params(), *ours]

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: Any, n_rollout_steps: int
    ) -> bool:
        """
        Collect a rollout as SB3 does, but show the policy the frames that the buffer has on the device.

        Where the environments are two halves, one half's emulators run while the network acts for the other.
        """
        if not isinstance(rollout_buffer, DeviceRolloutBuffer):
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        try:
            return self._collect(env, callback, rollout_buffer, n_rollout_steps)
        except BaseException:
            self._last_obs = None  # a half may be under way, so the next learn() starts new games
            raise

    def _collect(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: DeviceRolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Collect a rollout into the device buffer; return whether training goes on."""
        assert isinstance(self.action_space, spaces.Discrete)
        assert isinstance(self._last_obs, np.ndarray)
        assert self._last_episode_starts is not None
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        callback.on_rollout_start()
        groups = step_groups(env)
        observations, starts = self._last_obs, self._last_episode_starts
        for group in groups:
            self._act(group, 0, rollout_buffer, observations[group.envs], starts[group.envs])
        for step in range(n_rollout_steps):
            is_last = step + 1 == n_rollout_steps
            answers = []
            for group in groups:
                answers.append(group.env.step_wait())
                following, _, starts, _ = answers[-1]
                assert isinstance(following, np.ndarray)
                # While the network runs for this half, the other half's emulators do.
                if len(groups) > 1 and not is_last:
                    self._act(group, step + 1, rollout_buffer, following, starts)
            new_obs, rewards, dones, infos = join(answers)
            assert isinstance(new_obs, np.ndarray)
            actions = rollout_buffer.actions[step]
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                last_obs: Any = new_obs
                if len(groups) > 1 and not is_last:  # the halves are a step ahead
                    last_obs, _, dones, infos = env.step_wait()
                    self._update_info_buffer(infos, dones)
                self._last_obs, self._last_episode_starts = last_obs, dones
                return False
            self._update_info_buffer(infos, dones)
            for i in np.flatnonzero(dones):
                if infos[i].get("TimeLimit.truncated", False):
                    rewards[i] += self.gamma * self._value_of(infos[i]["terminal_observation"])
            rollout_buffer.end_step(rewards)
            self._last_obs = new_obs
            self._last_episode_starts = dones
            if len(groups) == 1 and not is_last:
                self._act(groups[0], step + 1, rollout_buffer, new_obs, dones)
        assert isinstance(self._last_obs, np.ndarray)
        last_values = self._values_of(self._last_obs)
        rollout_buffer.compute_returns_and_advantage(last_values=last_values, dones=dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _act(
        self,
        group: StepGroup,
        step: int,
        buffer: DeviceRolloutBuffer,
        observations: np.ndarray,
        episode_starts: np.ndarray,
    ) -> None:
        """Choose actions for a group, note them down, and set its emulators going."""
        frames = buffer.put_frames(step, observations, episode_starts, group.envs)
        with torch.no_grad():
            actions, values, log_probs = self.policy(frames)
        packed = torch.stack([actions.float(), values.flatten(), log_probs]).cpu().numpy()
        buffer.put_decisions(step, packed[0], packed[1], packed[2], group.envs)
        group.env.step_async(packed[0].astype(np.int64))

    def _value_of(self, observation: np.ndarray) -> float:
        return float(self._values_of(observation[None]))

    def _values_of(self, observations: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            return self.policy.predict_values(torch.as_tensor(observations, device=self.device))


class StepGroup(NamedTuple):
    """Environments that are stepped together, and which of all they are."""

    env: VecEnv
    envs: slice


def step_groups(env: VecEnv) -> list[StepGroup]:
    """Return the groups that can be stepped one by one: two halves, or all environments as one."""
    if isinstance(env, HalvedAtariVecEnv):
        return list(map(StepGroup, env.halves, env.slices))
    return [StepGroup(env, slice(None))]


def accelerate(
    extractor: nn.Module, precision: Precision, channels_last: bool, compiled_for: set[int]
) -> None:
    """
    Make a features extractor compute as asked; parameters, state dict and output dtype stay as they are.

    :param extractor: SB3 features extractor of images
    :param precision: ``fp32``, ``bf16`` or ``bf16-rounding``
    :param channels_last: Memory format of weights and observations
    :param compiled_for: Batch sizes to compile for; other batches are rare and run as they are
    """
    eager: Callable[[torch.Tensor], torch.Tensor] = extractor.forward
    compiled = eager
    device = next(extractor.parameters()).device
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    if channels_last:
        extractor.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if compiled_for:
        mode = "reduce-overhead" if device.type == "cuda" else "default"
        compiled = torch.compile(eager, dynamic=False, mode=mode)

    def forward(observations: torch.Tensor) -> torch.Tensor:
        run = compiled if len(observations) in compiled_for else eager
        observations = observations.contiguous(memory_format=memory_format)
        with (
            torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
            RoundToBF16() if precision == "bf16-rounding" else contextlib.nullcontext(),
        ):
            return run(observations).float()

    extractor.forward = forward


def why_no_bf16(device: torch.device) -> str:
    """Return why bfloat16 would not be faster than float32 on this device, or an empty string."""
    if device.type == "cuda":
        return "" if torch.cuda.is_bf16_supported(False) else "this GPU has no bfloat16 units"
    # AVX512_BF16 alone multiplies no faster than float32 here, and has conversions to pay for.
    has_tiles = torch.backends.cpu.get_cpu_capability() != "DEFAULT" and torch.cpu._is_amx_tile_supported()
    return "" if has_tiles else "this CPU has no bfloat16 matrix units (AMX), so float32 is faster"


def why_no_compile(device: torch.device) -> str:
    """Return why ``torch.compile`` does not work on this machine, or an empty string."""
    try:
        torch.compile(lambda x: x * 2 + 1, dynamic=False)(torch.ones(2, device=device))
    except Exception as error:  # a missing compiler, header, or an unsupported Python: each has its own type
        return f"torch.compile fails with {type(error).__name__}: {str(error).splitlines()[0]}"
    return ""
