"""The pair estimator against exact enumeration on a linear regression."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.noise.moments import (
    layer_moments,
    pair_moments,
    squared_norm,
)

NUM_EXAMPLES = 5


def example_gradients(seed=0):
    """Gradients (n, 3) of (x·w - y)²/2 at a fixed w, one row an example."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(NUM_EXAMPLES, 3))
    y = rng.normal(size=NUM_EXAMPLES)
    return (x @ np.array([0.4, -0.2, 0.7]) - y)[:, None] * x


def all_pairs(gradients, rows1, rows2, sampling):
    """Mean gradients of all equally likely pairs of batches."""
    draws = itertools.product(range(NUM_EXAMPLES), repeat=rows1 + rows2)
    if sampling == "shuffle":
        draws = itertools.permutations(range(NUM_EXAMPLES), rows1 + rows2)
    picked = gradients[np.array(list(draws))]
    return picked[:, :rows1].mean(1), picked[:, rows1:].mean(1)


@pytest.mark.parametrize("rows", [(2, 2), (1, 3)])
@pytest.mark.parametrize("sampling", ["independent", "shuffle"])
def test_mean_over_all_pairs_is_exact(sampling, rows):
    gradients = example_gradients()
    first, second = all_pairs(gradients, *rows, sampling)
    # Each pair is given as if it were a variable of its own.
    moments = layer_moments(list(first), list(second), *rows).numpy()
    mean = gradients.mean(0)
    exact = mean @ mean, gradients.var(0).sum()
    for how, is_exact in ((sampling, True), (None, sampling != "shuffle")):
        estimate = NoiseEstimate.from_observations(
            *moments.T, sampling=how, num_examples=NUM_EXAMPLES
        )
        means = estimate.grad_sq_norm, estimate.example_noise
        assert np.allclose(means, exact, rtol=1e-5) == is_exact


def test_moments_of_a_pair_are_the_sums_over_its_variables():
    wide = [tf.constant([[x]], tf.float16) for x in (300.0, -200.0)]
    dense = tf.constant([1.0, 2.0]), tf.constant([3.0, -1.0])
    # One that is missing is one of zeros.
    pairs = [dense, wide, (None, None), (dense[1], None), (None, dense[1])]
    expected = [[3 - 2, 13 * 1.5], [-6e4, 25e4 * 1.5], [0, 0], *[[0, 15]] * 2]
    first, second = map(list, zip(*pairs, strict=True))
    for number in (int, float, np.float32, np.int64, tf.constant):
        rows = number(2), number(6)
        shares = layer_moments(first, second, *rows)
        np.testing.assert_allclose(shares, expected)
        moments = pair_moments(first, second, *rows)
        np.testing.assert_allclose(moments, np.sum(expected, 0))
        assert shares.dtype == moments[0].dtype == tf.float32


def sparse_gradient(rng, num_slices, shape, dtype):
    """A gradient with repeated rows, and the same as a NumPy array."""
    indices = rng.integers(2, 6, num_slices)
    values = rng.normal(size=(num_slices, *shape[1:])).astype("float32")
    dense = np.zeros(shape)
    np.add.at(dense, indices, values)
    indices = tf.constant(indices, dtype)
    return tf.IndexedSlices(values, indices, tf.constant(shape)), dense


@pytest.mark.parametrize(
    ("by_xla", "dtype"), [(True, "int32"), (False, "int64")]
)
def test_sparse_gradients_have_the_moments_of_dense_ones(by_xla, dtype):
    rng = np.random.default_rng(0)
    pairs, expected = [], []
    # The last two are empty, as of a batch of ragged sentences.
    for shape, slices in (
        ((7, 2), (9, 5)),
        ((50, 3, 2), (4, 9)),
        ((7, 1), (1, 1)),
        ((7, 2), (0, 3)),
        ((7, 2), (0, 0)),
    ):
        (first, a), (second, b) = (
            sparse_gradient(rng, count, shape, dtype) for count in slices
        )
        pairs.append((first, second))
        expected.append([np.sum(a * b), np.sum((a - b) ** 2) * 15 / 8])
    # One that is missing.
    alone, a = sparse_gradient(rng, 9, (7, 2), dtype)
    pairs += [(alone, None), (None, alone)]
    expected += [[0, np.sum(a**2) * 15 / 8]] * 2
    moments = tf.function(layer_moments, jit_compile=by_xla)
    actual = moments(*map(list, zip(*pairs, strict=True)), 3, 5)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_squared_norm_is_the_sum_over_all_variables():
    variables = [tf.constant([1.0, 2.0]), tf.constant([[300.0]], tf.float16)]
    assert float(squared_norm(variables)) == pytest.approx(5 + 9e4)
    assert float(squared_norm([])) == 0
