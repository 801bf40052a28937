"""The pair estimator against exact enumeration on a linear regression."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_svag.noise.pairs import common_rows, pair_moments, squared_norm
from keras_svag.noise.sampling import sampling_correction

NUM_EXAMPLES, SUB_BATCH = 6, 2


def example_gradients(num_examples=NUM_EXAMPLES, seed=0):
    """Gradients (n, 3) of (x·w - y)²/2 at a fixed w, one row an example."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_examples, 3))
    y = rng.normal(size=num_examples)
    return (x @ np.array([0.4, -0.2, 0.7]) - y)[:, None] * x


def exact_moments(gradients, batch_size):
    """G, and N at `batch_size` for examples drawn with replacement."""
    mean = gradients.mean(0)
    return mean @ mean, gradients.var(0).sum() / batch_size


def enumerated_pairs(sampling):
    """All equally likely pairs of sub-batches of examples."""
    examples = range(NUM_EXAMPLES)
    if sampling == "with_replacement":
        sub_batches = list(itertools.product(examples, repeat=SUB_BATCH))
    else:
        sub_batches = list(itertools.combinations(examples, SUB_BATCH))
    for first, second in itertools.product(sub_batches, repeat=2):
        if sampling != "shuffle" or not set(first) & set(second):
            yield first, second


def moments_of_pairs(gradients, pairs):
    """Mean of the estimator over the pairs, as `(G, N at the sub-batch)`."""
    first, second = np.swapaxes(np.array(list(pairs)), 0, 1)
    first, second = (
        tf.constant(gradients[rows].mean(1), "float32")
        for rows in (first, second)
    )
    # Two variables, of 1 and 2 components.
    grad_sq_norms, noise_traces = tf.vectorized_map(
        lambda pair: pair_moments(
            [pair[0][:1], pair[0][1:]], [pair[1][:1], pair[1][1:]]
        ),
        (first, second),
    )
    return [
        float(tf.reduce_mean(tf.reduce_sum(tf.cast(m, tf.float64), 1)))
        for m in (grad_sq_norms, noise_traces)
    ]


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize(
    "sampling", ["with_replacement", "without_replacement", "shuffle"]
)
def test_mean_over_all_pairs_is_exact(sampling, scale):
    gradients = example_gradients()
    batch_size = scale * SUB_BATCH  # "independent", and "halves"
    g, n = moments_of_pairs(gradients, enumerated_pairs(sampling))
    n *= SUB_BATCH / batch_size
    correction = sampling_correction(
        sampling, NUM_EXAMPLES, batch_size, SUB_BATCH
    )
    exact = exact_moments(gradients, batch_size)
    np.testing.assert_allclose(correction @ np.array([g, n]), exact, rtol=1e-5)
    uncorrected_is_exact = np.allclose([g, n], exact, rtol=1e-3)
    assert uncorrected_is_exact == (sampling == "with_replacement")


def test_moments_are_per_variable_and_float64():
    first = [tf.constant([1.0, 2.0]), tf.constant([[3.0]], tf.float16), None]
    second = [tf.constant([3.0, -1.0]), tf.constant([[-2.0]], tf.float16), None]
    grad_sq_norm, noise_trace = pair_moments(first, second)
    assert grad_sq_norm.dtype == noise_trace.dtype == tf.float64
    np.testing.assert_allclose(grad_sq_norm, [3 - 2, -6, 0])
    np.testing.assert_allclose(noise_trace, [(4 + 9) / 2, 25 / 2, 0])


def test_float16_gradients_do_not_overflow():
    gradient = [tf.constant([300.0, 300.0], tf.float16)]
    grad_sq_norm, _ = pair_moments(gradient, gradient)
    np.testing.assert_allclose(grad_sq_norm, [2 * 300.0**2])


def test_sparse_gradients_have_the_moments_of_dense_ones():
    rng = np.random.default_rng(0)
    pairs, dense = [], []
    for shape in ((7, 2), (50, 3, 2)):
        pair = []
        for slices in (9, 5):
            # Rows are there several times, in one gradient or in both.
            indices = rng.integers(2, 6, slices)
            values = rng.normal(size=(slices, *shape[1:]))
            pair.append(
                tf.IndexedSlices(
                    tf.constant(values), tf.constant(indices), shape
                )
            )
            dense.append(np.zeros(shape))
            np.add.at(dense[-1], indices, values)
        pairs.append(pair)
    # Both wholly empty, as of a batch of ragged sentences.
    nothing = tf.IndexedSlices(tf.zeros((0, 2)), tf.zeros(0, "int32"), (7, 2))
    pairs.append((nothing, nothing))
    grad_sq_norm, noise_trace = pair_moments(*zip(*pairs, strict=True))
    a, b, c, d = dense
    np.testing.assert_allclose(
        grad_sq_norm, [np.sum(a * b), np.sum(c * d), 0], rtol=1e-5
    )
    np.testing.assert_allclose(
        noise_trace,
        [np.sum((a - b) ** 2) / 2, np.sum((c - d) ** 2) / 2, 0],
        rtol=1e-5,
    )


def test_rows_that_sparse_gradients_share_are_there_once():
    first = tf.IndexedSlices([[1.0], [2.0], [4.0]], [3, 1, 3], (9, 1))
    second = tf.IndexedSlices([[8.0], [16.0]], [5, 1], (9, 1))
    (rows1, rows2), indices = common_rows(first, second)
    np.testing.assert_array_equal(indices, [3, 1, 5, 0, 0])
    np.testing.assert_array_equal(rows1, [[5], [2], [0], [0], [0]])
    np.testing.assert_array_equal(rows2, [[0], [16], [8], [0], [0]])


@pytest.mark.parametrize("scale", [1e-25, 1e20])
def test_squares_neither_overflow_nor_vanish(scale):
    first, second = (
        (scale * np.array(values)).astype("float32")
        for values in ([3.0, -1.0], [2.0, 5.0])
    )
    pairs = [
        (
            tf.constant(gradient),
            None,
            tf.IndexedSlices(
                tf.constant(gradient[None]), tf.constant([4]), (9, 2)
            ),
        )
        for gradient in (first, second)
    ]
    moments = tf.function(lambda: pair_moments(*pairs))()
    expected = np.array([[1.0, 0.0, 1.0], [18.5, 0.0, 18.5]]) * scale**2
    np.testing.assert_allclose(moments, expected, rtol=1e-6)


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="zip"):
        pair_moments([tf.ones(2)], [])


def test_squared_norm_is_the_sum_over_all_variables():
    variables = [tf.constant([1.0, 2.0]), tf.constant([[300.0]], tf.float16)]
    assert float(squared_norm(variables)) == pytest.approx(5 + 9e4)
    assert float(squared_norm([])) == 0
