"""SB3's TF-style RMSprop with one call per operation, instead of one per operation and parameter."""

from __future__ import annotations

from collections.abc import Callable

import torch
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike


class ForeachRMSpropTFLike(RMSpropTFLike):
    """
    SB3's ``RMSpropTFLike``, arguments, state and results included; it takes half the time.

    What A2C does not use (momentum, centring, weight decay) is left to SB3's own code.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the parameters once."""
        unusual = any(g["momentum"] > 0 or g["centered"] or g["weight_decay"] for g in self.param_groups)
        if closure is not None or unusual:
            return super().step(closure)
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in parameters]
            averages = [self._average(p, group["lr"]) for p in parameters]
            torch._foreach_mul_(averages, group["alpha"])
            torch._foreach_addcmul_(averages, gradients, gradients, 1 - group["alpha"])
            roots = torch._foreach_add(averages, group["eps"])
            torch._foreach_sqrt_(roots)
            if isinstance(lr := group["lr"], torch.Tensor):  # in a CUDA graph, which reads it from memory
                steps = torch._foreach_mul(gradients, -lr)
                torch._foreach_addcdiv_(parameters, steps, roots)
            else:
                torch._foreach_addcdiv_(parameters, gradients, roots, -lr)
        return None

    def _average(self, parameter: torch.Tensor, lr: float | torch.Tensor) -> torch.Tensor:
        """Count a step; return the running mean of squared gradients, which starts at 1 as in TensorFlow."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros_like(lr) if isinstance(lr, torch.Tensor) else 0
            state["square_avg"] = torch.ones_like(parameter, memory_format=torch.preserve_format)
        state["step"] += 1
        average: torch.Tensor = state["square_avg"]
        return average
