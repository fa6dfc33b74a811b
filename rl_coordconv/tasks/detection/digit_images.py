"""
Pictures of single digits: scikit-learn's handwritten digits, which it ships, or MNIST from a local folder.

MNIST's files are in IDX form: two zero bytes, a type byte (8: unsigned bytes), the number of dimensions, each
dimension as a big-endian 32-bit integer, then the values. Files may be gzipped.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rl_coordconv.errors import UserError

MNIST_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
UNSIGNED_BYTES = 8
INK = 0.25


@dataclass(frozen=True)
class Digits:
    """
    Digits cropped to their ink.

    :param crops: ``(digits, side, side) float32`` in [0, 1], stretched to squares
    :param aspects: ``(digits,) float32``: width over height before stretching
    :param labels: ``(digits,) int64``, 0 to 9
    """

    crops: Tensor
    aspects: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def load_digits(folder: Path | None) -> tuple[Digits, Digits]:
    """
    Return the digits for training and those for testing; no picture is in both.

    :param folder: With MNIST's IDX files; None takes scikit-learn's 1,797 digits, every fifth for testing
    :raises UserError: The folder does not hold MNIST's files, or they are damaged
    """
    if folder is not None:
        return read_mnist(folder, "train"), read_mnist(folder, "test")
    from sklearn.datasets import load_digits as sklearn_digits

    bundle = sklearn_digits()
    images, labels = bundle.images.astype(np.float32) / 16, bundle.target
    test = np.arange(len(labels)) % 5 == 4
    return crop_to_ink(images[~test], labels[~test]), crop_to_ink(images[test], labels[test])


def read_mnist(folder: Path, part: str) -> Digits:
    """
    Read the images and labels of ``train`` or ``test``.

    :param folder: Where the files are, plain or with ``.gz``
    :param part: ``train`` or ``test``
    :raises UserError: A file is missing or damaged, or the two do not fit together
    """
    if not folder.is_dir():
        raise UserError(f"digits folder '{folder}' does not exist")
    images, labels = (read_idx(find_file(folder, name)) for name in MNIST_FILES[part])
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or not len(labels):
        raise UserError(
            f"MNIST's {part} files in '{folder}' do not fit together: images of shape {images.shape}, "
            f"labels of shape {labels.shape}"
        )
    if labels.max() > 9:
        raise UserError(
            f"'{folder / MNIST_FILES[part][1]}' holds the label {labels.max()}: digits are 0 to 9"
        )
    return crop_to_ink(images.astype(np.float32) / 255, labels)


def find_file(folder: Path, name: str) -> Path:
    """
    Return the file of this name, plain or gzipped; some archives write ``.idx3`` for ``-idx3``.

    :raises UserError: It is not there
    """
    names = (name, f"{name}.gz", name.replace("-idx", ".idx"))
    for candidate in names:
        if (folder / candidate).is_file():
            return folder / candidate
    raise UserError(
        f"digits folder '{folder}' holds no '{name}' (nor '{name}.gz'): MNIST's four IDX files belong there"
    )


def read_idx(path: Path) -> np.ndarray:
    """
    Read an IDX file of unsigned bytes.

    :param path: Plain, or gzipped with the ending ``.gz``
    :raises UserError: It is not IDX, or truncated
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"'{path}' cannot be read: {error}") from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UNSIGNED_BYTES or not content[3]:
        raise UserError(f"'{path}' is not an IDX file of unsigned bytes")
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise UserError(
            f"'{path}' is truncated: its header alone takes {header} bytes, it has {len(content)}"
        )
    shape = struct.unpack(f">{content[3]}I", content[4:header])
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise UserError(f"'{path}' is damaged: shape {shape} takes {expected} bytes, it has {len(content)}")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def crop_to_ink(images: np.ndarray, labels: np.ndarray) -> Digits:
    """
    Crop pictures to their ink and stretch the crops to squares; empty pictures are left out.

    :param images: ``(digits, height, width) float32`` in [0, 1]
    :param labels: ``(digits,)``
    :raises UserError: All pictures are empty
    """
    crops, aspects, kept = [], [], []
    side = images.shape[1]
    for index, image in enumerate(images):
        rows, columns = ((image > INK).any(axis=axis).nonzero()[0] for axis in (1, 0))
        if not len(rows):
            continue
        crop = torch.from_numpy(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
        aspects.append(crop.shape[1] / crop.shape[0])
        crops.append(
            F.interpolate(crop[None, None], (side, side), mode="bilinear", align_corners=False)[0, 0]
        )
        kept.append(int(labels[index]))
    if not crops:
        raise UserError(f"all {len(images)} digit pictures are empty")
    return Digits(torch.stack(crops), torch.tensor(aspects), torch.tensor(kept))
