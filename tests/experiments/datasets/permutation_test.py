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
    # The meaning of a seed: whoever changes it raises the version of the
    # streams in experiments/datasets/pipeline.py.
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
def test_images_are_uniform(size, network):
    assert _is_likely([_p_value(x, size) for x in _images(size).T])


@pytest.mark.parametrize("size", SIZES)
def test_differences_are_uniform(size, network):
    distinct = np.ones(size)
    distinct[0] = 0
    pairs = itertools.combinations(_images(size).T, 2)
    assert _is_likely(
        [_p_value((x - y) % size, size, distinct) for x, y in pairs]
    )


@pytest.mark.parametrize("size", [37, 1601])
def test_consecutive_epochs_and_seeds_are_independent(size, network):
    epochs = _images(size)
    seeds = _images(size, stream=1)
    p_values = []
    for one, other in (
        (epochs[:-1], epochs[1:]),
        (epochs, seeds),
        (epochs[1:], seeds[:-1]),
    ):
        for x, y in itertools.product(one.T, other.T):
            p_values.append(_p_value((x - y) % size, size))
    assert _is_likely(p_values)


def test_whole_permutations_are_uncorrelated(network):
    size = 1601
    order = tf.range(size, dtype=tf.int64)
    images = [permuted(order, size, (0, epoch)).numpy() for epoch in range(40)]
    inputs = [np.arange(size), *images]
    # Of independent permutations: variance 1 / (n - 1).
    correlations = [
        np.corrcoef(x, y)[0, 1] for x, y in itertools.combinations(inputs, 2)
    ]
    # And of neighbours within one: mean -1 / (n - 1).
    neighbours = [np.corrcoef(x[1:], x[:-1])[0, 1] for x in images]
    for values in (correlations, neighbours):
        scores = np.array(values) * math.sqrt(size - 1)
        assert stats.kstest(scores, "norm").pvalue > 1e-3
    fixed = [np.count_nonzero(x == order) for x in images]
    # Fixed points are Poisson of mean 1.
    assert abs(np.mean(fixed) - 1) < 3.3 / math.sqrt(len(fixed))


@pytest.mark.parametrize("size", [10**12, 10**12 + 39])
def test_the_size_costs_nothing(size):
    positions = size // 3 + tf.range(4000, dtype=tf.int64)
    images = permuted(positions, size, (0, 0)).numpy()
    assert len(set(images)) == 4000
    assert images.min() >= 0 and images.max() < size
    assert stats.kstest(images / size, "uniform").pvalue > 1e-3
    # Neighbours are of no one row and of no one column.
    gaps = np.sort(np.diff(np.sort(images)))
    assert stats.kstest(gaps / gaps.mean(), "expon").pvalue > 1e-3
