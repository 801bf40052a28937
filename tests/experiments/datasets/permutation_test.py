import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from experiments.datasets import permutation
from experiments.datasets.permutation import permuted


def images_of(positions, size, draws):
    positions = tf.constant(positions, tf.int64)
    images = tf.data.Dataset.range(draws).map(
        lambda index: permuted(positions, size, tf.stack([0, index])),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return next(iter(images.batch(draws))).numpy()


@pytest.mark.parametrize(
    "size", [1, 2, 3, 5, 37, 64, 1000, 1024, 1025, 1437, 4099]
)
def test_every_seed_gives_a_permutation(size):
    for seed in ((0, 0), (-1, 2**40)):
        images = permuted(tf.range(size, dtype=tf.int64), size, seed)
        assert images.dtype == tf.int64
        np.testing.assert_array_equal(np.sort(images), np.arange(size))


def test_all_permutations_of_few_elements_are_equally_likely():
    names = images_of(range(5), 5, 5000) @ 5 ** np.arange(5)
    _, counts = np.unique(names, return_counts=True)
    assert len(counts) == math.factorial(5)
    assert stats.chisquare(counts).pvalue > 1e-3


# Of 37 elements TensorFlow's own 4 rounds show.
@pytest.mark.parametrize("size, draws", [(37, 40_000), (1601, 5000)])
def test_images_and_their_differences_are_uniform(size, draws, monkeypatch):
    monkeypatch.setattr(permutation, "_MOST_RANKED", 0)
    # Neighbours and far apart.
    positions = (0, 1, math.isqrt(size), size // 2, size - 1)
    images = images_of(positions, size, draws).T
    counts = [np.bincount(image, minlength=size) for image in images]
    for x, y in itertools.combinations(images, 2):
        never, *differences = np.bincount((x - y) % size, minlength=size)
        assert not never
        counts.append(differences)
    # Bonferroni, at the level of 3.3 standard errors.
    p_values = [stats.chisquare(count).pvalue for count in counts]
    assert min(p_values) > 1e-3 / len(p_values)
