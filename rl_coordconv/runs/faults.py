"""What goes wrong in hours of training, as one line that says what to do; what was saved stays saved."""

from __future__ import annotations

import contextlib
import math
import shlex
from collections.abc import Iterator

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from rl_coordconv.config import RunConfig
from rl_coordconv.errors import STORAGE, UserError, first_line
from rl_coordconv.machine import is_out_of_memory
from rl_coordconv.runs.checkpoints import newest_intact
from rl_coordconv.runs.folder import Cause, RunFolder


class TrainingFault(UserError):
    """
    What training cannot go on from.

    :param message: What happened, what is saved, how to go on
    :param cause: Which kind of fault it is
    """

    def __init__(self, message: str, cause: Cause) -> None:
        super().__init__(message)
        self.cause = cause


class FiniteLoss(BaseCallback):
    """Stop after an update whose loss is NaN or infinite, before anything of it is saved."""

    def _on_rollout_start(self) -> None:
        self._check()

    def _on_training_end(self) -> None:
        self._check()

    def _check(self) -> None:
        losses = {key: value for key, value in self.logger.name_to_value.items() if "loss" in key}
        if bad := [key for key, value in losses.items() if not math.isfinite(value)]:
            raise FloatingPointError(f"{bad[0]} is {losses[bad[0]]}")

    def _on_step(self) -> bool:
        return True


@contextlib.contextmanager
def explained(model: OnPolicyAlgorithm, config: RunConfig, folder: RunFolder) -> Iterator[None]:
    """
    Turn what training cannot go on from into one line with the way out; anything else passes through.

    :param model: The algorithm that is being trained
    :param config: Its config
    :param folder: Its folder
    :raises TrainingFault: Memory or disk is used up, or the loss or a weight is not finite
    """
    try:
        yield
    except Exception as error:
        # E.g. zipfile raises an error of its own while it closes a file on a full disk.
        found = next((found for inner in _chain(error) if (found := _cause(inner, model, config))), None)
        if found is None:
            raise
        cause, what = found
        checkpoint, _ = newest_intact(folder.checkpoints)
        saved = f"'{checkpoint}' is intact" if checkpoint else "there was no checkpoint yet"
        raise TrainingFault(
            f"{what}; {saved}, go on with python scripts/train.py --resume {shlex.quote(str(folder.path))}",
            cause,
        ) from error


def is_not_finite(error: BaseException) -> bool:
    """Return whether an error is :class:`FiniteLoss`'s, or torch's distributions refuse a policy of NaN."""
    return isinstance(error, FloatingPointError) or "satisfy the constraint" in str(error)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it came out of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _cause(error: BaseException, model: OnPolicyAlgorithm, config: RunConfig) -> tuple[Cause, str] | None:
    """Return what kind of fault an error is, and a line about it; None for an error of the program."""
    if is_out_of_memory(error):
        batch = "batch_size" if hasattr(config.hyperparameters, "batch_size") else "n_steps"
        return "memory", f"out of memory: lower n_envs or {config.algo}.{batch} in config.yaml"
    if isinstance(error, OSError) and error.errno in STORAGE:
        return "storage", f"cannot write '{error.filename or config.folder}': {STORAGE[error.errno]}"
    if is_not_finite(error):
        detail = first_line(error) if isinstance(error, FloatingPointError) else "the policy is NaN"
        return "loss", (
            f"update {model._n_updates:,} at step {model.num_timesteps:,} failed: {detail}. "
            f"Lower {config.algo}.learning_rate or {config.algo}.max_grad_norm, or use precision fp32"
        )
    return None
