"""Exported agents play as the original, run no code, and tell when they were changed."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import huggingface_hub
import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from small_runs import SMALL
from stable_baselines3 import PPO

from rl_coordconv import load_agent
from rl_coordconv.errors import UserError
from rl_coordconv.runs.card import hub_metadata, make_card
from rl_coordconv.runs.checkpoints import STATE_ENTRY
from rl_coordconv.runs.curves import write_curve
from rl_coordconv.runs.export import PolicyOutputs
from rl_coordconv.runs.folder import RunFolder

ROOT = Path(__file__).parents[2]
RUN = Path("runs/ppo/Freeway/coordconv/seed1")
FILES = {
    *("README.md", "SHA256SUMS", "config.yaml", "curve.csv", "curve.png", "metrics.json", "model.safetensors")
}


@pytest.fixture
def trained(finished_run) -> Path:
    return finished_run.path


@pytest.fixture
def exported(script, trained, tmp_path) -> Path:
    assert script("export", trained, "agent") == 0
    return tmp_path / "agent"


def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (16, 4, 84, 84), dtype=np.uint8)


def test_plays_as_the_original(trained, exported, monkeypatch):
    original = load_agent(trained, "cpu")

    def refuse(*args, **kwargs):
        raise AssertionError("something was unpickled")

    for module, name in ((pickle, "loads"), (pickle, "load"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    copy = load_agent(exported, "cpu")
    expected, found = (model.predict(frames(), deterministic=True)[0] for model in (original, copy))
    assert (expected == found).all()
    for name, weight in original.policy.state_dict().items():
        assert torch.equal(weight, copy.policy.state_dict()[name])


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("ppo", "ppo_run"),
        ("agent", "agent"),
        ("cnn", "comparison/Breakout/cnn/seed1"),
        ("run", "comparison/Breakout/coordconv/seed1"),
    ],
)
def test_agents_of_version_0_1_0_compute_what_they_computed(name, path):
    expected = np.load(ROOT / "tests" / "data" / "v1" / "expected.npz")
    model = load_agent(ROOT / "tests" / "data" / "v1" / path, "cpu")
    policy, observations = model.policy, torch.as_tensor(frames())
    with torch.no_grad():
        logits = policy.get_distribution(observations).distribution.logits
        values = policy.predict_values(observations)
    assert (model.predict(frames(), deterministic=True)[0] == expected[f"{name}_actions"]).all()
    # The samples hold unnormalised logits.
    theirs = torch.as_tensor(expected[f"{name}_logits"]).log_softmax(1)
    torch.testing.assert_close(logits, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(values, torch.as_tensor(expected[f"{name}_values"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("says", "instead"),
    [
        ("precision: fp32", "precision: bf16"),
        ("precision: fp32", "precision: bf16-rounding"),
        ("compile: false", "compile: true"),
        ("strict: false", "strict: true"),
        ("overlap: null", "overlap: true"),
    ],
)
def test_loads_whatever_the_switches_of_its_run_and_starts_no_game(says, instead, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a game was started")

    monkeypatch.setattr("ale_py.ALEInterface.loadROM", refuse)
    monkeypatch.setattr("ale_py.vector_env.AtariVectorEnv.__init__", refuse)
    run = tmp_path / "run"
    shutil.copytree(ROOT / "tests" / "data" / "v1" / "ppo_run", run)
    text = (run / "config.yaml").read_text()
    assert says in text
    (run / "config.yaml").write_text(text.replace(says, instead).replace("strict: false", "strict: true"))
    actions, _ = load_agent(run, "cpu").predict(frames())
    assert actions.shape == (16,)


def test_learns_on_with_as_many_environments_as_its_run_had(exported):
    model = load_agent(exported, "cpu")
    before = {name: weight.clone() for name, weight in model.policy.state_dict().items()}
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    snippet = page[page.index("from rl_coordconv import make_atari_vec_env") :].partition("```")[0]
    exec(snippet.replace('"Breakout"', '"Freeway"').replace("10_000", "128"), {"model": model})
    assert model.num_timesteps == 128
    assert not all(torch.equal(weight, before[name]) for name, weight in model.policy.state_dict().items())
    model.get_env().close()


def test_card_and_metrics_tell_where_it_comes_from(trained, script, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    versions = json.loads((run / "versions.json").read_text())
    (run / "versions.json").write_text(json.dumps({**versions, "torch": "9.8.7"}))
    assert script("export", "run", "exported") == 0
    exported = tmp_path / "exported"
    assert {path.name for path in exported.iterdir()} == FILES
    card = (exported / "README.md").read_text()
    metrics = json.loads((exported / "metrics.json").read_text())
    record = json.loads(RunFolder(trained).evaluations.read_text().splitlines()[-1])
    assert metrics["mean"] == np.mean(record["returns"])
    assert f"{metrics['mean']:.1f} ± {metrics['std']:.1f} over 1 games" in card
    for text in (
        "Freeway",
        "coordconv",
        "256 (4 frames each)",
        "train.py --game Freeway",
        "torch 9.8.7",
    ):
        assert text in card


def test_a_score_by_which_the_agent_was_chosen_says_so_and_is_not_for_the_hub(exported):
    config = RunFolder(exported).load_config()
    metrics = json.loads((exported / "metrics.json").read_text())
    assert "model-index" in hub_metadata(config, {**metrics, "best_of": 1})
    assert "model-index" not in hub_metadata(config, {**metrics, "best_of": 40})
    card = make_card(config, {**metrics, "best_of": 40}, "", {}, "agent", {})
    assert "the best of 40 evaluations, chosen by this score" in card
    assert "| steps | not known |" in make_card(config, {}, "", {}, "agent", {})


def test_checkpoint_has_its_own_evaluation_or_none(trained, script, tmp_path, monkeypatch):
    run = RunFolder(shutil.copytree(trained, tmp_path / "run"))
    checkpoint = next((run.path / "checkpoints").glob("step_*.zip"))
    step = int(checkpoint.name.split("_")[1])
    monkeypatch.chdir(checkpoint.parent)
    for found, mean in ((step, 3.0), (step + 1, None)):
        records = [{"step": found, "returns": [3.0]}, {"step": step + 2, "returns": [50.0]}]
        run.evaluations.write_text("".join(json.dumps(record) + "\n" for record in records))
        agent = tmp_path / f"agent{found}"
        assert script("export", checkpoint.name, agent) == 0
        metrics = json.loads((agent / "metrics.json").read_text())
        assert (metrics["step"], metrics.get("mean")) == (step, mean)
        card = (agent / "README.md").read_text()
        assert f"| steps | {step:,} (4 frames each) |" in card
        assert "(not recorded)" not in card
        assert ("not evaluated" in card) == (mean is None)
    shutil.copy(checkpoint, run.path / "early_copy.zip")
    assert script("export", run.path / "early_copy.zip", tmp_path / "copy") == 0
    assert not {"step", "mean"} & json.loads((tmp_path / "copy" / "metrics.json").read_text()).keys()


def test_card_holds_what_the_hub_reads(exported):
    data = huggingface_hub.ModelCard.load(exported / "README.md").data
    metrics = json.loads((exported / "metrics.json").read_text())
    assert data.library_name == "stable-baselines3"
    assert {"FreewayNoFrameskip-v4", "reinforcement-learning", "coordconv"} <= set(data.tags)
    [result] = data.eval_results
    assert (result.task_type, result.dataset_name) == ("reinforcement-learning", "FreewayNoFrameskip-v4")
    assert result.metric_type == "mean_reward"
    assert result.metric_value == f"{metrics['mean']:.2f} +/- {metrics['std']:.2f}"


def test_curve_is_that_of_the_run(tmp_path):
    run = RunFolder(ROOT / "tests" / "data" / "v1" / "ppo_run")
    steps, returns = run.read_games()
    assert write_curve(run, tmp_path / "curve", "a run", points=3)
    rows = [line.split(",") for line in (tmp_path / "curve.csv").read_text().splitlines()[1:]]
    assert sum(int(games) for _, games, _ in rows) == len(returns)
    total = sum(int(games) * float(mean) for _, games, mean in rows)
    assert total == pytest.approx(returns.sum(), abs=0.01 * len(returns))
    assert int(rows[-1][0]) == steps.max()
    assert imageio.imread(tmp_path / "curve.png").std() > 0


def test_who_may_read_it_follows_the_umask(script, trained, tmp_path):
    before = os.umask(0o027)
    try:
        assert script("export", trained, "agent") == 0
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "agent").iterdir()} == {"0o640"}


def test_json_that_cannot_be_written_is_refused_before_a_game(exported, script, capsys, tmp_path):
    places = [(tmp_path / "nowhere" / "x.json", "does not exist"), (tmp_path, "is a folder")]
    if Path("/proc/self").is_dir():  # nobody may make a file there, root included
        places.append((Path("/proc/self/x.json"), "cannot be written"))
    for place, says in places:
        assert script("evaluate", exported, "--json", place) == 2
        [line] = capsys.readouterr().err.strip().splitlines()
        assert says in line


def test_an_exported_agent_is_not_resumed_and_its_file_is_checked_as_the_folder_is(exported, script, capsys):
    before = sorted(exported.iterdir())
    assert script("train", "--resume", exported) == 2
    assert "is an exported agent" in capsys.readouterr().err
    assert sorted(exported.iterdir()) == before
    (exported / "model.safetensors").write_bytes((exported / "model.safetensors").read_bytes()[:1000])
    assert script("evaluate", exported / "model.safetensors", "--games", 1) == 2
    assert "its hash differs" in capsys.readouterr().err


def test_evaluate_takes_the_folder(exported, script, capsys):
    before = sorted(exported.iterdir())
    assert script("evaluate", exported, "--games", 1) == 0
    assert "Freeway" in capsys.readouterr().out
    assert sorted(exported.iterdir()) == before


def test_coordinates_of_the_actor_alone_train_and_are_handed_on(script, tmp_path):
    separate = ("--share-features-extractor", "false", "--coord-critic", "false")
    assert script("train", *SMALL, *separate, "--total-timesteps", 64) == 0
    assert script("export", RUN, "agent") == 0
    weights = load_file(tmp_path / "agent" / "model.safetensors")
    assert [name for name in weights if "coord" in name] == ["features_extractor.cnn.0.coord_weight"]
    assert "vf_features_extractor.cnn.0.weight" in weights
    original, copy = load_agent(tmp_path / RUN, "cpu"), load_agent(tmp_path / "agent", "cpu")
    for name, weight in original.policy.state_dict().items():
        assert torch.equal(weight, copy.policy.state_dict()[name]), name
    expected = original.policy(torch.as_tensor(frames()), deterministic=True)
    for ours, found in zip(expected, copy.policy(torch.as_tensor(frames()), deterministic=True), strict=True):
        assert torch.equal(ours, found)
    torch.manual_seed(0)
    logits, value = PolicyOutputs(copy.policy)(torch.as_tensor(frames()))
    assert torch.equal(logits.argmax(1), expected[0])
    torch.testing.assert_close(value, expected[1])


def test_onnx_computes_the_same(script, trained, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    assert script("export", trained, "agent", "--onnx") == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "agent" / "policy.onnx"))
    logits, value = session.run(None, {"frames": frames()})
    policy = load_agent(trained, "cpu").policy
    with torch.no_grad():
        distribution = policy.get_distribution(torch.as_tensor(frames()))
        expected = policy.predict_values(torch.as_tensor(frames()))
    np.testing.assert_allclose(value, expected.numpy(), atol=1e-4)
    shifted = distribution.distribution.logits.numpy()
    np.testing.assert_allclose(
        logits - logits.max(1, keepdims=True), shifted - shifted.max(1, keepdims=True), atol=1e-4
    )


def test_film_goes_into_folder_and_card(script, trained, tmp_path, monkeypatch, capsys):
    played = []

    def film(*args, **options):
        played.append(options)
        return [np.full((210, 160, 3), shade, dtype=np.uint8) for shade in (0, 255)], 1.0

    monkeypatch.setattr("rl_coordconv.runs.video.film_game", film)
    assert script("export", trained, "agent", "--gif") == 0
    assert (tmp_path / "agent" / "play.gif").read_bytes().startswith(b"GIF8")
    assert "(play.gif)" in (tmp_path / "agent" / "README.md").read_text()
    assert "  play.gif\n" in (tmp_path / "agent" / "SHA256SUMS").read_text()
    assert script("export", trained, "agent", "--gif") == 2
    assert "exists already" in capsys.readouterr().err
    assert len(played) == 1, "no game is played for a folder that is refused"


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.yaml", "metrics.json", "README.md", "SHA256SUMS"]
)
def test_changed_file_is_one_line(exported, script, capsys, name):
    data = bytearray((exported / name).read_bytes())
    data[len(data) // 2] ^= 1
    (exported / name).write_bytes(data)
    assert script("evaluate", exported, "--games", 1) == 2
    assert capsys.readouterr().err.startswith("error: ")
    (exported / name).unlink()
    with pytest.raises(UserError):
        load_agent(exported, "cpu")


@pytest.mark.parametrize(
    "weights",
    [
        b"nonsense",
        {"action_net.weight": torch.zeros(())},
        {"action_net.weight": torch.zeros(0, 512)},
        {},
    ],
    ids=["no safetensors", "a number", "no actions", "nothing"],
)
def test_weights_that_fit_nothing_are_one_line_though_their_hash_fits(exported, weights):
    data = weights if isinstance(weights, bytes) else save(weights)
    (exported / "model.safetensors").write_bytes(data)
    sums = exported / "SHA256SUMS"
    lines = [line for line in sums.read_text().splitlines() if not line.endswith("model.safetensors")]
    sums.write_text("\n".join([*lines, f"{hashlib.sha256(data).hexdigest()}  model.safetensors"]) + "\n")
    with pytest.raises(UserError, match="does not fit the config"):
        load_agent(exported)


def test_config_of_another_network_is_refused(exported):
    config = (exported / "config.yaml").read_text().replace("features_dim: 16", "features_dim: 17")
    (exported / "config.yaml").write_text(config)
    sums = (exported / "SHA256SUMS").read_text().splitlines()
    new = f"{hashlib.sha256(config.encode()).hexdigest()}  config.yaml"
    lines = [new if line.endswith("config.yaml") else line for line in sums]
    (exported / "SHA256SUMS").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="does not fit the config"):
        load_agent(exported, "cpu")


def test_bad_export_is_one_line_and_leaves_nothing(exported, trained, script, capsys, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    for args, says in (
        ([trained, "agent"], "exists already"),
        ([exported, "copy"], "is an exported agent already"),
        (["nowhere", "copy"], "'nowhere' does not exist"),
        ([trained, exported / "README.md" / "copy"], "cannot be made"),
    ):
        assert script("export", *args) == 2
        assert says in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


class Payload:
    """Its pickle creates a file."""

    def __reduce__(self):
        return (Path("pwned").touch, ())


def make_malicious(source: Path, target: Path, only: str = "") -> None:
    """Copy an SB3 zip, every pickle in it (or only one) replaced by the payload."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if only and name != only:
                new.writestr(name, old.read(name))
            elif name == "data":
                payload = base64.b64encode(pickle.dumps(Payload())).decode()
                values = {key: {":type:": "x", ":serialized:": payload} for key in json.loads(old.read(name))}
                new.writestr(name, json.dumps(values))
            elif name.endswith((".pth", ".pt")):
                new.writestr(name, pickle.dumps(Payload()))
            else:
                new.writestr(name, old.read(name))


