"""CUDA graphs: a function of tensors recorded once and replayed, without Python and launches in between."""

from __future__ import annotations

import contextlib
import copy
import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import Tensor

from rl_coordconv.algorithms.rmsprop import ForeachRMSpropTFLike
from rl_coordconv.errors import first_line

WARM_UPS = 3
"""Calls before the recording, in which libraries choose their kernels; PyTorch's documentation has 3."""
MOST_RECORDINGS = 4
"""How often graphs are recorded for constants that then change; more often would cost more than it saves."""

CAPTURABLE = (torch.optim.Adam, torch.optim.RMSprop, ForeachRMSpropTFLike)
"""Optimizers that can be in a graph."""


class Recording(NamedTuple):
    """A CUDA graph with the memory that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Tensor


class Captured:
    """
    A function that runs as one CUDA graph for each shape of its arguments, recorded when first called.

    The result is overwritten by the next call. Elsewhere than on a GPU the function is called as it is.

    :param function: Takes tensors and returns one; must not wait for the GPU, or allocate what outlives it
    :param device: Where it computes
    :param policy: What it trains, if it does: weights and optimizer are restored after the warm-up
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        device: torch.device,
        policy: BasePolicy | None = None,
    ) -> None:
        self.function, self.device, self.policy = function, device, policy
        self.recordings: dict[Any, Recording] = {}
        self.constants: Any = None
        self.n_changes = 0
        self.fails = device.type != "cuda"

    def __call__(self, *arguments: Tensor) -> Tensor:
        """Compute the function; arguments in pinned memory are sent without waiting."""
        shapes = tuple((argument.shape, argument.dtype) for argument in arguments)
        if not self.fails and shapes not in self.recordings:
            self._try_to_record(shapes, arguments)
        if self.fails:
            return self.function(*(argument.to(self.device, non_blocking=True) for argument in arguments))
        recording = self.recordings[shapes]
        for ours, given in zip(recording.inputs, arguments, strict=True):
            ours.copy_(given, non_blocking=True)
        recording.graph.replay()
        return recording.output

    def forget(self) -> None:
        """Drop what was recorded: the optimizer's state lies elsewhere now."""
        self.recordings.clear()

    def forget_unless(self, constants: Any) -> None:
        """Drop what was recorded with other numbers of Python's, which a graph never reads again."""
        if constants == self.constants:
            return
        self.n_changes += bool(self.recordings)
        self.constants = constants
        self.forget()
        if self.n_changes >= MOST_RECORDINGS:
            self.leave_out("its coefficients change again and again")

    def _try_to_record(self, shapes: Any, arguments: Sequence[Tensor]) -> None:
        """Record, or say once why that cannot be, and go on without."""
        try:
            with warmed_up(self.policy, self.device):
                self.recordings[shapes] = self._record(arguments)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.leave_out(first_line(error))

    def leave_out(self, reason: str) -> None:
        """Call the function as it is from now on, and say once why."""
        if not self.fails:
            warnings.warn(f"CUDA graphs are left out, which costs speed: {reason}", stacklevel=4)
            self.forget()
            if self.policy is not None:
                make_plain(self.policy.optimizer)
        self.fails = True

    def _record(self, arguments: Sequence[Tensor]) -> Recording:
        with torch.cuda.device(self.device):
            main = torch.cuda.current_stream()
            try:
                return self._record_on(torch.cuda.Stream(), main, arguments)
            finally:
                torch.cuda.set_stream(main)  # a recording that fails may leave its own stream in use

    def _record_on(
        self, stream: torch.cuda.Stream, main: torch.cuda.Stream, arguments: Sequence[Tensor]
    ) -> Recording:
        inputs = tuple(argument.to(self.device, copy=True) for argument in arguments)
        stream.wait_stream(main)
        try:
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS - 1):
                    self.function(*inputs)
                with waiting_refused():  # while nothing is recorded: PyTorch does not recover from it later
                    self.function(*inputs)
        finally:
            main.wait_stream(stream)  # what it changed is put back
        if self.policy is not None:
            self.policy.optimizer.zero_grad()  # so that the graph has gradients of its own
        graph = torch.cuda.CUDAGraph()
        with alone_in_memory(), torch.cuda.graph(graph, stream=stream):
            output = self.function(*inputs)
        return Recording(graph, inputs, output)


@contextlib.contextmanager
def alone_in_memory() -> Iterator[None]:
    """
    Let a graph be recorded with cuBLAS workspaces of its own, and without garbage being collected.

    Graphs share a stream after 32 of them, and so would share a workspace, which goes with the first of them
    (pytorch issue 193402). A graph that is destroyed while another is recorded breaks the recording.
    """
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        torch._C._cuda_clearCublasWorkspaces()
        yield
        torch._C._cuda_clearCublasWorkspaces()
    finally:
        if was_on:
            gc.enable()


