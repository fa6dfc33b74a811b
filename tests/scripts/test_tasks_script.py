"""scripts/tasks.py from the command line: results on disk, bad input, going on where it stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

Script = Callable[..., int]
Curves = Callable[[Path], dict[str, list[tuple[int, float]]]]

GAN = (
    "--image-size 16 --width 4 --latent 8 --images 64 --batch-size 8 "
    "--steps 4 --eval-every 2 --eval-images 64"
)
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]
DETECT = "--train-canvases 8 --test-canvases 4 --width 4 --epochs 1 --batch-size 4"


@pytest.mark.parametrize("device", DEVICES)
def test_gan_leaves_results_figure_and_tensorboard(
    script: Script, curves: Curves, tmp_path: Path, device: str
) -> None:
    options = [*GAN.split(), "--seeds", "1", "2", "--paper-generator", "--device", device]
    assert script("tasks", "gan", *options) == 0
    folder = tmp_path / "runs" / "gan"
    results = json.loads((folder / "results.json").read_text())
    assert set(results["runs"]) == {"plain", "coordconv", "coordconv-1x1"}
    assert set(results["runs"]["plain"]) == {"1", "2"}
    assert results["options"]["image_size"] == 16
    assert results["data"]["well_formed"] == 1
    assert results["summary"]["coordconv"]["total_variation"]["gain"] is not None
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    scalars = curves(folder / "coordconv" / "seed2")
    assert [step for step, _ in scalars["coverage/well_formed"]] == [2, 4]
    assert (folder / "walk_coordconv.gif").read_bytes().startswith(b"GIF8")
    # Started again, everything is there: same numbers, no second training.
    before = (folder / "plain" / "seed1" / "result.json").stat().st_mtime_ns
    assert script("tasks", "gan", *options) == 0
    assert (folder / "plain" / "seed1" / "result.json").stat().st_mtime_ns == before
    assert json.loads((folder / "results.json").read_text())["runs"] == results["runs"]


@pytest.mark.parametrize("device", DEVICES)
def test_detection_leaves_results_figure_and_tensorboard(
    script: Script, curves: Curves, tmp_path: Path, device: str
) -> None:
    assert script("tasks", "detect", *DETECT.split(), "--seeds", "1", "--device", device) == 0
    folder = tmp_path / "runs" / "detection"
    results = json.loads((folder / "results.json").read_text())
    assert set(results["runs"]) == {"plain", "coordconv"}
    assert 0 <= results["runs"]["coordconv"]["1"]["proposal_iou"] <= 1
    assert results["digits"] == {"train": 1438, "test": 359}
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "test/map" in curves(folder / "plain" / "seed1")
    (tmp_path / "kept.json").write_bytes((folder / "results.json").read_bytes())
    assert script("tasks", "redraw", "kept.json") == 0
    assert (tmp_path / "kept.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["gam"],
            "unknown task 'gam': use one of toy, gan, locate, point, detect, redraw (did you mean 'gan'?)",
        ),
        (["gan", "--seeds"], "seeds has no value: give one or more"),
        (["gan", "--steps", "0"], "steps is 0: it must be more than 0"),
        (["gan", "--image-size", "40"], "image_size is 40: it must be one of 16, 32, 64, 128"),
        (["gan", "--batch-size", "1"], "batch_size is 1"),
        (["gan", "--init", "hee"], "unknown init 'hee'"),
        (["gan", "--stop-at", "2"], "stop_at is 2.0: it must be above 0 and at most 1"),
        (["redraw"], "redraw needs files"),
        (["redraw", "nowhere.json"], "'nowhere.json' is no file"),
        (["redraw", __file__], "is not the results.json of an experiment"),
        (["detect", "--scenes", "croped"], "did you mean 'cropped'?"),
        (["detect", "--scenes", "cropped"], "it needs --detector released"),
        (["detect", "--labels", "boxes"], "unknown labels 'boxes'"),
        (["gan", "--eval-images", "10"], "eval_images is 10: it must be 64 or more"),
        (["gan", "--lr-generator", "0"], "lr_generator is 0.0: it must be more than 0"),
        (["gan", "--stepps", "5"], "unknown option 'stepps' (did you mean 'steps'?)"),
        (["gan", "--steps", "many"], "steps is many: it must be int"),
        (["gan", "--device", "gpu"], "unknown device 'gpu'"),
        (["gan", "--name", "a/b"], "name 'a/b' must be a folder name"),
        (["gan", "--name", ".."], "name '..' must be a folder name"),
        (["detect", "--seeds", "-1"], "seeds are [-1]: they must be different, from 0 to 2147483647"),
        (["detect", "--digits", "nowhere"], "digits folder 'nowhere' does not exist"),
        (["detect", "--canvas-size", "40"], "canvas_size is 40: 5 digits of up to 25 pixels need 63"),
        (["detect", "--per-canvas", "11", "--canvas-size", "128"], "per_canvas is 11: the detector finds 10"),
        (["detect", "--lr", "1"], "lr is 1.0: it must be below 1"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    args: list[str], message: str, refused: Callable[..., str]
) -> None:
    assert message in refused("tasks", *args)


def test_folders_of_others_are_refused(
    script: Script, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "runs" / "gan").mkdir(parents=True)
    (tmp_path / "runs" / "gan" / "thesis.txt").write_text("mine")
    assert script("tasks", "gan") == 2
    assert "is not empty: choose another --name" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert script("tasks", "gan", "--output", "file") == 2
    assert "cannot be made" in capsys.readouterr().err


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    script: Script, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.startswith(("rl_coordconv.tasks", "pycocotools"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    assert script("tasks", "detect") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: pycocotools")
    assert "pip install 'rl-coordconv[tasks]'" in error
    assert not list(tmp_path.iterdir())
