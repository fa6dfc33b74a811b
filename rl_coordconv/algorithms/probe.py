"""Whether a switch for speed makes this machine faster: measured on the network that will train."""

from __future__ import annotations

import copy
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from stable_baselines3.common.policies import ActorCriticPolicy

from rl_coordconv.algorithms.capture import Captured
from rl_coordconv.algorithms.network import Network
from rl_coordconv.errors import UserError, first_line

WORTH_IT = 1.15
"""How much faster, at the median, a switch must be that ``auto`` turns on."""
SECONDS = 1.0
ROUNDS = (3, 25)
"""Fewest and most rounds of a probe; how many it has is a matter of ``SECONDS``."""


@dataclass(frozen=True)
class Work:
    """
    What a network does in training.

    :param n_envs: Batch size of an act
    :param batch_size: Of a minibatch
    :param acts: Acts per minibatch
    """

    n_envs: int
    batch_size: int
    acts: int


@dataclass(frozen=True)
class Ratio:
    """
    What a probe found.

    :param ratio: How much faster the switch makes the network, at the median of all rounds
    :param milliseconds: Median time of the work without and with it
    """

    ratio: float
    milliseconds: tuple[float, float]


@dataclass(frozen=True)
class Decision:
    """
    What was chosen, and why.

    :param choice: Value of the switch
    :param reason: In a few words
    :param measured: What a probe found, if there was one
    """

    choice: str | bool
    reason: str
    measured: Ratio | None = None


def settle(
    name: str,
    asked: str | bool,
    values: tuple[str | bool, str | bool],
    why_not: str,
    measure: Callable[[], Ratio] | None,
    strict: bool,
) -> Decision:
    """
    Decide about a switch; a probe that fails never stops a run.

    :param name: The switch
    :param asked: Value that the user gave it, or ``auto``
    :param values: Its values turned off and on
    :param why_not: Why it cannot be on, or an empty string
    :param measure: Compares the two values, if they can be compared
    :param strict: Raise instead of warn where what was asked for cannot be had
    :raises UserError: So it is
    """
    off, on = values
    if asked != "auto" and not why_not:
        return Decision(asked, "as asked for")
    if asked != "auto" and strict:
        raise UserError(f"{name} '{on}' cannot be had here: {why_not}")
    measured, failure = None, ""
    if measure is not None and (asked != "auto" or not why_not):
        try:
            measured = measure()
        except Exception as error:  # memory, compilers, drivers: each has its own type
            failure = f"the probe failed with {type(error).__name__}: {first_line(error)}"
    speed = f"{on} is {measured.ratio:.2f} times as fast as {off}" if measured else failure
    reason = "; ".join(filter(None, (why_not, speed)))
    if asked != "auto":
        warnings.warn(f"{name} '{on}' is left out: {reason}", stacklevel=2)
    is_on = not why_not and measured is not None and measured.ratio >= WORTH_IT
    return Decision(on if is_on else off, reason, measured)


def probe(
    policy: ActorCriticPolicy,
    work: Work,
    channels_last: bool,
    bf16: tuple[bool, bool],
    compiled: tuple[bool, bool],
) -> Ratio:
    """
    Compare a switch off and on, on copies of the policy, in turns; random states stay as they are.

    :param policy: The policy that will train
    :param work: What it will do
    :param channels_last: The run's memory format
    :param bf16: Whether each side computes in bfloat16
    :param compiled: Whether each side is compiled
    """
    device = policy.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        sides = [_side(policy, work, channels_last, bf16[k], compiled[k]) for k in (0, 1)]
        for side in sides:
            side()
        times: list[tuple[float, float]] = []
        start = time.perf_counter()
        while len(times) < ROUNDS[0] or (time.perf_counter() - start < SECONDS and len(times) < ROUNDS[1]):
            order = (0, 1) if len(times) % 2 else (1, 0)
            found = {which: _timed(sides[which], device) for which in order}
            times.append((found[0], found[1]))
    off, on = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(base / other for base, other in times)
    return Ratio(round(ratio, 3), (round(off, 3), round(on, 3)))


def _side(policy: ActorCriticPolicy, work: Work, channels_last: bool, bf16: bool, compiled: bool) -> Captured:
    """Return a minibatch with its acts, launched as in training, of a copy of the policy."""
    sizes = {work.n_envs, work.batch_size} if compiled else set()
    network = Network(copy.deepcopy(policy), bf16, channels_last, sizes)
    shape = policy.observation_space.shape
    assert shape is not None
    frames = torch.randint(256, (work.batch_size, *shape), dtype=torch.uint8, device=policy.device)
    few = frames[torch.arange(work.n_envs, device=policy.device) % work.batch_size]

    def run() -> torch.Tensor:
        with network.unchanging():
            for _ in range(work.acts):
                network.values(few)
        network.policy.zero_grad()
        logits, values = network(frames)
        loss = logits.square().mean() + values.square().mean()
        loss.backward()
        return loss.detach()

    return Captured(run, policy.device)


def _timed(run: Captured, device: torch.device) -> float:
    """Return the seconds that a piece of work takes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def why_no_bf16(device: torch.device) -> str:
    """Return why this device has to emulate bfloat16, or an empty string."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return "" if torch.cuda.is_bf16_supported(False) else "this GPU has no bfloat16 units"
    capability = torch.backends.cpu.get_cpu_capability()
    is_used = capability.startswith("AVX512")
    has_units = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "" if is_used and has_units else "this CPU has no bfloat16 units (AVX512_BF16 or AMX)"


def why_no_compile(device: torch.device, is_optional: bool) -> str:
    """
    Return why ``torch.compile`` does not work on this machine, or an empty string.

    :param device: Where the network computes
    :param is_optional: Whether it is only wanted where it may make the network faster
    """
    if is_optional and device.type == "cpu":
        return "on a CPU it takes a minute, and the convolutions stay oneDNN's"
    try:
        torch.compile(lambda x: x * 2 + 1, dynamic=False)(torch.ones(2, device=device))
    except Exception as error:  # a missing compiler, header, or an unsupported Python: each has its own type
        return f"torch.compile fails with {type(error).__name__}: {first_line(error)}"
    return ""
