"""Digits and canvases: what is on them, and what is refused."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from rl_coordconv.errors import UserError
from rl_coordconv.tasks.detection.digit_images import crop_to_ink, load_digits, read_idx
from rl_coordconv.tasks.detection.scattered_digits import HEIGHTS, check_canvas, covered, make_canvases, paint


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A folder in MNIST's form: squares of different brightness."""
    images = np.zeros((20, 28, 28), dtype=np.uint8)
    images[:, 4:24, 9:19] = np.arange(100, 120)[:, None, None]
    labels = (np.arange(20) % 10).astype(np.uint8)
    folder = tmp_path / "mnist"
    folder.mkdir()
    for part, count in (("train", 20), ("t10k", 10)):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images[:count]))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels[:count])))
    return folder


def test_scikit_learns_digits_are_split_without_overlap() -> None:
    train, test = load_digits(None)
    assert (len(train), len(test)) == (1438, 359)
    assert set(train.labels.tolist()) == set(test.labels.tolist()) == set(range(10))
    assert train.crops.max() <= 1


def test_crops_end_where_the_ink_ends() -> None:
    image = np.zeros((1, 8, 8), dtype=np.float32)
    image[0, 2:8, 3:6] = 1
    digits = crop_to_ink(image, np.array([7]))
    assert digits.aspects.tolist() == [0.5]
    assert digits.crops.shape == (1, 8, 8)
    assert (digits.crops == 1).all()


def test_mnist_is_read_from_plain_and_gzipped_files(mnist: Path) -> None:
    train, test = load_digits(mnist)
    assert (len(train), len(test)) == (20, 10)
    assert train.labels.tolist() == [index % 10 for index in range(20)]
    assert train.aspects.tolist() == [0.5] * 20
    assert torch.allclose(train.crops[3], torch.tensor(103 / 255))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"\x89PNG and more", "not an IDX file"),
        (struct.pack(">4BI", 0, 0, 13, 1, 1) + b"1234", "not an IDX file of unsigned bytes"),
        (b"\0\0\x08\x03\0\0", "truncated: its header alone takes 16 bytes, it has 6"),
        (
            idx_bytes(np.zeros((5, 28, 28), dtype=np.uint8))[:-1],
            r"damaged: shape \(5, 28, 28\) takes 3936 bytes",
        ),
        (idx_bytes(np.zeros(5, dtype=np.uint8)) + b"x", "damaged"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_idx(path)


def test_a_truncated_gzip_is_refused(mnist: Path) -> None:
    path = mnist / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte.gz' cannot be read"):
        load_digits(mnist)


def test_a_folder_without_the_files_is_refused(mnist: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_digits(mnist / "nowhere")
    (mnist / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(UserError, match="holds no 't10k-images-idx3-ubyte'"):
        load_digits(mnist)


def test_images_and_labels_that_do_not_fit_together_are_refused(mnist: Path) -> None:
    path = mnist / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.zeros(19, dtype=np.uint8))))
    with pytest.raises(UserError, match=r"do not fit together: images of shape \(20, 28, 28\)"):
        load_digits(mnist)
    path.write_bytes(gzip.compress(idx_bytes(np.full(20, 11, dtype=np.uint8))))
    with pytest.raises(UserError, match="holds the label 11"):
        load_digits(mnist)


def test_boxes_hug_the_ink() -> None:
    full = torch.ones(1, 2, 8, 8)
    boxes = torch.tensor([[[4.0, 10.0, 20.0, 34.0], [40.0, 40.0, 55.0, 62.0]]])
    image = paint(full, boxes, 64)[0, 0]
    expected = torch.zeros(64, 64, dtype=torch.uint8)
    expected[10:34, 4:20] = 255
    expected[40:62, 40:55] = 255
    assert torch.equal(image, expected)


def test_canvases_hold_their_digits_inside_and_hardly_covered() -> None:
    digits, _ = load_digits(None)
    canvases = make_canvases(digits, 300, 64, 5, seed=1)
    assert canvases.images.shape == (300, 1, 64, 64)
    assert canvases.boxes.min() >= 0
    assert canvases.boxes.max() <= 64
    heights = canvases.boxes[..., 3] - canvases.boxes[..., 1]
    assert heights.min() >= HEIGHTS[0] - 1e-3
    assert heights.max() <= HEIGHTS[1] + 1e-3
    pairs = [(first, second) for first in range(5) for second in range(first)]
    overlaps = torch.stack([covered(canvases.boxes[:, [a]], canvases.boxes[:, [b]])[:, 0] for a, b in pairs])
    assert (overlaps.amax(0) > 0.1).float().mean() < 0.03
    # The ink is in the boxes: outside of all of them the canvas is black.
    middles = torch.arange(64) + 0.5
    x = (middles > canvases.boxes[..., 0, None]) & (middles < canvases.boxes[..., 2, None])
    y = (middles > canvases.boxes[..., 1, None]) & (middles < canvases.boxes[..., 3, None])
    inside = (x[:, :, None, :] & y[:, :, :, None]).any(1)
    assert not canvases.images[:, 0][~inside].any()
    assert canvases.images[:, 0][inside].float().mean() > 80


def test_canvases_follow_the_seed() -> None:
    digits, _ = load_digits(None)
    one, same, other = (make_canvases(digits, 10, 64, 5, seed) for seed in (1, 1, 2))
    assert torch.equal(one.images, same.images)
    assert not torch.equal(one.images, other.images)


@pytest.mark.parametrize(
    ("size", "per_canvas", "message"),
    [
        (40, 5, "canvas_size is 40: 5 digits of up to 25 pixels need 63 or more"),
        (65, 5, "canvas_size is 65: it must be a multiple of 4, e.g. 68"),
        (64, 6, "need 69 or more"),
    ],
)
def test_canvases_that_cannot_hold_their_digits_are_refused(size: int, per_canvas: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_canvas(size, per_canvas)


def test_cropped_canvases_leave_as_many_boxes_off_as_the_papers_data() -> None:
    canvases = make_canvases(load_digits(None)[0], 400, 64, 5, 1, "cropped")
    low, high = canvases.boxes[..., :2], canvases.boxes[..., 2:]
    off = ((high <= 0) | (low >= 64)).any(-1)
    within = ((low >= 0) & (high <= 64)).all(-1)
    # 2,000 boxes: a standard error of one percent.
    assert off.float().mean() == pytest.approx(0.30, abs=0.04)
    assert within.float().mean() == pytest.approx(0.19, abs=0.04)
    assert (high - low).min() >= 15 - 1e-3
    assert (high - low).max() <= 25 + 1e-3
    aspect = (high - low)[..., 0] / (high - low)[..., 1]
    assert aspect.max() > 1.4  # wider than any digit


def test_uncropped_canvases_are_drawn_alike_and_cut_nothing_off() -> None:
    canvases = make_canvases(load_digits(None)[0], 400, 64, 5, 1, "uncropped")
    low, high = canvases.boxes[..., :2], canvases.boxes[..., 2:]
    assert low.min() >= 0
    assert high.max() <= 64
    aspect = (high - low)[..., 0] / (high - low)[..., 1]
    assert aspect.max() > 1.4  # wider than any digit


def test_overlapping_ink_is_added_up_on_cropped_canvases() -> None:
    crops, boxes = torch.full((1, 2, 8, 8), 0.4), torch.tensor([[[8.0, 8, 24, 24], [8.0, 8, 24, 24]]])
    assert paint(crops, boxes, 64, add=True)[0, 0, 16, 16] == 204
    assert paint(crops, boxes, 64)[0, 0, 16, 16] == 102
