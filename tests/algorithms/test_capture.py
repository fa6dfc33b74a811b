"""What surrounds CUDA graphs, as far as it runs anywhere: restored warm-ups, rates in memory, saved files."""

from __future__ import annotations

import contextlib
import copy
import gc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import VecEnv

from rl_coordconv import machine, make_atari_vec_env
from rl_coordconv.algorithms import A2C, PPO
from rl_coordconv.algorithms.capture import (
    MOST_RECORDINGS,
    Captured,
    Recording,
    make_capturable,
    make_plain,
    portable,
    set_learning_rate,
    warmed_up,
)
from rl_coordconv.algorithms.frames import FrameStore
from rl_coordconv.algorithms.rmsprop import ForeachRMSpropTFLike
from rl_coordconv.benchmark import measure

CPU = torch.device("cpu")
OPTIMIZERS = [torch.optim.Adam, torch.optim.RMSprop, RMSpropTFLike, ForeachRMSpropTFLike]


@pytest.fixture(scope="module")
def env() -> Iterator[VecEnv]:
    venv = make_atari_vec_env("Breakout", n_envs=2, seed=3)
    yield venv
    venv.close()


def make(env: VecEnv, model_class: Any, optimizer: Any = torch.optim.Adam) -> Any:
    policy = {"net_arch": [], "features_extractor_kwargs": {"features_dim": 8}, "optimizer_class": optimizer}
    return model_class(
        "CnnPolicy", env, n_steps=8, device="cpu", seed=1, buffer="device", policy_kwargs=policy
    )


def everything(model: Any) -> list[Any]:
    """Return weights, optimizer state and random state as plain values."""
    state = model.policy.optimizer.state_dict()["state"]
    values = [
        {name: torch.as_tensor(value).tolist() for name, value in entry.items()} for entry in state.values()
    ]
    weights = [weight.tolist() for weight in model.policy.parameters()]
    return [weights, values, torch.get_rng_state().tolist()]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_warm_up_of_a_trained_model_leaves_no_trace(env: VecEnv, optimizer: Any) -> None:
    model = make(env, A2C, optimizer)
    model.learn(16)
    before = everything(model)
    addresses = [weight.data_ptr() for weight in model.policy.parameters()]
    with warmed_up(model.policy, CPU):
        model.train()
        torch.rand(3)
        assert everything(model) != before
    assert everything(model) == before
    assert [weight.data_ptr() for weight in model.policy.parameters()] == addresses


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizer_made_in_a_warm_up_begins_as_a_new_one(env: VecEnv, optimizer: Any) -> None:
    models = [make(env, A2C, optimizer) for _ in range(2)]
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(weight.shape, generator=generator) for weight in models[0].policy.parameters()]

    def step(model: Any) -> None:
        for weight, gradient in zip(model.policy.parameters(), gradients, strict=True):
            weight.grad = gradient.clone()
        model.policy.optimizer.step()

    with warmed_up(models[0].policy, CPU):
        step(models[0])
        step(models[0])
    for model in models:
        step(model)
    assert everything(models[0]) == everything(models[1])


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, ForeachRMSpropTFLike])
@pytest.mark.numeric
def test_a_learning_rate_in_memory_changes_nothing(env: VecEnv, optimizer: Any) -> None:
    plain, capturable = (make(env, A2C, optimizer).policy for _ in range(2))
    if optimizer is torch.optim.Adam:  # on the CPU, Adam with a tensor for a rate is the fused one
        plain.optimizer.param_groups[0]["fused"] = True
    for number, lr in enumerate((0.1, 0.01, 0.01)):
        for policy in (plain, capturable):
            if policy is capturable and number == 1:  # with state, as after loading a file
                make_capturable(policy.optimizer)
                if optimizer is torch.optim.Adam:
                    policy.optimizer.param_groups[0]["capturable"] = False  # which PyTorch has for GPUs alone
            memory = [group["lr"] for group in policy.optimizer.param_groups]
            for group in policy.optimizer.param_groups:
                group["lr"] = lr
                group |= {"fused": True} if optimizer is torch.optim.Adam else {}
            if policy is capturable and number:
                set_learning_rate(policy.optimizer, memory)
                assert policy.optimizer.param_groups[0]["lr"] is memory[0]
            generator = torch.Generator().manual_seed(number)
            for weight in policy.parameters():
                weight.grad = torch.randn(weight.shape, generator=generator)
            policy.optimizer.step()
    for one, other in zip(plain.parameters(), capturable.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    saved, expected = portable(capturable.optimizer.state_dict()), plain.optimizer.state_dict()
    assert saved["param_groups"][0]["lr"] == pytest.approx(0.01)
    assert not saved["param_groups"][0].get("capturable")
    steps = [[float(values["step"]) for values in state["state"].values()] for state in (saved, expected)]
    assert steps[0] == steps[1] == [3.0] * len(steps[0])
    if optimizer is ForeachRMSpropTFLike:
        assert type(saved["state"][0]["step"]) is int, "as stock SB3 has it"


def test_the_optimizer_of_a2c_can_be_in_a_graph_and_others_stay_as_they_are(env: VecEnv) -> None:
    model = A2C("CnnPolicy", env, n_steps=8, device="cpu", buffer="device")
    model.learn(16)
    optimizer = model.policy.optimizer
    assert type(optimizer) is torch.optim.RMSprop
    assert make_capturable(optimizer)
    [group] = optimizer.param_groups
    assert group["capturable"] is True
    assert isinstance(group["lr"], torch.Tensor)
    [saved] = portable(optimizer.state_dict())["param_groups"]
    assert (saved["capturable"], saved["lr"]) == (False, pytest.approx(7e-4))
    other = torch.optim.SGD(model.policy.parameters(), lr=0.1)
    assert not make_capturable(other)
    counting = torch.optim.Adagrad(model.policy.parameters())
    assert not make_capturable(counting)
    make_plain(counting)  # stays as it is: its steps are tensors
    assert all(isinstance(state["step"], torch.Tensor) for state in counting.state.values())
    set_learning_rate(other, [0.1])
    assert other.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.RMSprop, ForeachRMSpropTFLike])
