"""How exactly extractors tell where a square is: errors, maps, figure, and what coordinates change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rl_coordconv.tasks.experiment import Run, array_from_json
from rl_coordconv.tasks.locate.experiment import ARMS, block_means, errors_of
from rl_coordconv.tasks.locate.supervised import LocateConfig, make_network
from rl_coordconv.tasks.toy.not_so_clevr import NotSoClevr

SMALL = "--canvas 40 --square 3 --device cpu --updates 2 --batch-size 4 --seeds 1 2"


def test_errors_are_pixels() -> None:
    centres = NotSoClevr(40, 5).centres
    errors = errors_of(lambda part: part + torch.tensor([1.5, -2.0]), centres)
    assert errors.shape == (36 * 36,)
    torch.testing.assert_close(errors, torch.full_like(errors, 2.5))


def test_a_map_has_the_means_of_blocks_where_they_are() -> None:
    data = NotSoClevr(16, 3)  # 14 centres a side: three blocks of 4 and one of 2
    centres = data.centres.numpy()
    blocks = block_means(centres, 100.0 * centres[:, 1] + centres[:, 0], data)
    middles = [2.5, 6.5, 10.5, 13.5]
    np.testing.assert_allclose(blocks, 100 * np.array(middles)[:, None] + middles)


def test_arms_differ_in_coordinates_and_pooling_alone() -> None:
    networks = {}
    for arm in ARMS:
        torch.manual_seed(3)
        networks[arm] = make_network(arm, NotSoClevr(84))
    first = networks["cnn"][0].cnn[0].weight
    for arm, network in networks.items():
        torch.testing.assert_close(network[0].cnn[0].weight, first, rtol=0, atol=0, msg=arm)
    counts = {arm: sum(part.numel() for part in network.parameters()) for arm, network in networks.items()}
    assert counts["cnn"] > 15 * counts["nature-pool"]
    assert counts["pool-literal"] == counts["coordconv-nature-pool"] == counts["nature-pool"] + 2 * 64 * 9


def test_an_experiment_fills_its_folder_takes_more_arms_and_is_drawn_again(
    script: Callable[..., int], tmp_path: Path
) -> None:
    arms = ["cnn", "pool-literal"]
    assert script("tasks", "locate", *SMALL.split(), "--extractors", *arms) == 0
    assert script("tasks", "locate", *SMALL.split(), "--extractors", *arms, "nature-pool") == 0
    folder = tmp_path / "runs/locate/quadrant"
    results = json.loads((folder / "results.json").read_text())
    assert list(results["runs"]) == [*arms, "nature-pool"]
    for by_seed in results["runs"].values():
        for numbers in by_seed.values():
            assert 0 < numbers["train_error"] < 40
            assert 0 < numbers["test_error"] <= numbers["test_worst"] < 80
    assert array_from_json(results["samples"]["cnn"]["2"]["error_map"]).shape == (10, 10)
    assert script("tasks", "redraw", folder / "results.json") == 0
    assert (folder / "results.png").read_bytes() == (folder / "figure.png").read_bytes()


def test_with_one_seed_all_arms_are_shown_the_same_images(make_run: Callable[..., Run], monkeypatch) -> None:
    shown: list[torch.Tensor] = []
    squares = NotSoClevr.squares
    monkeypatch.setattr(
        NotSoClevr, "squares", lambda self, centres: (shown.append(centres), squares(self, centres))[1]
    )
    config = LocateConfig(canvas=40, updates=2, batch_size=8, split="uniform")
    trained = []
    for arm in ("cnn", "coordconv-nature-pool"):
        shown.clear()
        config.train(make_run(arm))
        trained.append([centres.tolist() for centres in shown if len(centres) == 8])
    assert len(trained[0]) == 2
    assert trained[0] == trained[1]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--extractors", "[]"], "extractors is empty: give one or more"),
        (["--extractors", "cnn", "coordcon"], "did you mean 'coordconv'"),
        (["--canvas", "30"], "extractor 'cnn': Calculated padded input size"),
        (["--split", "quadrants"], "did you mean 'quadrant'"),
        (["--square", "4"], "square is 4"),
        (["--updates", "0"], "updates is 0"),
        (["--seeds", "1", "1"], "must be different"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    args: list[str], words: str, refused: Callable[..., str]
) -> None:
    assert words in refused("tasks", "locate", "--device", "cpu", *args)


@pytest.mark.slow
def test_a_pooled_network_finds_a_square_far_better_with_coordinates(make_run: Callable[..., Run]) -> None:
    config = LocateConfig(updates=120, batch_size=16, split="uniform")
    errors = [config.train(make_run(arm)).numbers["test_error"] for arm in ("pool-literal", "nature-pool")]
    seeing, without = map(float, errors)  # type: ignore[arg-type]  # seen: 1.5 and 7.1 pixels
    assert seeing < 0.5 * without
