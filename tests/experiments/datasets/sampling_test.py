import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from experiments.datasets import sampling
from experiments.datasets.sampling import (
    SAMPLING_MODES,
    permuted,
    stream_seed,
    sub_batch_indices,
)


def drawn(draw, count):
    """What `draw` makes of 0 … count - 1, in rows."""
    rows = tf.data.Dataset.range(count).map(
        draw, num_parallel_calls=tf.data.AUTOTUNE
    )
    return next(iter(rows.batch(count))).numpy()


def sub_batches(mode, count, num_examples=37, size=4, per_epoch=9):
    def draw(index):
        return sub_batch_indices(mode, 4, index, num_examples, size, per_epoch)

    return drawn(draw, count)


def check_uniform(counts):
    """By Bonferroni, at the level of 3.3 standard errors."""
    p_values = [stats.chisquare(count).pvalue for count in counts]
    assert min(p_values) > 1e-3 / len(p_values)


@pytest.mark.parametrize("mode", SAMPLING_MODES)
def test_a_sub_batch_is_a_function_of_seed_and_index(mode):
    graph = sub_batches(mode, 11)
    for j in (10, 0, 3):
        eager = sub_batch_indices(mode, 4, j, 37, 4, 9)
        assert eager.dtype == tf.int64
        np.testing.assert_array_equal(eager, graph[j])


def test_streams_of_different_seed_mode_and_index_do_not_meet():
    uses = (range(-2, 6), (*SAMPLING_MODES, "augmentation"), range(6))
    seeds = {
        tuple(stream_seed(*use).numpy().tolist())
        for use in itertools.product(*uses)
    }
    assert len(seeds) == 8 * 4 * 6


@pytest.mark.parametrize("mode", SAMPLING_MODES)
@pytest.mark.parametrize("num_examples", [10, 37])
def test_examples_and_their_pairs_are_uniform(mode, num_examples):
    # One sub-batch an epoch: a permutation's pieces are tested where they
    # are independent.
    draws = sub_batches(mode, 8000, num_examples, per_epoch=1)
    counts = [np.bincount(column, minlength=num_examples) for column in draws.T]
    same = np.eye(num_examples, dtype=bool)
    for first, second in itertools.combinations(draws.T, 2):
        pairs = np.zeros((num_examples, num_examples))
        np.add.at(pairs, (first, second), 1)
        if mode != "with_replacement":
            assert not pairs[same].any()
            pairs = pairs[~same]
        counts.append(pairs.ravel())
    check_uniform(counts)


def test_an_epoch_of_shuffle_holds_no_example_twice():
    epochs = sub_batches("shuffle", 3 * 9).reshape(3, 36)
    assert all(len(set(epoch)) == 36 for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    # The one example that is dropped changes from epoch to epoch.
    assert len({epoch.sum() for epoch in epochs}) > 1
    # It can be cut to whole steps of two sub-batches.
    cut = sub_batches("shuffle", 3 * 8, per_epoch=8).reshape(3, 32)
    np.testing.assert_array_equal(cut, epochs[:, :32])


@pytest.mark.parametrize(
    "size", [1, 2, 3, 5, 37, 64, 1000, 1024, 1025, 1437, 4099]
)
def test_every_seed_gives_a_permutation(size):
    for seed in ((0, 0), (-1, 2**40)):
        images = permuted(tf.range(size, dtype=tf.int64), size, seed)
        assert images.dtype == tf.int64
        np.testing.assert_array_equal(np.sort(images), np.arange(size))


def test_all_permutations_of_few_elements_are_equally_likely():
    images = drawn(lambda i: permuted(tf.range(5), 5, tf.stack([0, i])), 5000)
    _, counts = np.unique(images @ 5 ** np.arange(5), return_counts=True)
    assert len(counts) == math.factorial(5)
    check_uniform([counts])


# Of 37 elements TensorFlow's own 4 rounds show.
@pytest.mark.parametrize("size, draws", [(37, 40_000), (1601, 5000)])
def test_images_and_their_differences_are_uniform(size, draws, monkeypatch):
    monkeypatch.setattr(sampling, "_MOST_RANKED", 0)
    # Neighbours and far apart.
    positions = (0, 1, math.isqrt(size), size // 2, size - 1)
    positions = tf.constant(positions, tf.int64)
    images = drawn(lambda i: permuted(positions, size, tf.stack([0, i])), draws)
    counts = [np.bincount(image, minlength=size) for image in images.T]
    for x, y in itertools.combinations(images.T, 2):
        never, *differences = np.bincount((x - y) % size, minlength=size)
        assert not never
        counts.append(differences)
    check_uniform(counts)
