"""Not-so-Clevr: the paper's counts, drawn pixel by pixel, and splits that share nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rl_coordconv.errors import UserError
from rl_coordconv.tasks.toy.not_so_clevr import NotSoClevr


def test_the_paper_has_3136_squares_with_centres_from_4_to_59():
    centres = NotSoClevr().centres
    assert centres.shape == (3136, 2)
    assert len({tuple(centre) for centre in centres.tolist()}) == 3136
    assert (centres.min(), centres.max()) == (4, 59)


@pytest.mark.parametrize(("canvas", "square"), [(64, 9), (32, 9), (16, 5), (17, 3)])
def test_maps_are_what_slicing_paints(canvas, square):
    data = NotSoClevr(canvas, square)
    centres = data.centres[:: max(1, len(data.centres) // 50)]
    margin = square // 2
    for (x, y), one_hot, painted in zip(
        centres.tolist(), data.one_hot(centres), data.squares(centres), strict=True
    ):
        expected = np.zeros((1, canvas, canvas), np.float32)
        expected[0, y - margin : y + margin + 1, x - margin : x + margin + 1] = 1
        np.testing.assert_array_equal(painted.numpy(), expected)
        assert expected.sum() == square**2
        assert one_hot.sum() == one_hot[0, y, x] == 1
    assert torch.equal(data.one_hot(centres).flatten(1).argmax(1), data.index(centres))


@pytest.mark.parametrize("name", ["uniform", "quadrant"])
@pytest.mark.parametrize("canvas", [64, 32])
def test_splits_share_nothing_and_leave_nothing_out(name, canvas):
    data = NotSoClevr(canvas)
    train, test = ({tuple(c) for c in part.tolist()} for part in data.split(name, seed=1))
    assert not train & test
    assert train | test == {tuple(c) for c in data.centres.tolist()}


def test_quadrant_holds_out_one_quarter_of_the_canvas():
    train, test = NotSoClevr().split("quadrant", seed=1)
    assert len(test) == 784
    assert bool((test >= 32).all())
    assert not bool((train >= 32).all(dim=1).any())


def test_uniform_split_holds_out_a_fifth_by_the_seed():
    data = NotSoClevr()
    (_, first), (_, again), (_, other) = (data.split("uniform", seed) for seed in (1, 1, 2))
    assert len(first) == 627
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_unit_coordinates_are_those_of_coordconv():
    data = NotSoClevr(64)
    corners = torch.tensor([[0, 63], [63, 0]])
    assert data.to_unit(corners).tolist() == [[-1, 1], [1, -1]]
    assert torch.allclose(data.to_pixels(data.to_unit(data.centres)), data.centres.float(), atol=1e-4)


@pytest.mark.parametrize(
    ("canvas", "square", "says"),
    [(8, 9, "square 9 is larger than canvas 8"), (64, 8, "odd"), (64, 0, "odd"), (12, 9, "16 or more")],
)
def test_squares_that_do_not_fit_are_refused(canvas, square, says):
    with pytest.raises(UserError, match=says):
        NotSoClevr(canvas, square)
