"""What needs a GPU: ``pytest -m cuda``."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import VecEnv

from rl_coordconv import CoordConvNatureCNN, make_atari_vec_env
from rl_coordconv.algorithms import A2C, PPO
from rl_coordconv.algorithms.frames import FrameStore
from rl_coordconv.algorithms.rollout import to_host

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
TF_STYLE = {"optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"eps": 1e-5}}


@pytest.fixture(params=[False, True], ids=["undivided", "halves"])
def env(request: pytest.FixtureRequest) -> Iterator[VecEnv]:
    venv = make_atari_vec_env("Breakout", n_envs=4, seed=3, halves=request.param)
    yield venv
    venv.close()


def make(env: VecEnv, model_class: Any = PPO, **kwargs: Any) -> Any:
    """Return a model whose last minibatch is short: 64 samples are 24, 24 and 16."""
    policy = {"features_extractor_class": CoordConvNatureCNN, "net_arch": []}
    size = {"batch_size": 24, "n_epochs": 2} if model_class is PPO else {}
    policy |= {} if model_class is PPO else TF_STYLE
    given: dict[str, Any] = {"policy_kwargs": policy, "n_steps": 16, "seed": 3, "device": "cuda", **size}
    return model_class("CnnPolicy", env, **{"buffer": "device", "channels_last": True, **given, **kwargs})


def state_of(model: Any) -> list[torch.Tensor]:
    """Return weights and the optimizer's tensors."""
    states = [value for state in model.policy.optimizer.state.values() for value in state.values()]
    return [torch.as_tensor(value).detach().clone() for value in [*model.policy.parameters(), *states]]


def with_and_without_graphs(env: VecEnv) -> tuple[Any, Any]:
    """Return two models in the same state, with the same rollout; the second uses no graphs."""
    captured, plain = make(env, A2C), make(env, A2C)
    plain.captured_act.fails = plain.captured_minibatch.fails = True
    captured.learn(64)
    plain.rollout_buffer = captured.rollout_buffer  # which an update only reads
    plain.set_logger(captured.logger)
    plain.set_parameters(copy.deepcopy(captured.get_parameters()))
    return captured, plain


