import itertools

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from experiments.datasets.sampling import (
    SAMPLING_MODES,
    stream_seed,
    sub_batch_indices,
)


def _sub_batches(sampling, seed, count, num_examples, size, per_epoch=None):
    """All sub-batches 0 … count - 1, shape (count, size)."""
    indices = tf.data.Dataset.range(count).map(
        lambda j: sub_batch_indices(
            sampling, seed, j, num_examples, size, per_epoch
        )
    )
    return next(iter(indices.batch(count))).numpy()


@pytest.mark.parametrize("sampling", SAMPLING_MODES)
def test_a_sub_batch_is_a_function_of_seed_and_index(sampling):
    graph = _sub_batches(sampling, 3, 7, 37, 4)
    for j in (6, 0, 3):
        eager = sub_batch_indices(sampling, 3, j, 37, 4)
        assert eager.dtype == tf.int64
        np.testing.assert_array_equal(eager, graph[j])


def test_streams_of_different_seed_mode_and_index_do_not_meet():
    seeds = {
        tuple(stream_seed(seed, stream, index).numpy().tolist())
        for seed, stream, index in itertools.product(
            range(-2, 6), (*SAMPLING_MODES, "augmentation"), range(6)
        )
    }
    assert len(seeds) == 8 * 4 * 6


@pytest.mark.parametrize("sampling", SAMPLING_MODES)
@pytest.mark.parametrize("num_examples", [10, 37])
def test_examples_and_their_pairs_are_uniform(sampling, num_examples):
    # One sub-batch an epoch: a permutation's pieces are tested where they
    # are independent.
    draws = _sub_batches(sampling, 5, 8000, num_examples, 4, 1)
    counts = [np.bincount(column, minlength=num_examples) for column in draws.T]
    same = np.eye(num_examples, dtype=bool)
    for first, second in itertools.combinations(draws.T, 2):
        pairs = np.zeros((num_examples, num_examples))
        np.add.at(pairs, (first, second), 1)
        if sampling != "with_replacement":
            assert not pairs[same].any()
            pairs = pairs[~same]
        counts.append(pairs.ravel())
    # Bonferroni over the 10 tests, at the level of 3.3 standard errors.
    p_values = [stats.chisquare(count).pvalue for count in counts]
    assert min(p_values) > 1e-3 / len(p_values)


def test_an_epoch_of_shuffle_holds_no_example_twice():
    epochs = _sub_batches("shuffle", 4, 3 * 9, 37, 4).reshape(3, 36)
    assert all(len(set(epoch)) == 36 for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    # The one example that is dropped changes from epoch to epoch.
    assert len({epoch.sum() for epoch in epochs}) > 1


def test_an_epoch_can_be_cut_to_whole_steps_of_two_sub_batches():
    draws = _sub_batches("shuffle", 4, 2 * 8, 37, 4, per_epoch=8)
    uncut = _sub_batches("shuffle", 4, 2 * 9, 37, 4)
    np.testing.assert_array_equal(draws[:8], uncut[:8])
    np.testing.assert_array_equal(draws[8:], uncut[9:17])


def test_without_replacement_holds_no_example_twice():
    draws = np.sort(_sub_batches("without_replacement", 4, 100, 37, 37))
    np.testing.assert_array_equal(draws, [range(37)] * 100)
