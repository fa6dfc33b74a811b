"""
What makes SB3's on-policy algorithms fast here, through the places where SB3 lets itself be extended.

Minibatches, losses and what is logged are SB3's own. Changed are where frames are kept
(``rollout_buffer_class``), how the network computes (``network.py``), and the optimizer's kernel.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv

from rl_coordconv.algorithms.buffer import DeviceRolloutBuffer
from rl_coordconv.algorithms.memory import keep_freed_memory
from rl_coordconv.algorithms.network import Network, is_covered, why_no_bf16, why_no_compile
from rl_coordconv.algorithms.rmsprop import ForeachRMSpropTFLike
from rl_coordconv.coordinates import split_optimizer_state
from rl_coordconv.envs.halves import HalvedAtariVecEnv, join
from rl_coordconv.errors import UserError


class FastOnPolicyAlgorithm(OnPolicyAlgorithm):
    """
    Mixin before SB3's ``PPO`` or ``A2C``: the same constructor with five more keywords.

    With their defaults the algorithm is SB3's own code. With ``buffer="device"`` it is this package's, equal
    to SB3's to the bit on the CPU but for the order of sums in ``channels_last``, in the fused Adam (unless
    ``optimizer_kwargs`` say ``fused=False``) and in halves. Each side opens the other's zip files. Policies
    that are not of frames and discrete actions are left to SB3's code.

    :param precision: ``bf16`` computes the features extractor in bfloat16 autocast; weights, heads, losses
        and optimizer stay in float32
    :param compile: Compile the features extractor for the batch sizes of rollout and update; on CUDA as
        CUDA graphs
    :param channels_last: Convolve in the ``channels_last`` memory format
    :param buffer: ``device`` keeps rollouts in a :class:`~.buffer.DeviceRolloutBuffer`; the switches need it
    :param strict: Raise instead of warn where this machine cannot do what is asked
    :raises UserError: bf16 or compile without the device buffer, or with ``strict``: they cannot be had
    """

    network: Network | None = None

    def __init__(
        self,
        *args: Any,
        precision: Literal["fp32", "bf16"] = "fp32",
        compile: bool = False,
        channels_last: bool = False,
        buffer: Literal["host", "device"] = "host",
        strict: bool = False,
        **kwargs: Any,
    ) -> None:
        if buffer == "host" and (precision != "fp32" or compile):
            raise UserError("precision bf16 and compile need buffer device, got buffer host")
        self.precision = precision
        self.compile = compile
        self.channels_last = channels_last
        self.buffer = buffer
        self.strict = strict
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        if self.buffer == "host":
            super()._setup_model()
            return
        self.rollout_buffer_class = DeviceRolloutBuffer
        given = self.policy_kwargs
        self.policy_kwargs = with_fast_optimizer(given, self.device)
        super()._setup_model()
        self.policy_kwargs = given  # as saved, so that SB3 opens the file without this package's optimizer
        self._choose_what_works()
        if is_covered(self.policy):
            batch_size = getattr(self, "batch_size", self.n_steps * self.n_envs)
            group_sizes = [group.env.num_envs for group in step_groups(self.env)] if self.env else []
            sizes = {self.n_envs, *group_sizes, batch_size} if self.compile else set()
            self.network = Network(self.policy, self.precision == "bf16", self.channels_last, sizes)

    def _choose_what_works(self) -> None:
        """Fall back, with one warning each, from what this machine cannot do."""
        uncovered = "" if is_covered(self.policy) else "the policy is not one of frames and discrete actions"
        if self.precision == "bf16" and (reason := uncovered or why_no_bf16(self.device)):
            self._fall_back("precision 'bf16'", reason)
            self.precision = "fp32"
        if self.compile and (reason := uncovered or why_no_compile(self.device)):
            self._fall_back("compile", reason)
            self.compile = False

    def _fall_back(self, what: str, reason: str) -> None:
        if self.strict:
            raise UserError(f"{what} cannot be had here: {reason}")
        warnings.warn(f"{what} is left out: {reason}", stacklevel=2)

    def _excluded_save_params(self) -> list[str]:
        # SB3 has to open the file without this package's buffer.
        ours = ["rollout_buffer_class"] if self.buffer == "device" else []
        return [*super()._excluded_save_params(), "network", *ours]

    def set_parameters(
        self,
        load_path_or_dict: str | dict[str, Any],
        exact_match: bool = True,
        device: torch.device | str = "auto",
    ) -> None:
        """Do as SB3 does; also take the optimizer of version 0.1.0, with one weight per CoordConv layer."""
        parameters: Any = load_path_or_dict
        if isinstance(load_path_or_dict, str):
            _, parameters, _ = load_from_zip_file(load_path_or_dict, load_data=False, device=self.device)
        if "policy.optimizer" in parameters:
            state = split_optimizer_state(self.policy, parameters["policy.optimizer"])
            parameters = {**parameters, "policy.optimizer": state}
        super().set_parameters(parameters, exact_match, device)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        if self.network is not None and self.device.type == "cpu":
            keep_freed_memory()
        elif self.network is not None:
            torch.set_float32_matmul_precision("high")  # TF32
        return super()._setup_learn(*args, **kwargs)

    def descend(self, loss: torch.Tensor) -> None:
        """Do one step of the optimizer down the clipped gradient of a loss."""
        self.policy.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.policy.optimizer.step()

    def log_update(self, figures: dict[str, Any]) -> None:
        """Log an update's figures, and those that SB3's algorithms have in common."""
        buffer = self.rollout_buffer
        values, returns = (buffer.swap_and_flatten(x).flatten() for x in (buffer.values, buffer.returns))
        figures["train/explained_variance"] = explained_variance(values, returns)
        for name, value in figures.items():
            self.logger.record(name, float(value))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: Any, n_rollout_steps: int
    ) -> bool:
        """
        Collect a rollout as SB3 does, but show the policy the frames that the buffer has on the device.

        Where the environments are two halves, one half's emulators run while the network acts for the other.
        """
        if self.network is None or not isinstance(rollout_buffer, DeviceRolloutBuffer):
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
                    terminal_observation = infos[i]["terminal_observation"][None]
                    rewards[i] += (self.gamma * self._values_of(terminal_observation)).item()
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
        assert self.network is not None
        frames = buffer.put_frames(step, observations, episode_starts, group.envs)
        packed = self.network.act(frames).cpu().numpy()
        buffer.put_decisions(step, packed[0], packed[1], packed[2], group.envs)
        group.env.step_async(packed[0].astype(np.int64))

    def _values_of(self, observations: np.ndarray) -> torch.Tensor:
        assert self.network is not None
        return self.network.values(torch.as_tensor(observations, device=self.device))


class StepGroup(NamedTuple):
    """Environments that are stepped together, and which of all they are."""

    env: VecEnv
    envs: slice


def step_groups(env: VecEnv) -> list[StepGroup]:
    """Return the groups that can be stepped one by one: two halves, or all environments as one."""
    if isinstance(env, HalvedAtariVecEnv):
        return list(map(StepGroup, env.halves, env.slices))
    return [StepGroup(env, slice(None))]


def with_fast_optimizer(policy_kwargs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return SB3's ``policy_kwargs`` with the fastest kernel of the optimizer that they name."""
    kind, kwargs = (
        policy_kwargs.get("optimizer_class", torch.optim.Adam),
        policy_kwargs.get("optimizer_kwargs"),
    )
    if kind is torch.optim.Adam:
        return {**policy_kwargs, "optimizer_kwargs": {"fused": True, **(kwargs or {})}}
    if kind is RMSpropTFLike and device.type == "cuda":
        return {**policy_kwargs, "optimizer_class": ForeachRMSpropTFLike}
    return policy_kwargs
