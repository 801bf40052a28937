import functools
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from experiments.datasets import permutation
from experiments.datasets.permutation import permuted

DRAWS = 5000
# Sizes of the network: with rows and columns that divide them or do not, odd
# and even, few and many elements.
SIZES = (37, 64, 1601)


@pytest.fixture
def network(monkeypatch):
    monkeypatch.setattr(permutation, "_MOST_RANKED", 0)


@functools.cache
def _images(size, stream=0, draws=DRAWS):
    """Images of some positions by many seeds, shape (draws, positions)."""
    # Neighbours, in a row and in a column of the rectangle, and far apart.
    _, width = permutation._rectangle(size)
    positions = (0, 1, 2, width, 2 * width, width + 1, size // 2, size - 1)
    positions = tf.constant(positions, tf.int64)
    images = tf.data.Dataset.range(draws).map(
        lambda index: permuted(positions, size, tf.stack([stream, index]))
    )
    return next(iter(images.batch(draws))).numpy()


def _p_value(samples, size, expected=None):
    counts = np.bincount(samples, minlength=size)
    if expected is not None:
        assert not counts[expected == 0].any()
        counts = counts[expected > 0]
        expected = expected[expected > 0]
        expected = expected / expected.sum() * counts.sum()
    return stats.chisquare(counts, expected).pvalue


def _is_likely(p_values):
    # Bonferroni, at the level of 3.3 standard errors.
    return min(p_values) > 1e-3 / len(p_values)


@pytest.mark.parametrize(
    "size", [1, 2, 3, 5, 37, 64, 1000, 1024, 1025, 1437, 4099]
)
def test_every_seed_gives_a_permutation(size):
    for seed in ((0, 0), (-1, 2**40)):
        images = permuted(tf.range(size, dtype=tf.int64), size, seed)
        assert images.dtype == tf.int64
        np.testing.assert_array_equal(np.sort(images), np.arange(size))


def _image_by_hand(position, size, seed):
    # The meaning of a seed.
    keys = tf.random.stateless_uniform(
        (36,), seed, minval=None, maxval=None, dtype=tf.uint64
    )
    keys = keys.numpy().tolist()
    root = math.ceil(math.sqrt(size))
    # The first of the heights that leave the fewest cells.
    _, height = min((-size % h, h) for h in range(root, 1 + root * 5 // 4))
    width = math.ceil(size / height)
    while True:
        pair, sides = divmod(position, width), (height, width)
        for a, b, c in zip(keys[0::3], keys[1::3], keys[2::3], strict=True):
            mixed = (a * pair[1] + b) % 2**64
            mixed = (mixed ^ (mixed >> 32)) * c % 2**64
            pair = pair[1], (pair[0] + (mixed >> 33)) % sides[0]
            sides = sides[::-1]
        position = width * pair[0] + pair[1]
        if position < size:
            return position


@pytest.mark.parametrize("size", [1123, 1437, 10**7])
def test_the_network_is_what_it_is_by_hand(size):
    positions = range(0, size, size // 500)
    images = permuted(tf.constant(positions, tf.int64), size, (3, 4))
    expected = [
        _image_by_hand(position, size, (3, 4)) for position in positions
    ]
    np.testing.assert_array_equal(images, expected)


def test_all_permutations_of_few_elements_are_equally_likely():
    images = tf.data.Dataset.range(DRAWS).map(
        lambda index: permuted(
            tf.range(5, dtype=tf.int64), 5, tf.stack([0, index])
        )
    )
    images = next(iter(images.batch(DRAWS))).numpy()
    names = images @ 5 ** np.arange(5)
    _, counts = np.unique(names, return_counts=True)
    assert len(counts) == math.factorial(5)
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("size", SIZES)
def test_differences_are_uniform(size, network):
    distinct = np.ones(size)
    distinct[0] = 0
    pairs = itertools.combinations(_images(size).T, 2)
    assert _is_likely(
        [_p_value((x - y) % size, size, distinct) for x, y in pairs]
    )
