"""Precision and compile: decided by a probe, refused, fallen back from, and what they compute."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import VecEnv

import rl_coordconv.algorithms.on_policy as on_policy
import rl_coordconv.algorithms.probe as probe
from rl_coordconv import CoordConvNatureCNN, make_atari_vec_env
from rl_coordconv.algorithms import A2C, PPO
from rl_coordconv.algorithms.buffer import DeviceRolloutBuffer
from rl_coordconv.algorithms.network import Network
from rl_coordconv.algorithms.probe import Ratio, Work, settle
from rl_coordconv.errors import UserError
from rl_coordconv.extractors import EXTRACTORS, policy_kwargs


@pytest.fixture(scope="module")
def env() -> Iterator[VecEnv]:
    venv = make_atari_vec_env("Breakout", n_envs=4, seed=3)
    yield venv
    venv.close()


def make(env: VecEnv, **kwargs: Any) -> PPO:
    """Return a small PPO with the device buffer."""
    policy = {"features_extractor_class": CoordConvNatureCNN, "net_arch": []}
    given: dict[str, Any] = {"buffer": "device", "channels_last": True, "policy_kwargs": policy}
    size: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 3, "device": "cpu"}
    return PPO("CnnPolicy", env, **{**size, **given, **kwargs})


def random_states() -> list[Any]:
    return [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()]  # type: ignore[index]


@pytest.mark.parametrize(
    ("times", "choice"), [((1.2, 1.0), "bf16"), ((1.1, 1.0), "fp32"), ((1.0, 9.0), "fp32")]
)
def test_probe_takes_bf16_at_a_median_of_1_15(
    env: VecEnv, monkeypatch: pytest.MonkeyPatch, times: tuple[float, float], choice: str
) -> None:
    """The clock is not the machine's: a busy machine must not decide a test."""

    def timed(run: Any, device: torch.device) -> float:
        run()
        cells = [cell.cell_contents for cell in run.function.__closure__]
        (network,) = [content for content in cells if isinstance(content, Network)]
        return times[network.bf16] * next(jitter)

    jitter = itertools.cycle([1.0, 1.0, 1.0, 1.0, 30.0])  # a hiccup decides nothing
    monkeypatch.setattr(probe, "_timed", timed)
    monkeypatch.setattr(probe, "SECONDS", 0.0)
    monkeypatch.setattr(on_policy, "why_no_bf16", lambda device: "")
    plain = make(env)
    state = random_states()
    model = make(env, precision="auto")
    assert random_states() == state, "both seed all random states, and the probe draws nothing from them"
    assert model.precision == choice
    assert model.decisions["precision"].choice == choice
    assert model.decisions["precision"].measured == Ratio(
        round(times[0] / times[1], 3), (1e3 * times[0], 1e3 * times[1])
    )
    for ours, expected in zip(model.policy.parameters(), plain.policy.parameters(), strict=True):
        assert torch.equal(ours, expected)
        assert ours.grad is None


def test_probe_measures_what_training_does(env: VecEnv) -> None:
    assert make(env)._work == Work(4, 16, 2)
    assert PPO(
        "CnnPolicy", env, buffer="device", device="cpu", n_steps=128, batch_size=256, n_epochs=4
    )._work == Work(4, 256, 16)
    assert A2C("CnnPolicy", env, buffer="device", device="cpu")._work == Work(4, 20, 5)


def test_real_probe_finds_times_and_leaves_the_policy_alone(
    env: VecEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "SECONDS", 0.0)
    casts = []
    unchanging = probe.Network.unchanging
    monkeypatch.setattr(probe.Network, "unchanging", lambda self: casts.append(1) or unchanging(self))
    model = make(env)
    before = [p.clone() for p in model.policy.parameters()]
    found = probe.probe(model.policy, Work(4, 16, 1), True, (False, True), (False, False))
    assert len(casts) >= 2 * probe.ROUNDS[0], "acts cast the weights once, as those of a rollout do"
    assert found.ratio > 0
    assert min(found.milliseconds) > 0
    assert all(map(torch.equal, before, model.policy.parameters()))


