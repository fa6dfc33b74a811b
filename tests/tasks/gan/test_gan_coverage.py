"""Mode coverage on images whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rl_coordconv.tasks.gan.coverage import (
    Found,
    coverage,
    difference_histogram,
    energy_distance,
    entropy,
    find_objects,
    histogram,
    walk_scores,
)
from rl_coordconv.tasks.gan.sort_of_clevr import Scenes, half_size, make_scenes, render


def scenes_at(red: tuple[float, float], blue: tuple[float, float], count: int = 1, size: int = 64) -> Scenes:
    centres = torch.tensor([[red, blue]]).repeat(count, 1, 1)
    return Scenes(centres, torch.tensor([[True, False]]).repeat(count, 1), size)


@pytest.mark.parametrize("size", [32, 64])
def test_data_keep_the_papers_rules(size: int) -> None:
    scenes = make_scenes(3000, size, seed=1)
    half = half_size(size)
    assert half == 10 * size / 64
    assert scenes.centres.min() >= half
    assert scenes.centres.max() < size - half
    assert (scenes.centres[:, 0] - scenes.centres[:, 1]).norm(dim=-1).min() >= 2 * half
    assert 0.45 < scenes.circles.float().mean() < 0.55
    again, other = make_scenes(3000, size, seed=1), make_scenes(3000, size, seed=2)
    assert torch.equal(scenes.centres, again.centres)
    assert not torch.equal(scenes.centres, other.centres)


def test_a_rendered_scene_has_its_colours_shapes_and_places() -> None:
    image = render(scenes_at((12, 30), (50, 20)))[0]
    assert image[:, 30, 12].tolist() == [1, -1, -1]
    assert image[:, 20, 50].tolist() == [-1, -1, 1]
    assert image[:, 60, 60].tolist() == [1, 1, 1]
    assert image[:, 30 - 9, 12 - 9].tolist() == [1, 1, 1]  # outside of the circle
    assert image[:, 20 - 9, 50 - 9].tolist() == [-1, -1, 1]  # a corner of the square
    assert int((image[0] < 0).sum()) == 20 * 20
    assert int((image[2] < 0).sum()) == pytest.approx(np.pi * 10**2, rel=0.03)


@pytest.mark.parametrize("size", [32, 64])
def test_centres_are_recovered_to_a_fraction_of_a_pixel(size: int) -> None:
    scenes = make_scenes(500, size, seed=3)
    found = find_objects(render(scenes))
    assert found.well_formed.all()
    # Two squares 20 pixels apart on the diagonal overlap at their corners, which moves the red one's centre.
    errors = np.linalg.norm(found.centres - scenes.centres.numpy(), axis=-1)
    assert np.median(errors) < 0.4
    assert errors.max() < 1.5


def test_only_images_with_one_object_of_each_colour_are_well_formed() -> None:
    good = render(scenes_at((14, 14), (48, 48)))[0]
    no_blue = good.clone()
    no_blue[0][no_blue[0] < 0] = 1.0  # blue turns magenta
    two_red = good.clone()
    two_red[1:] = torch.minimum(good[1:], render(scenes_at((48, 14), (48, 48)))[0, 1:])
    specks = good.clone()
    specks[1:, 60:62, 2:4] = -1
    merged = good.clone()
    merged[1:, 10:18, 10:60] = -1  # one red blob of more than twice a circle's area
    merged[1:, 4:30, 4:40] = -1
    found = find_objects(torch.stack([good, no_blue, two_red, specks, merged, torch.ones_like(good)]))
    assert found.counts.tolist() == [[1, 1], [1, 0], [2, 1], [1, 1], [2, 1], [0, 0]]
    assert found.well_formed.tolist() == [True, False, False, True, False, False]
    assert np.isnan(found.centres[2, 0]).all()
    assert np.allclose(found.centres[1, 0], [14, 14], atol=0.3)


def test_data_cover_themselves() -> None:
    here, there = (find_objects(render(make_scenes(2000, 32, seed))) for seed in (0, 1))
    numbers = coverage(here, there, 32)
    assert numbers["well_formed"] == 1
    assert numbers["cells_visited"] == 1
    assert numbers["entropy_ratio"] == pytest.approx(1, abs=0.01)
    assert numbers["difference_entropy_ratio"] == pytest.approx(1, abs=0.02)
    # 2000 samples in 64 cells: each cell's count has a standard deviation of about 1/sqrt(31) of itself.
    assert numbers["total_variation"] == pytest.approx(0.1, abs=0.04)
    assert numbers["joint_distance"] == pytest.approx(0, abs=0.05)


def test_a_collapsed_generator_covers_one_cell() -> None:
    data = find_objects(render(make_scenes(2000, 64, 0)))
    collapsed = find_objects(render(scenes_at((13, 13), (50, 50), count=50)))
    numbers = coverage(collapsed, data, 64)
    assert numbers["well_formed"] == 1
    assert numbers["entropy_ratio"] == 0
    assert numbers["cells_visited"] == pytest.approx(1 / 64)
    assert numbers["total_variation"] == pytest.approx(1 - 1 / 64, abs=0.01)
    assert numbers["joint_distance"] is not None
    assert numbers["joint_distance"] > 10


def test_white_images_cover_nothing() -> None:
    data = find_objects(render(make_scenes(100, 32, 0)))
    numbers = coverage(find_objects(torch.ones(100, 3, 32, 32)), data, 32)
    assert numbers == {
        "well_formed": 0,
        "entropy_ratio": 0,
        "difference_entropy_ratio": None,
        "cells_visited": 0,
        "total_variation": 1,
        "joint_distance": None,
    }


def test_half_of_the_places_have_log_2_less_entropy() -> None:
    centres = make_scenes(40_000, 64, 5).centres[:, 0].numpy().astype(float)
    everywhere, left = histogram(centres, 64), histogram(centres[centres[:, 0] < 32], 64)
    assert entropy(everywhere) - entropy(left) == pytest.approx(np.log(2), abs=0.01)
    assert left[:, :4].all()
    assert not left[:, 4:].any()


def test_energy_distance_of_shifted_points_grows_with_the_shift() -> None:
    rng = np.random.default_rng(0)
    points, others = rng.normal(size=(1000, 2)), rng.normal(size=(1000, 2))
    assert energy_distance(points, others) == pytest.approx(0, abs=0.02)
    # Far apart, E|X - Y| is the shift and the two own terms are each sqrt(pi) for a 2-D normal.
    assert energy_distance(points, others + np.array([100, 0])) == pytest.approx(
        200 - 2 * np.sqrt(np.pi), abs=0.5
    )


def test_objects_that_move_together_cover_the_canvas_but_not_the_differences() -> None:
    data = make_scenes(2000, 64, 0).centres.double().numpy()
    together = np.concatenate([data[:, 0], data[:, 0] + [20, 0]], axis=1)
    assert entropy(histogram(together[:, :2], 64)) > 4
    assert entropy(difference_histogram(together, 64)) == 0
    assert entropy(difference_histogram(data.reshape(-1, 4), 64)) > 3


def test_walks_that_move_have_small_jumps_and_walks_that_fade_have_large_ones() -> None:
    x = np.linspace(14, 50, 10)
    moving, fading = np.full((10, 2, 2), 30.0), np.full((10, 2, 2), 30.0)
    moving[:, 0, 0] = x
    fading[:, 0, 0] = np.where(np.arange(10) < 5, 14, 50)
    gone = np.full((10, 2, 2), np.nan)
    counts = np.repeat([[1, 1], [1, 1], [0, 0]], 10, axis=0)
    scores = walk_scores(Found(counts, np.concatenate([moving, fading, gone])), 10)
    assert scores["walk_well_formed"] == pytest.approx(2 / 3)
    assert scores["walk_largest_jump"] == pytest.approx((4 + 36) / 2)
    assert walk_scores(Found(counts[20:], gone), 10)["walk_largest_jump"] is None
