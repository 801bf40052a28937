import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from experiments.datasets.augmentation import augment, draw_crops


def _crop_and_flip(images, top, left, mirrored, pad):
    """The same, one image at a time in NumPy."""
    _, height, width, _ = images.shape
    padded = np.pad(images, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    result = []
    for image, y, x, mirror in zip(padded, top, left, mirrored, strict=True):
        image = image[y : y + height, x : x + width]
        result.append(np.flip(image, axis=1) if mirror else image)
    return np.stack(result)


@pytest.mark.parametrize(
    "shape, dtype, pad, flip",
    [
        ((50, 12, 9, 3), "uint8", 4, True),
        ((50, 12, 9, 3), "float32", 1, True),
        ((20, 8, 8, 1), "uint8", 4, False),
    ],
)
def test_augment_is_numpys_crop_and_flip(shape, dtype, pad, flip):
    images = np.random.default_rng(0).integers(1, 256, shape).astype(dtype)
    seed = tf.constant([3, 4])
    draws = draw_crops(seed, shape[0], pad, flip)
    expected = _crop_and_flip(images, *[d.numpy() for d in draws], pad)
    augmented = augment(images, seed, pad, flip)
    assert augmented.dtype == dtype
    np.testing.assert_array_equal(augmented, expected)


def test_offsets_and_flips_are_uniform_and_independent():
    count, pad = 100_000, 4
    top, left, mirrored = draw_crops(tf.constant([1, 2]), count, pad, True)
    cells = np.zeros((2 * pad + 1, 2 * pad + 1, 2))
    np.add.at(
        cells, (top.numpy(), left.numpy(), mirrored.numpy().astype(int)), 1
    )
    # 3.3 standard errors.
    assert stats.chisquare(cells.ravel()).pvalue > 1e-3
