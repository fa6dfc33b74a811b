"""
What makes SB3's on-policy algorithms fast here, through the places where SB3 lets itself be extended.

Minibatches, losses and what is logged are SB3's own. Changed are where frames are kept
(``rollout_buffer_class``), how the network computes (``network.py``), what of it A2C need not compute twice
(``activations.py``), how it is launched (``capture.py``), and the optimizer's kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import explained_variance

from rl_coordconv.algorithms.buffer import DeviceRolloutBuffer
from rl_coordconv.algorithms.capture import (
    Captured,
    make_capturable,
    portable,
    set_learning_rate,
    with_kernel_of,
)
from rl_coordconv.algorithms.memory import keep_freed_memory
from rl_coordconv.algorithms.network import Network, is_covered
from rl_coordconv.algorithms.probe import Decision, Ratio, Work, probe, settle, why_no_bf16, why_no_compile
from rl_coordconv.algorithms.rmsprop import ForeachRMSpropTFLike
from rl_coordconv.algorithms.rollout import FastRollout, step_groups
from rl_coordconv.coordinates import lay_out_as_parameters, split_optimizer_state
from rl_coordconv.errors import UserError, choose


class FastOnPolicyAlgorithm(FastRollout):
    """
    Mixin before SB3's ``PPO`` or ``A2C``: the same constructor with five more keywords.

    With their defaults the algorithm is SB3's own code. With ``buffer="device"`` it is this package's, equal
    to SB3's to the bit on the CPU but for the order of sums in ``channels_last`` (in which SB3 itself
    convolves the transposed frames of backend ``gymnasium``), in the fused Adam (unless ``optimizer_kwargs``
    say ``fused=False``) and in halves. Each side opens the other's zip files. Where actions are not discrete,
    or the policy is none of SB3's for images, the update is SB3's code.

    On a GPU, acts and minibatches are CUDA graphs (with ``target_kl``, acts alone).

    :param precision: ``bf16`` computes the features extractor in bfloat16 autocast; weights, heads, losses
        and optimizer stay in float32. ``auto`` does so where a probe finds it faster, with the device buffer
    :param compile: Compile the features extractor for the batch sizes of rollout and update; or ``auto``
    :param channels_last: Convolve in the ``channels_last`` memory format
    :param buffer: ``device`` keeps rollouts in a :class:`~.buffer.DeviceRolloutBuffer`; the switches need it
    :param strict: Raise instead of warn where this machine cannot do what is asked
    :raises UserError: An argument is none of these; bf16 or compile without the device buffer; with it,
        a rollout buffer of another class, or observations that are not stacks of uint8 frames; with
        ``strict``, a switch that cannot be had
    """

    captured_minibatch: Captured
    decisions: dict[str, Decision]
    """What was chosen for ``precision`` and ``compile`` where the caller did not, or could not have it."""

    def __init__(
        self,
        *args: Any,
        precision: Literal["auto", "fp32", "bf16"] = "fp32",
        compile: bool | Literal["auto"] = False,
        channels_last: bool = False,
        buffer: Literal["host", "device"] = "host",
        strict: bool = False,
        **kwargs: Any,
    ) -> None:
        choose("precision", precision, ("auto", "fp32", "bf16"))
        choose("buffer", buffer, ("host", "device"))
        if compile not in (True, False, "auto"):
            raise UserError(f"compile is {compile!r}: it must be True, False or 'auto'")
        if buffer == "host" and (precision == "bf16" or compile is True):
            raise UserError("precision bf16 and compile need buffer device, got buffer host")
        self.precision = precision
        self.compile = compile
        self.decisions = {}
        self.channels_last = channels_last
        self.buffer = buffer
        self.strict = strict
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        if self.buffer == "host":
            super()._setup_model()
            self.precision, self.compile = "fp32", False
            return
        given_class = self.rollout_buffer_class
        if given_class not in (None, RolloutBuffer, DeviceRolloutBuffer):  # SB3's zips name SB3's
            raise UserError(
                f"buffer='device' has no place for rollout_buffer_class {given_class.__name__}: "
                "use buffer='host'"
            )
        self.rollout_buffer_class = DeviceRolloutBuffer
        given = self.policy_kwargs
        self.policy_kwargs = with_fast_optimizer(given)
        super()._setup_model()
        self.policy_kwargs = given  # as saved, so that SB3 opens the file without this package's optimizer
        self._choose()
        if is_covered(self.policy):
            group_sizes = [group.env.num_envs for group in step_groups(self.env)] if self.env else []
            sizes = {self.n_envs, *group_sizes, self._work.batch_size} if self.compile else set()
            self.network = Network(self.policy, self.precision == "bf16", self.channels_last, sizes)
            if self.network.image_dtype == torch.bfloat16:  # twice uint8's memory; float32 has four times
                self.rollout_buffer.keep_scaled(torch.bfloat16)  # type: ignore[attr-defined]
            self.captured_act = Captured(self._decide, self.device)
            self.captured_values = Captured(self.network.values, self.device)
            self.captured_minibatch = Captured(self._descend_on, self.device, self.policy)
            self._keep_optimizer_on_gpu()

    @property
    def _work(self) -> Work:
        """What the network does between two steps of the optimizer."""
        batch_size = getattr(self, "batch_size", self.n_steps * self.n_envs)
        acts = round(batch_size / (getattr(self, "n_epochs", 1) * self.n_envs))
        return Work(self.n_envs, batch_size, max(acts, 1))

    def _choose(self) -> None:
        """Decide what is ``auto``, and fall back, with one warning each, from what cannot be had."""
        uncovered = "" if is_covered(self.policy) else "the policy is not one of frames and discrete actions"

        def measure(bf16: tuple[bool, bool], compiled: tuple[bool, bool]) -> Ratio:
            return probe(self.policy, self._work, self.channels_last, bf16, compiled)

        def decide(
            name: str, options: tuple[Any, Any], reason: str, ratio: Callable[[], Ratio] | None
        ) -> None:
            found = settle(name, getattr(self, name), options, reason, ratio, self.strict)
            self.decisions[name] = found
            setattr(self, name, found.choice)

        if self.precision != "fp32":
            ratio = None if uncovered else lambda: measure((False, True), (False, False))
            decide("precision", ("fp32", "bf16"), uncovered or why_no_bf16(self.device), ratio)
        if self.compile:
            reason = uncovered or why_no_compile(self.device, self.compile == "auto")
            bf16 = self.precision == "bf16"
            ratio = None if reason else lambda: measure((bf16, bf16), (False, True))
            decide("compile", (False, True), reason, ratio)

    def _excluded_save_params(self) -> list[str]:
        # SB3 has to open the file without this package's buffer.
        ours = ["rollout_buffer_class"] if self.buffer == "device" else []
        helpers = ["network", "activations", "decisions"]
        helpers += ["captured_act", "captured_values", "captured_minibatch"]
        return [*super()._excluded_save_params(), *helpers, *ours]

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """Return SB3's state dicts, the optimizer's as stock SB3 reads it on any device."""
        found = super().get_parameters()
        return {**found, "policy.optimizer": portable(found["policy.optimizer"])}

    def set_parameters(
        self,
        load_path_or_dict: str | dict[str, Any],
        exact_match: bool = True,
        device: torch.device | str = "auto",
    ) -> None:
        """Do as SB3 does; also take the optimizer of version 0.1.0, with one weight per CoordConv layer."""
        parameters: Any = load_path_or_dict
        if not isinstance(load_path_or_dict, dict):
            _, parameters, _ = load_from_zip_file(load_path_or_dict, load_data=False, device=self.device)
        if "policy.optimizer" in parameters:
            state = split_optimizer_state(self.policy, parameters["policy.optimizer"])
            parameters = {**parameters, "policy.optimizer": with_kernel_of(self.policy.optimizer, state)}
        super().set_parameters(parameters, exact_match, device)
        lay_out_as_parameters(self.policy.optimizer)
        torch.clear_autocast_cache()  # if this is called during a rollout
        if self.network is not None:
            self._keep_optimizer_on_gpu()
            self.forget_graphs()

    def _keep_optimizer_on_gpu(self) -> None:
        """Let graphs see what changes in the optimizer, or leave them out."""
        wanted = self.device.type == "cuda" and not self.captured_minibatch.fails
        if wanted and not make_capturable(self.policy.optimizer):
            self.captured_minibatch.leave_out(f"{type(self.policy.optimizer).__name__} cannot be in one")

    def forget_graphs(self) -> None:
        """Record CUDA graphs anew when next wanted, and list weights: the policy has other parameters now."""
        if self.activations is not None:
            self.activations.parameters = list(self.policy.parameters())
        if self.network is not None:
            self.captured_minibatch.forget()
            self.captured_act.forget()
            self.captured_values.forget()

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        if self.network is not None and self.device.type == "cpu":
            keep_freed_memory()
        return super()._setup_learn(*args, **kwargs)

    def _update_learning_rate(self, optimizers: Any) -> None:
        """Set the learning rate as SB3 does, in GPU memory where it is kept there."""
        groups = self.policy.optimizer.param_groups
        memory = [group["lr"] for group in groups]
        super()._update_learning_rate(optimizers)
        if self.network is not None and self.device.type == "cuda":
            set_learning_rate(self.policy.optimizer, memory)

    def train(self) -> None:
        """Update the policy as SB3 does: the same minibatches, losses and logged values."""
        if self.network is None:
            super().train()
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        coefficients = self.ent_coef, self.vf_coef, self.max_grad_norm, self.normalize_advantage  # type: ignore[attr-defined]
        trained = [parameter.requires_grad for parameter in self.policy.parameters()]
        self.captured_minibatch.forget_unless((coefficients, trained))
        self._log_update(self.update())

    def update(self) -> dict[str, Any]:
        """Train on the rollout; return what is logged of it."""
        raise NotImplementedError

    def loss(self, chosen: torch.Tensor, *limits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """
        Return the loss of a minibatch, and after it what is logged.

        :param chosen: Which samples of the rollout buffer
        :param limits: What changes from update to update, e.g. PPO's clip range
        """
        raise NotImplementedError

    def _descend_on(self, chosen: torch.Tensor, *limits: torch.Tensor) -> torch.Tensor:
        """Do one step of the optimizer with a minibatch; return :meth:`loss` as one tensor."""
        found = self.loss(chosen, *limits)
        self.descend(found[0])
        return torch.stack([value.detach() for value in found])

    def descend(self, loss: torch.Tensor) -> None:
        """Do one step of the optimizer down the clipped gradient of a loss."""
        self.policy.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.policy.optimizer.step()

    def _log_update(self, figures: dict[str, Any]) -> None:
        """Log an update's figures, and those that SB3's algorithms have in common."""
        buffer = self.rollout_buffer
        values, returns = (buffer.swap_and_flatten(x).flatten() for x in (buffer.values, buffer.returns))
        figures["train/explained_variance"] = explained_variance(values, returns)
        for name, value in figures.items():
            self.logger.record(name, float(value))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")


def with_fast_optimizer(policy_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return SB3's ``policy_kwargs`` with the fastest kernel of the optimizer, unless they choose one."""
    kind = policy_kwargs.get("optimizer_class", torch.optim.Adam)
    kwargs = policy_kwargs.get("optimizer_kwargs")
    if kwargs is None:  # SB3's own value, which it takes only where there are no arguments
        kwargs = {"eps": 1e-5} if kind is torch.optim.Adam else {}
    if kind is torch.optim.Adam and kwargs.keys().isdisjoint(("foreach", "differentiable")):
        return {**policy_kwargs, "optimizer_kwargs": {"fused": True, **kwargs}}
    if kind is RMSpropTFLike:
        return {**policy_kwargs, "optimizer_class": ForeachRMSpropTFLike}
    return policy_kwargs