def test_without_graphs_the_optimizer_is_as_before(env: VecEnv, optimizer: Any) -> None:
    model = make(env, A2C, optimizer)
    model.learn(16)
    before = copy.deepcopy(model.policy.optimizer.state_dict())
    assert make_capturable(model.policy.optimizer)
    make_plain(model.policy.optimizer)
    after = model.policy.optimizer.state_dict()
    for group, expected in zip(after["param_groups"], before["param_groups"], strict=True):
        assert type(group["lr"]) is float
        assert group == {**expected, "lr": pytest.approx(expected["lr"])}
    for index, state in after["state"].items():
        assert type(state["step"]) is type(before["state"][index]["step"])
        assert float(state["step"]) == float(before["state"][index]["step"])


def test_coefficients_that_change_all_the_time_cost_graphs_and_not_a_recording_each(
    env: VecEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = []

    def record(self: Captured, arguments: Any) -> Recording:
        output = torch.zeros(1)
        recorded.append(output)
        graph: Any = SimpleNamespace(replay=lambda: output.add_(1))
        return Recording(graph, (), output)

    monkeypatch.setattr(Captured, "_record", record)
    captured = Captured(lambda: torch.ones(1), CPU)
    captured.fails = False
    for number in range(MOST_RECORDINGS):
        assert not captured.fails
        for _ in range(2):
            captured.forget_unless(number)
            captured()
    assert [int(output) for output in recorded] == [2] * MOST_RECORDINGS
    with pytest.warns(UserWarning, match="CUDA graphs are left out.*coefficients change"):
        captured.forget_unless("another")
    assert captured() == 1
    assert not captured.recordings


def test_a_recording_that_fails_costs_speed_and_nothing_else(
    env: VecEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(env, PPO)
    model.learn(16)
    before = everything(model)

    def fail(self: Captured, arguments: Any) -> None:
        self.function(*arguments)
        raise RuntimeError("operation not permitted when stream is capturing\nmore words")

    monkeypatch.setattr(Captured, "_record", fail)
    train = Captured(lambda samples: model._descend_on(samples, torch.tensor(0.2)), CPU, model.policy)
    train.fails = False
    (samples,) = model.rollout_buffer.minibatches()
    with pytest.warns(UserWarning, match=r"CUDA graphs are left out.*capturing$"):
        train(samples)
    assert everything(model)[1][0]["step"] == before[1][0]["step"] + 1
    train(samples)
    assert everything(model)[1][0]["step"] == before[1][0]["step"] + 2


def test_the_gpu_that_is_used_is_waited_for_measured_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It need not be the current one."""
    asked: list[Any] = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: ("stream", device))
    for name in ("synchronize", "max_memory_reserved", "get_device_name"):
        monkeypatch.setattr(torch.cuda, name, lambda device=None: asked.append(device) or 0)
    store = FrameStore(2, 1, (4, 2, 2), CPU)
    store._sent = SimpleNamespace(synchronize=lambda: None, record=lambda *on: asked.append(on))  # type: ignore[assignment]
    store.put(0, np.zeros((1, 4, 2, 2), dtype=np.uint8), np.ones(1, dtype=bool))
    assert asked.pop() == (("stream", CPU),)
    measure.synchronise("cuda:1")
    measure.memory("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    machine.describe("cuda:1")
    assert asked == ["cuda:1"] * 3


def test_frames_that_are_repeated_at_an_episodes_start_are_refused_whenever_it_begins() -> None:
    store, seen = FrameStore(2, 1, (4, 2, 2), CPU), np.zeros((1, 4, 2, 2), dtype=np.uint8)
    for rollout in range(3):
        for step in range(2):
            seen = np.concatenate([seen[:, 1:], np.full((1, 1, 2, 2), 1 + step, np.uint8)], 1)
            store.put(step, seen, np.array([rollout == step == 0]))
    for step in range(2):
        with pytest.raises(ValueError, match="do not stack single frames"):
            store.put(step, np.ones((1, 4, 2, 2), np.uint8), np.ones(1, dtype=bool))


def test_a_recording_that_breaks_off_leaves_the_gpu_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: what is asked of PyTorch, in order."""

    @contextlib.contextmanager
    def broken(graph: Any, stream: Any) -> Iterator[None]:
        yield
        raise RuntimeError("capture failed")

    modes: list[Any] = [0]
    seen: list[Any] = []
    streams: list[Any] = []
    fakes = {
        "device": lambda device: contextlib.nullcontext(),
        "current_stream": lambda *device: SimpleNamespace(wait_stream=lambda other: None, name="main"),
        "Stream": lambda *device: SimpleNamespace(wait_stream=lambda other: None),
        "stream": lambda stream: contextlib.nullcontext(),
        "set_stream": streams.append,
        "get_sync_debug_mode": lambda: modes[-1],
        "set_sync_debug_mode": modes.append,
        "CUDAGraph": SimpleNamespace,
        "graph": broken,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    collects: list[bool] = []
    note = lambda: collects.append(gc.isenabled())  # noqa: E731
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", note, raising=False)
    captured = Captured(lambda x: seen.append(modes[-1]) or x, CPU)
    with pytest.raises(RuntimeError, match="capture failed"):
        captured._record([torch.ones(1)])
    assert seen == [0, 0, "error", 0]
    assert modes[-1] == 0
    assert [stream.name for stream in streams] == ["main"]
    assert (collects, gc.isenabled()) == ([False], True)


@pytest.mark.parametrize("model_class", [PPO, A2C])
@pytest.mark.parametrize(
    ("name", "value"),
    [("ent_coef", 0.1), ("vf_coef", 0.1), ("max_grad_norm", 0.1), ("normalize_advantage", None)],
)
def test_a_minibatch_is_recorded_anew_where_its_loss_has_changed(
    env: VecEnv, model_class: Any, name: str, value: float | None
) -> None:
    model = make(env, model_class)
    model.learn(16)
    model.captured_minibatch.recordings["shape"] = "a graph"
    model.train()
    assert model.captured_minibatch.recordings
    setattr(model, name, not getattr(model, name) if value is None else value)
    model.train()
    assert not model.captured_minibatch.recordings


def test_float32_stays_what_the_process_has_set(env: VecEnv) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    make(env, PPO).learn(16)
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
