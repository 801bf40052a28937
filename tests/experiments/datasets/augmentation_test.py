import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from experiments.datasets.augmentation import augment, draw_crops


@pytest.mark.parametrize(
    "shape, dtype, pad, flip",
    [
        ((50, 12, 9, 3), "uint8", 4, True),
        ((50, 12, 9, 3), "float32", 1, True),
        ((20, 8, 8, 1), "uint8", 4, False),
    ],
)
def test_augment_is_numpys_crop_and_flip(shape, dtype, pad, flip):
    count, height, width, _ = shape
    images = np.random.default_rng(0).integers(1, 256, shape).astype(dtype)
    seed = tf.constant([3, 4])
    augmented = augment(images, seed, pad, flip)
    assert augmented.dtype == dtype
    padded = np.pad(images, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    draws = [d.numpy() for d in draw_crops(seed, count, pad, flip)]
    for found, image, y, x, mirror in zip(
        augmented, padded, *draws, strict=True
    ):
        image = image[y : y + height, x : x + width]
        expected = np.flip(image, axis=1) if mirror else image
        np.testing.assert_array_equal(found, expected)


def test_offsets_and_flips_are_uniform_and_independent():
    count, pad = 100_000, 4
    draws = draw_crops(tf.constant([1, 2]), count, pad, True)
    cells = np.zeros((2 * pad + 1, 2 * pad + 1, 2))
    np.add.at(cells, tuple(d.numpy().astype(int) for d in draws), 1)
    # 3.3 standard errors.
    assert stats.chisquare(cells.ravel()).pvalue > 1e-3