@contextlib.contextmanager
def waiting_refused() -> Iterator[None]:
    """Raise a ``RuntimeError`` where a block waits for the GPU, as far as PyTorch notices."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch says that it may not notice everything
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextlib.contextmanager
def warmed_up(policy: BasePolicy | None, device: torch.device) -> Iterator[None]:
    """
    Let a block train, and then put everything back where it was: weights, optimizer and random state.

    Memory stays at its addresses. State that the optimizer has made in the block is set to how it begins.

    :param policy: With Adam or an RMSprop; None where nothing but random numbers is used
    :param device: Whose random state it is
    """
    weights = [*policy.parameters(), *policy.buffers()] if policy is not None else []
    states = policy.optimizer.state if policy is not None else {}
    old_weights = [weight.detach().clone() for weight in weights]
    old_states = {parameter: copy.deepcopy(state) for parameter, state in states.items()}
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, old_weights, strict=True):
                weight.copy_(old)
            for parameter, state in states.items():
                assert policy is not None
                put_back(state, old_states.get(parameter, {}), isinstance(policy.optimizer, RMSpropTFLike))


def put_back(state: dict[str, Any], before: dict[str, Any], is_tf_style: bool) -> None:
    """Set, in place, what an optimizer knows of a parameter to what it knew, or to how it begins."""
    for name, value in state.items():
        # TensorFlow's running mean of squares begins at 1, everything else at 0.
        old = before.get(name, float(is_tf_style and name == "square_avg"))
        if isinstance(value, Tensor):
            value.copy_(torch.as_tensor(old))
        else:
            state[name] = type(value)(old)


def make_capturable(optimizer: torch.optim.Optimizer) -> bool:
    """
    Keep in GPU memory what the optimizer reads at every step, so that a graph sees its changes.

    :param optimizer: New or just loaded
    :return: Whether it can be in a graph; one that cannot stays as it is
    """
    if not isinstance(optimizer, CAPTURABLE):
        return False
    for group in optimizer.param_groups:
        device = group["params"][0].device
        group["lr"] = torch.as_tensor(float(group["lr"]), device=device)
        if "capturable" in group:
            group["capturable"] = True
        for parameter in group["params"]:
            if state := optimizer.state.get(parameter):
                state["step"] = torch.as_tensor(state["step"], dtype=torch.float32, device=device)
    return True


def make_plain(optimizer: torch.optim.Optimizer) -> None:
    """Undo :func:`make_capturable`: outside of graphs, what lies in GPU memory has to be waited for."""
    if not isinstance(optimizer, CAPTURABLE):
        return
    for group in optimizer.param_groups:
        group["lr"] = float(group["lr"])
        if "capturable" in group:
            group["capturable"] = False
        if not group.get("fused"):  # that one reads its steps in GPU memory
            for parameter in group["params"]:
                if "step" in (state := optimizer.state.get(parameter, {})):
                    is_tensor = "capturable" in group  # SB3's TF-style RMSprop counts in Python
                    state["step"] = torch.as_tensor(state["step"]).cpu() if is_tensor else int(state["step"])


def set_learning_rate(optimizer: torch.optim.Optimizer, lr_before: Sequence[Any]) -> None:
    """
    Write a learning rate that SB3 has set as a number into the memory that the graphs read.

    :param optimizer: Its groups' ``lr`` is a number
    :param lr_before: What the groups' ``lr`` was: tensors, or numbers where there are no graphs
    """
    for group, memory in zip(optimizer.param_groups, lr_before, strict=True):
        if isinstance(memory, Tensor):
            group["lr"] = memory.fill_(group["lr"])


def portable(state: dict[str, Any]) -> dict[str, Any]:
    """
    Return an optimizer's state dict as stock SB3 reads it, on any device.

    Fused kernels take state and parameter for laid out alike, which a reader's need not be.
    """
    groups = [dict(group) for group in state["param_groups"]]
    for group in groups:
        group["lr"] = float(group["lr"])
        group |= {name: plain for name, plain in (("capturable", False), ("fused", None)) if name in group}
    states = {
        index: {
            name: value.contiguous() if isinstance(value, Tensor) else value for name, value in values.items()
        }
        for index, values in state["state"].items()
    }
    counts_in_python = "capturable" not in groups[0]  # SB3's TF-style RMSprop
    for values in states.values():
        if counts_in_python and "step" in values:
            values["step"] = int(values["step"])
    return {"state": states, "param_groups": groups}


def with_kernel_of(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Return a saved state dict for an optimizer that goes on with its own kernel, fused or not."""
    kernel = {name: value for name, value in optimizer.param_groups[0].items() if name == "fused"}
    return {**state, "param_groups": [{**group, **kernel} for group in state["param_groups"]]}