@pytest.mark.parametrize("model_class", [PPO, A2C])
@pytest.mark.parametrize("switches", [{}, {"precision": "bf16"}])
def test_graphs_do_what_calls_do(
    env: VecEnv, model_class: Any, switches: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rate 0 keeps weights, so that losses of all minibatches can be compared; then one real step."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    logs = []
    for is_captured in (True, False):
        env.seed(5)
        model = make(env, model_class, learning_rate=0.0, **switches)
        if not is_captured:
            model.captured_act.fails = model.captured_minibatch.fails = True
        model.learn(128)
        assert bool(model.captured_minibatch.recordings) == is_captured
        logs.append(dict(model.logger.name_to_value))
    for name, value in logs[0].items():
        if name.startswith("train/"):
            assert value == pytest.approx(logs[1][name], rel=1e-3, abs=1e-4), name


def test_one_step_of_a_graph_is_one_step(env: VecEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    captured, plain = with_and_without_graphs(env)
    for model in (captured, plain):
        np.random.seed(0)
        model.train()
    for ours, expected in zip(state_of(captured), state_of(plain), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("model_class", [PPO, A2C])
def test_warm_up_leaves_no_trace_and_the_short_minibatch_has_its_own_graph(
    env: VecEnv, model_class: Any
) -> None:
    model = make(env, model_class)
    model.learn(64)
    assert len(model.captured_minibatch.recordings) == (2 if model_class is PPO else 1)
    before, random = state_of(model), torch.cuda.get_rng_state()
    model.captured_minibatch.forget()
    samples = next(model.rollout_buffer.minibatches(8))
    limits = [torch.tensor(0.1, dtype=torch.float64, device="cuda")] if model_class is PPO else []
    model.captured_minibatch._try_to_record("test", [samples, *limits])
    assert not model.captured_minibatch.fails
    assert all(map(torch.equal, before, state_of(model)))
    assert torch.equal(torch.cuda.get_rng_state(), random)


def test_a_minibatch_and_an_act_wait_for_nothing(env: VecEnv) -> None:
    model = make(env)
    model.learn(64)
    chunks = list(model.rollout_buffer.minibatches(24))
    limit = torch.tensor(0.1, dtype=torch.float64, device="cuda")
    staged = model.rollout_buffer.frames.stage(1, env.reset(), np.ones(4, dtype=bool), slice(None))
    model.captured_act(*staged)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.captured_minibatch(chunks[0], limit)
        model.captured_act(*staged)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_new_rates_and_clip_ranges_reach_the_graph(env: VecEnv) -> None:
    model = make(env, learning_rate=lambda left: 1e-3 * left, clip_range=lambda left: left)
    model.learn(64)
    weights = []
    for left in (1.0, 0.5, 0.0):
        weights.append([weight.detach().clone() for weight in model.policy.parameters()])
        model._current_progress_remaining = left
        model.train()
        (lr,) = {float(group["lr"]) for group in model.policy.optimizer.param_groups}
        assert lr == pytest.approx(1e-3 * left)
        moved = [not torch.equal(*pair) for pair in zip(weights[-1], model.policy.parameters(), strict=True)]
        assert any(moved) == (left > 0)
    # At a clip range of 0 every ratio but 1 is clipped.
    assert model.logger.name_to_value["train/clip_fraction"] > 0.9
    assert model.captured_minibatch.recordings


def test_annealed_coefficients_reach_the_graph(env: VecEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    captured, plain = with_and_without_graphs(env)
    for model in (captured, plain):
        model.ent_coef = 5.0
        np.random.seed(0)
        model.train()
    for ours, expected in zip(state_of(captured), state_of(plain), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5)


def test_loaded_parameters_drop_graphs_and_training_goes_on(env: VecEnv, tmp_path: Path) -> None:
    model = make(env)
    model.learn(64)
    model.save(tmp_path / "model")
    model.set_parameters(str(tmp_path / "model"))
    assert not model.captured_minibatch.recordings
    model.learn(64, reset_num_timesteps=False)
    stock = stable_baselines3.PPO.load(tmp_path / "model", env=env, device="cpu")
    assert stock.policy.optimizer.param_groups[0]["fused"] is None
    assert all(state["exp_avg"].is_contiguous() for state in stock.policy.optimizer.state.values())
    stock.learn(64)
    stock.save(tmp_path / "stock")
    again = PPO.load(tmp_path / "stock", env=env, device="cuda", buffer="device", channels_last=True)
    assert again.policy.optimizer.param_groups[0]["fused"] is True
    for parameter, state in again.policy.optimizer.state.items():
        assert state["exp_avg"].stride() == state["exp_avg_sq"].stride() == parameter.stride()
    again.learn(64)
    assert again.captured_minibatch.recordings


@pytest.mark.parametrize("model_class", [PPO, A2C])
def test_steps_are_counted_as_stable_baselines3_counts_them(env: VecEnv, model_class: Any) -> None:
    model = make(env, model_class)
    model.learn(128)
    state = model.get_parameters()["policy.optimizer"]["state"]
    assert {float(values["step"]) for values in state.values()} == {12.0 if model_class is PPO else 2.0}


def test_target_kl_stops_and_leaves_nothing_pending(env: VecEnv) -> None:
    model = make(env, target_kl=1e-9, learning_rate=1e-2)
    model.learn(128)
    assert model._n_updates < 4
    assert not model.captured_minibatch.recordings


def test_optimizers_in_graphs_and_those_that_cannot_be(env: VecEnv) -> None:
    given: dict[str, Any] = {"buffer": "device", "device": "cuda", "n_steps": 16}
    model = A2C("CnnPolicy", env, **given)
    model.learn(128)
    assert type(model.policy.optimizer) is torch.optim.RMSprop
    assert model.captured_minibatch.recordings
    for kwargs in ({"foreach": True}, {"fused": False}):
        model = make(env, policy_kwargs={"optimizer_kwargs": kwargs})
        model.learn(64)
        assert model.captured_minibatch.recordings
    with pytest.warns(UserWarning, match="left out.*SGD cannot be in one"):
        model = A2C("CnnPolicy", env, policy_kwargs={"optimizer_class": torch.optim.SGD}, **given)
    model.learn(128)
    assert model.captured_act.recordings
    assert not model.captured_minibatch.recordings


class Waits(NatureCNN):
    """Looks at its features on the host, which no graph can."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        features = super().forward(observations)
        assert features.sum().item() == features.sum().item()
        return features


def test_a_network_that_cannot_be_recorded_trains_without(env: VecEnv) -> None:
    model = make(env, policy_kwargs={"features_extractor_class": Waits})
    with pytest.warns(UserWarning, match="CUDA graphs are left out"):
        model.learn(64)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert torch.cuda.get_sync_debug_mode() == 0
    torch.rand(1, device="cuda")
    before = [weight.detach().clone() for weight in model.policy.parameters()]
    model.learn(64, reset_num_timesteps=False)
    assert not all(map(torch.equal, before, model.policy.parameters()))
    assert not model.captured_minibatch.recordings


@pytest.mark.slow
def test_compiled_inside_of_graphs(env: VecEnv) -> None:
    model = make(env, compile=True, strict=True)
    model.learn(128)
    assert model.captured_minibatch.recordings


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_gpu_that_is_not_the_current_one_is_waited_for(env: VecEnv) -> None:
    with torch.cuda.device(1):
        values = torch.zeros(3, device="cuda:1")
        torch.cuda._sleep(1_000_000_000)
        values += 1
    assert to_host(values).tolist() == [1, 1, 1]
    model = make(env, device="cuda:1")
    model.learn(128)
    assert model.captured_act.recordings
    assert model.captured_minibatch.recordings
    assert torch.cuda.current_device() == 0


def test_frames_on_the_gpu_are_those_of_the_host(env: VecEnv) -> None:
    """Steps follow each other without waiting, so that a pinned buffer used too early would show."""
    store = FrameStore(200, 4, (4, 84, 84), torch.device("cuda"))
    observations: Any = env.reset()
    starts, seen = np.ones(4, dtype=bool), []
    for step in range(200):
        store.put(step, observations, starts)
        seen.append(observations)
        observations, _, starts, _ = env.step(np.full(4, step % 4))
    store.prepare()
    found = store.take(torch.arange(800, device="cuda")).cpu()
    assert torch.equal(found, torch.as_tensor(np.concatenate(seen)))