def test_probe_that_fails_never_stops_a_run(env: VecEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise MemoryError("no room for a copy")

    monkeypatch.setattr(on_policy, "probe", fail)
    monkeypatch.setattr(on_policy, "why_no_bf16", lambda device: "")
    model = make(env, precision="auto", strict=True)
    assert model.precision == "fp32"
    assert "MemoryError: no room for a copy" in model.decisions["precision"].reason


def test_auto_asks_no_probe_where_the_hardware_has_no_units(
    env: VecEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_policy, "probe", None)
    monkeypatch.setattr(on_policy, "why_no_bf16", lambda device: "no such units")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = make(env, precision="auto", compile="auto", strict=True)
    assert (model.precision, model.compile) == ("fp32", False)
    assert model.decisions["precision"].reason == "no such units"
    assert "on a CPU" in model.decisions["compile"].reason


def test_auto_with_the_host_buffer_is_stable_baselines3(env: VecEnv) -> None:
    model = make(env, precision="auto", compile="auto", buffer="host")
    assert (model.precision, model.compile, model.network) == ("fp32", False, None)


def test_falls_back_once_with_the_ratio_or_stops(env: VecEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_policy, "why_no_bf16", lambda device: "no such units")
    monkeypatch.setattr(on_policy, "why_no_compile", lambda device, is_optional: "no compiler")
    monkeypatch.setattr(on_policy, "probe", lambda *args: Ratio(0.07, (50.0, 714.0)))
    with pytest.warns(UserWarning, match="is left out") as caught:
        model = make(env, precision="bf16", compile=True)
    assert [str(warning.message) for warning in caught] == [
        "precision 'bf16' is left out: no such units; bf16 is 0.07 times as fast as fp32",
        "compile 'True' is left out: no compiler",
    ]
    assert (model.precision, model.compile) == ("fp32", False)
    with pytest.raises(UserError, match=r"bf16.*cannot be had here: no such units"):
        make(env, precision="bf16", strict=True)
    with pytest.raises(UserError, match=r"compile.*cannot be had here: no compiler"):
        make(env, compile=True, strict=True)
    with pytest.raises(UserError, match="need buffer device"):
        make(env, compile=True, buffer="host")


def test_a_rollout_buffer_of_ones_own_is_not_replaced_silently(env: VecEnv) -> None:
    class Mine(RolloutBuffer):
        pass

    with pytest.raises(UserError, match="no place for rollout_buffer_class Mine: use buffer='host'"):
        make(env, rollout_buffer_class=Mine)
    assert type(make(env, rollout_buffer_class=Mine, buffer="host").rollout_buffer) is Mine


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"precision": "fp16"}, "use one of auto, fp32, bf16"),
        ({"buffer": "gpu"}, "use one of host, device"),
        ({"compile": "yes"}, "compile is 'yes'"),
    ],
)
def test_a_switch_that_there_is_not_is_refused(env: VecEnv, given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        make(env, **given)


def test_what_is_asked_for_and_can_be_had_is_not_measured() -> None:
    assert settle("precision", "bf16", ("fp32", "bf16"), "", None, False).choice == "bf16"


def test_bf16_trains_with_float32_weights(env: VecEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_policy, "why_no_bf16", lambda device: "")
    model = make(env, precision="bf16")
    model.learn(128)
    assert {p.dtype for p in model.policy.parameters()} == {torch.float32}
    reference = make(env)
    reference.policy.load_state_dict(model.policy.state_dict())
    frames = torch.as_tensor(env.reset())
    assert model.network is not None
    assert reference.network is not None
    logits, expected = model.network(frames)[0], reference.network(frames)[0]
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, expected)
    torch.testing.assert_close(logits, expected, rtol=0.05, atol=0.02)


@pytest.mark.parametrize(
    ("extractor", "channels_last"), [*((name, True) for name in EXTRACTORS), ("coordconv", False)]
)
@pytest.mark.numeric
def test_bf16_rounds_images_and_changes_nothing(env: VecEnv, extractor: str, channels_last: bool) -> None:
    """Autocast rounds them for the first convolution: rounded before, all is the same to the bit."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kwargs: dict[str, Any] = {"policy_kwargs": policy_kwargs(extractor), "n_steps": 16, "batch_size": 16}
        model = stable_baselines3.PPO("CnnPolicy", env, device="cpu", **kwargs)
    network = Network(model.policy, True, channels_last, set())
    frames = torch.as_tensor(env.reset())
    assert network.image_dtype == torch.bfloat16
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        network.image_dtype = dtype
        model.policy.zero_grad()
        outputs = network(frames)
        (outputs[0].square().mean() + outputs[1].square().mean()).backward()
        gradients = [p.grad for p in model.policy.parameters() if p.grad is not None]
        found.append([*outputs, *gradients])
    for ours, expected in zip(*found, strict=True):
        assert torch.equal(ours, expected)
    network.image_dtype = torch.bfloat16
    assert torch.equal(network(network.scale(frames))[0], found[0][0])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.numeric
def test_bf16_keeps_what_the_network_sees(
    env: VecEnv, monkeypatch: pytest.MonkeyPatch, channels_last: bool
) -> None:
    monkeypatch.setattr(on_policy, "why_no_bf16", lambda device: "")
    model = make(env, precision="bf16", channels_last=channels_last)
    buffer, stock = model.rollout_buffer, make(env).rollout_buffer
    assert isinstance(buffer, DeviceRolloutBuffer)
    assert isinstance(stock, DeviceRolloutBuffer)
    rng = np.random.default_rng(0)
    for _ in range(buffer.buffer_size):
        frames = rng.integers(256, size=(4, 4, 84, 84), dtype=np.uint8)
        for side in (buffer, stock):
            side.add(frames, *np.zeros((3, 4)), *torch.zeros((2, 4)))
    samples = torch.tensor([3, 0, 5])
    kept, frames = buffer.samples(samples).observations, stock.samples(samples).observations
    assert model.network is not None
    assert kept.dtype == torch.bfloat16
    assert frames.dtype == torch.uint8
    assert torch.equal(kept, model.network.scale(frames))
    seen = model.network.scale(kept)
    assert torch.equal(seen, kept)
    assert seen.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def test_an_extractor_of_ones_own_sees_float32_images(env: VecEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    class Centred(NatureCNN):
        def forward(self, observations: torch.Tensor) -> torch.Tensor:
            assert observations.dtype == torch.float32
            return super().forward(observations - 0.5)

    monkeypatch.setattr(on_policy, "why_no_bf16", lambda device: "")
    model = make(env, precision="bf16", policy_kwargs={"features_extractor_class": Centred})
    model.learn(64)
    assert model.network is not None
    assert model.network.image_dtype == torch.float32


@pytest.mark.slow
def test_compiled_computes_the_same(env: VecEnv, tmp_path: Path) -> None:
    if reason := probe.why_no_compile(torch.device("cpu"), False):
        pytest.skip(reason)  # e.g. no C++ compiler on this machine
    model = make(env, compile=True, n_epochs=1)
    model.learn(64)
    assert model.compile is True
    frames = torch.as_tensor(env.reset())
    assert model.network is not None
    found = model.network(frames)
    for ours, expected in zip(found, Network(model.policy, False, True, set())(frames), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    model.save(tmp_path / "compiled")
    assert stable_baselines3.PPO.load(tmp_path / "compiled", device="cpu").num_timesteps == 64
