"""The typed config: shipped files load, and bad input is one line with exit code 2 and nothing written."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from rl_coordconv.cli import parse_dataclass
from rl_coordconv.config import RunConfig, load_config, parse_config
from rl_coordconv.envs import BACKENDS
from rl_coordconv.errors import UserError, one_line_errors
from rl_coordconv.extractors import EXTRACTORS
from rl_coordconv.hyperparameters import ALGORITHMS
from rl_coordconv.runs.folder import RunFolder

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_loads(path):
    config = load_config(path)
    assert config.folder.parts[-3:] == (config.game, config.arm, f"seed{config.seed}")


def test_command_line_overrides_the_file_and_dashes_are_underscores():
    args = ["--n-envs", "4", "--total_timesteps=100", "--game", "pong"]
    config = parse_config(["--config", str(CONFIGS / "ppo_atari.yaml"), *args])
    assert (config.n_envs, config.total_timesteps, config.game) == (4, 100, "Pong")
    assert config.hyperparameters.n_epochs == 4


def test_resolved_yaml_reads_back_as_the_same_config(tmp_path):
    config = parse_config(
        ["--game", "ALE/MsPacman-v5", "--algo", "a2c", "--coord-layers", "[0, 2]", "--seed", "7"]
    )
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    again = load_config(tmp_path / "config.yaml")
    assert again.to_dict() == config.to_dict()
    assert (again.coord_layers, again.n_envs, again.hyperparameters) == ([0, 2], 8, config.hyperparameters)


def test_a_run_of_version_0_1_loads_under_todays_names():
    config = RunFolder(Path(__file__).parent / "data" / "v1" / "ppo_run").load_config()
    assert config.halves is None
    assert config.max_frames == 108_000


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        (["--algo", "ppo"], "window"),
        (["--algo", "a2c"], "root"),
        (["--algo", "a2c", "--coord-scale", "window"], "window"),
        (["--algo", "a2c", "--extractor", "cnn"], None),
        (["--algo", "a2c", "--extractor", "nature-pool"], None),
    ],
)
def test_coordinates_have_the_scale_that_suits_the_optimizer(options, scale):
    config = parse_config(["--game", "Pong", "--n-envs", "8", *options])
    assert config.to_dict()["coord_scale"] == scale


@pytest.mark.parametrize("value", ["3", "null", "[coordconv]"])
def test_a_damaged_config_of_a_run_is_one_line(value, tmp_path):
    (tmp_path / "config.yaml").write_text(f"game: Pong\nextractor: {value}\n")
    with pytest.raises(UserError, match=r"config\.yaml: extractor is"):
        RunFolder(tmp_path).load_config()


def test_emulators_keep_to_the_threads_that_openmp_is_given(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert RunConfig("Pong").game_options["num_threads"] == 0, "one per core"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert RunConfig("Pong").game_options["num_threads"] == torch.get_num_threads()
    assert RunConfig("Pong", num_threads=3).game_options["num_threads"] == 3


def test_help_says_what_each_option_means_and_names_what_can_be_chosen(script, capsys):
    assert script("train", "--help") == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "Full games per evaluation" in words
    assert "Weight of the entropy bonus" in words
    for name in [*EXTRACTORS, *ALGORITHMS, *BACKENDS]:
        assert name in words


def test_print_config_prints_yaml(script, capsys):
    assert script("train", "--config", CONFIGS / "a2c_atari.yaml", "--print_config") == 0
    assert "rms_prop_eps: 1.0e-05" in capsys.readouterr().out


BAD = {
    "unknown game": (["--game", "braekout"], "unknown game 'braekout' (did you mean 'Breakout'?)"),
    "unknown option": (
        ["--game", "pong", "--n-envz", "3"],
        "unknown option 'n_envz' (did you mean 'n_envs'?)",
    ),
    "unknown group option": (["--game", "pong", "--ppo.nsteps", "3"], "did you mean 'ppo.n_steps'?"),
    "no game": ([], "game is missing: give --game, or --config with a file that says it"),
    "a game without its option": (["Pong"], "'Pong' is no option: did you mean --config Pong?"),
    "part of a name": (["--game", "pong", "--extracto", "cnn"], "did you mean 'extractor'?"),
    "an option under extractor_kwargs": (
        ["--game", "pong", "--extractor-kwargs", '{"coord_layers": [1]}'],
        "extractor_kwargs is for other options: give coord_layers as one of its own",
    ),
    "a rollout that no memory holds": (
        ["--game", "pong", "--n-envs", "100000000"],
        "out of memory before the first step: lower n_envs or ppo.n_steps",
    ),
    "no output folder": (["--game", "pong", "--output", ""], "output is empty: give a folder"),
    "a name that is a number": (["--game", "pong", "--arm", "3e4"], "put letters before it"),
    "a name that is nothing": (["--game", "pong", "--name", "False"], "put letters before it"),
    "unknown extractor": (["--game", "pong", "--extractor", "cordconv"], "did you mean 'coordconv'?"),
    "halves without a backend that has them": (
        ["--game", "pong", "--halves", "true", "--backend", "gymnasium"],
        "halves needs backend native or envpool",
    ),
    "unknown backend": (["--game", "pong", "--backend", "nativ"], "did you mean 'native'?"),
    "unknown algorithm": (["--game", "pong", "--algo", "pppo"], "one of ppo, a2c (did you mean 'ppo'?)"),
    "wrong type": (["--game", "pong", "--seed", "1.5"], "seed is 1.5: it must be int"),
    "wrong optional type": (
        ["--game", "pong", "--features-dim", "x"],
        "features_dim is x: it must be int or null",
    ),
    "negative count": (["--game", "pong", "--n-envs", "-1"], "n_envs is -1: it must be more than 0"),
    "zero steps": (["--game", "pong", "--total-timesteps", "0"], "total_timesteps is 0"),
    "not a number": (["--game", "pong", "--ppo.learning_rate", "nan"], "ppo.learning_rate is nan"),
    "gamma above one": (["--game", "pong", "--ppo.gamma", "1.5"], "between 0 and 1"),
    "batch does not divide": (["--game", "pong", "--ppo.batch_size", "300"], "does not divide"),
    "batch of one": (
        ["--game", "pong", "--n-envs", "1", "--ppo.n_steps", "4", "--ppo.batch_size", "1"],
        "ppo.batch_size is 1: it must be 2 or more",
    ),
    "no CUDA": (["--game", "pong", "--device", "cuda:9"], "device 'cuda:9' is not there"),
    "unknown device": (["--game", "pong", "--device", "gpu"], "use auto, cpu, cuda or cuda:N"),
    "no coordinate layer": (
        ["--game", "pong", "--coord-layers"],
        "coord_layers has no value: give one or more",
    ),
    "coordinate layer": (["--game", "pong", "--coord-layers", "[7]"], "coord_layers"),
    "arm is a path": (["--game", "pong", "--arm", "a/b"], "must be a folder name"),
    "missing file": (["--config", "nope.yaml"], "'nope.yaml' does not exist"),
    "resume nothing": (["--resume", "nowhere"], "'nowhere' is not a run folder"),
    "too large for the emulators": (
        ["--game", "pong", "--max-frames", "1099511627776"],
        "must be below 2**31",
    ),
    "name too long": (["--game", "pong", "--name", "n" * 300], "at most 100 letters"),
    "resume and more": (["--resume", "nowhere", "--seed", "3"], "--resume takes one run folder"),
}


@pytest.mark.parametrize(("args", "says"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_leaves_nothing(args, says, refused):
    assert says in refused("train", *args)


def test_an_option_of_another_algorithm_is_not_passed_over_in_silence(capsys):
    parse_config(["--game", "pong", "--ppo.n_steps", "64", "--a2c.n_steps", "3"])
    assert capsys.readouterr().err == "note: --a2c.n_steps has no effect with --algo ppo\n"


@pytest.mark.parametrize(
    ("words", "layers"), [("0 2", [0, 2]), ("[0,2]", [0, 2]), ("null", None), ("1", [1])]
)
def test_a_list_is_given_as_words_or_as_yaml(words, layers):
    args = ["--game", "pong", "--coord-layers", *words.split(), "--seed", "3"]
    config = parse_config(args)
    assert (config.coord_layers, config.seed) == (layers, 3)


BOMB = "a0: &a0 [1, 2]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 30)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("game: [", "is not YAML"),
        ("- a", "must hold 'option: value' lines"),
        ("game: Pong\nn_envz: 3", "did you mean 'n_envs'?"),
        ("game: Pong\nextractor_kwargs: {1: 2}", "extractor_kwargs names option 1: names must be text"),
        ("game: Pong\nppo: {lrr: 3}", "unknown option 'ppo.lrr'"),
        ("game: Pong\nn_envs: many", "n_envs is many: it must be int"),
        ("n_envs: 3", "game"),
        ("games: [Pong]\ncommon: {ppo: {n_steps: 4}}", "for scripts/compare.py"),
        ("\x00\xff", "is not YAML"),
        ("name: 2024-13-45", "is not YAML"),
        ("a: &a [*a]", "is not YAML"),
        ("a: &a {n_envs: 3}\nppo: {<<: *a}", "'<<' is not read"),
        (BOMB, "more than 100,000 values"),
        ("2024-01-01: 3", "is not YAML"),
        ("game: !!python/object/apply:os.mkdir [pwned]", "is not YAML"),
    ],
)
def test_bad_file_is_named_in_one_line(text, says, script, capsys, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="latin-1")
    assert script("train", "--config", file) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error
    with pytest.raises(UserError, match=r"mine\.yaml"):
        load_config(file)
    assert list(tmp_path.iterdir()) == [file]


def test_output_folder_that_holds_another_run_is_refused(script, capsys, tmp_path):
    config = RunConfig(game="pong", output=str(tmp_path)).validate()
    config.folder.mkdir(parents=True)
    (config.folder / "config.yaml").write_text(config.to_yaml())
    before = sorted(tmp_path.rglob("*"))
    assert script("train", "--game", "pong", "--output", tmp_path) == 2
    assert "holds another run" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@dataclass
class Flags:
    """Flags.

    Args:
        place: Where
        loud: Whether
        deep: Whether, or not said
    """

    place: str
    loud: bool = False
    deep: bool | None = None


@pytest.mark.parametrize(
    ("words", "loud", "deep"),
    [
        ("--loud x", True, None),
        ("--loud False x", False, None),
        ("--loud true --deep x", True, True),
        ("x --deep null", False, None),
        ("--deep false x", False, False),
    ],
)
def test_a_flag_stands_alone_or_takes_a_value_as_people_write_it(words, loud, deep):
    assert parse_dataclass(Flags, words.split(), "flags.py") == Flags("x", loud, deep)


def test_a_full_disk_is_one_line_in_every_script(capsys):
    with pytest.raises(SystemExit) as stop, one_line_errors():
        raise OSError(errno.ENOSPC, "No space left on device", "runs/x")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the disk is full: free some space")
    assert error.count("\n") == 1
    with pytest.raises(FileNotFoundError), one_line_errors():
        raise FileNotFoundError(errno.ENOENT, "a mistake of ours")