def test_malicious_zip_runs_nothing_through_any_script(script, trained, tmp_path, capsys):
    run = tmp_path / RUN
    shutil.copytree(trained, run)
    source = run / "final_model.zip"
    evil = tmp_path / "evil.zip"
    make_malicious(source, evil)
    with contextlib.suppress(Exception):  # what a careless loader would do
        PPO.load(evil)
    assert Path("pwned").exists(), "the payload must work, or this test shows nothing"
    Path("pwned").unlink()
    for model in ("best_model.zip", "final_model.zip"):
        (run / model).unlink(missing_ok=True)
        shutil.copy(evil, run / model)
    for args in (
        ("evaluate", evil),
        ("evaluate", run),
        ("evaluate", run / "final_model.zip"),
        ("export", run, "out"),
        ("export", evil, "out"),
        ("report", tmp_path / "runs" / "ppo"),
    ):
        script(*args)
        assert not Path("pwned").exists(), args
    # The checkpoint's name carries its hash, so a stranger can make a fitting one.
    checkpoint = tmp_path / "checkpoint.zip"
    for old in run.glob("checkpoints/*.zip"):
        old.replace(checkpoint)
    (run / "final_model.zip").unlink()
    half_evil = tmp_path / "half_evil.zip"
    make_malicious(checkpoint, half_evil, STATE_ENTRY)
    for stranger, says in ((evil, "is damaged"), (half_evil, "holds code")):
        sha = hashlib.sha256(stranger.read_bytes()).hexdigest()[:16]
        planted = run / "checkpoints" / f"step_000000064_sha256_{sha}.zip"
        shutil.copy(stranger, planted)
        assert script("train", "--resume", run) == 2
        assert not Path("pwned").exists()
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert line.startswith("error: ")
        assert says in line
        planted.unlink()
