"""GradientNoise: sums, corrections for sampling, results, bad input."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag import GradientNoise
from tests.noise.pair_moments_test import exact_moments, example_gradients

NUM_PAIRS = 2000
NUM_EXAMPLES, SUB_BATCH = 64, 8


@tf.function
def update(metric, grad_sq_norm, noise_trace):
    for i in tf.range(tf.shape(grad_sq_norm)[0]):
        metric.update_state(grad_sq_norm[i], noise_trace[i])


def fed(metric, first, second, scale=1.0):
    """The metric after the pairs of gradients (rows of two arrays)."""
    g = np.sum(first * second, 1)
    n = np.sum((first - second) ** 2, 1) / 2 * scale
    update(metric, tf.constant(g, "float32"), tf.constant(n, "float32"))
    return metric, g, n


def drawn_pairs(sampling, gradients, seed=0):
    """Gradients of `NUM_PAIRS` pairs of sub-batches, drawn with NumPy."""
    rng = np.random.default_rng(seed)
    n = len(gradients)
    if sampling == "with_replacement":
        rows = rng.integers(0, n, (2, NUM_PAIRS, SUB_BATCH))
    elif sampling == "without_replacement":
        order = rng.permuted(np.tile(np.arange(n), (2, NUM_PAIRS, 1)), axis=-1)
        rows = order[..., :SUB_BATCH]
    else:
        # One pair of each epoch: pairs of one epoch are not independent.
        order = rng.permuted(np.tile(np.arange(n), (NUM_PAIRS, 1)), axis=-1)
        rows = order[:, : 2 * SUB_BATCH].reshape(NUM_PAIRS, 2, SUB_BATCH)
        rows = rows.swapaxes(0, 1)
    return gradients[rows].mean(2)


@pytest.mark.parametrize("count, length", [(20, 1), (33, 2), (150, 8)])
def test_blocks_are_sums_of_equally_many_updates(count, length):
    g, n = np.random.default_rng(0).normal(size=(2, count))
    g[7] = np.nan  # It takes its place, and is left out.
    metric = GradientNoise()
    update(metric, tf.constant(g), tf.constant(n))
    expected = [
        (part.shape[1], *part.sum(1))
        for start in range(0, count, length)
        if (
            part := np.array([g, n])[
                :,
                [i for i in range(start, min(start + length, count)) if i != 7],
            ]
        ).size
    ]
    blocks = metric.estimate().blocks
    np.testing.assert_allclose(blocks, expected, rtol=1e-12)
    metric.reset_state()
    assert metric.estimate().blocks == ()


def test_sums_are_those_of_numpy():
    rng = np.random.default_rng(0)
    g, n = rng.normal(size=(2, 50)) + [[0.3], [4]]
    metric = GradientNoise(batch_size=16)
    update(metric, tf.constant(g), tf.constant(n))
    estimate = metric.estimate()
    assert estimate.count == 50
    assert estimate.grad_sq_norm == pytest.approx(g.mean(), rel=1e-12)
    assert estimate.noise_trace == pytest.approx(n.mean(), rel=1e-12)
    covariance = np.cov(g, n, ddof=1) / 50
    errors = estimate.grad_sq_norm_se, estimate.noise_trace_se
    np.testing.assert_allclose(errors, np.sqrt(np.diag(covariance)), rtol=1e-9)
    assert estimate.covariance == pytest.approx(covariance[0, 1], rel=1e-9)
    result = {k: float(v) for k, v in metric.result().items()}
    assert result == pytest.approx(
        {
            "grad_sq_norm": g.mean(),
            "noise_trace": n.mean(),
            "noise_to_signal": n.mean() / g.mean(),
            "noise_scale": 16 * n.mean() / g.mean(),
        }
    )


def test_variance_survives_a_mean_that_dwarfs_it():
    rng = np.random.default_rng(0)
    g = 1e4 + rng.normal(size=400)
    metric = GradientNoise()
    update(metric, tf.constant(g), tf.constant(g))
    expected = g.std(ddof=1) / 20
    assert metric.estimate().grad_sq_norm_se == pytest.approx(expected, 1e-4)


def test_without_a_batch_size_there_is_no_noise_scale():
    metric = GradientNoise()
    metric.update_state(1.0, 2.0)
    assert set(metric.result()) == {
        "grad_sq_norm",
        "noise_trace",
        "noise_to_signal",
    }


def test_reset_forgets_everything():
    metric = GradientNoise(layers=["a"])
    metric.update_state([1.0], [np.nan])
    metric.update_state([1.0], [2.0])
    metric.reset_state()
    metric.update_state([3.0], [4.0])
    estimate = metric.estimate()
    assert (estimate.count, estimate.num_skipped) == (1, 0)
    assert estimate.grad_sq_norm == 3
    assert estimate.per_layer["a"].noise_trace == 4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_steps_that_are_not_finite_are_skipped_and_counted(bad):
    metric = GradientNoise(layers=["a", "b"])
    metric.update_state([1.0, 2.0], [3.0, 4.0])
    metric.update_state([bad, 2.0], [3.0, 4.0])
    metric.update_state([1.0, 2.0], [3.0, bad])
    metric.update_state([3.0, 4.0], [5.0, 6.0])
    estimate = metric.estimate()
    assert (estimate.count, estimate.num_skipped) == (2, 2)
    assert estimate.grad_sq_norm == pytest.approx((3 + 7) / 2)
    assert estimate.noise_trace == pytest.approx((7 + 11) / 2)
    assert estimate.per_layer["b"].grad_sq_norm == pytest.approx(3)


@pytest.mark.parametrize(
    "sampling", ["with_replacement", "without_replacement", "shuffle"]
)
def test_mean_over_sampled_pairs_is_within_three_standard_errors(sampling):
    gradients = example_gradients(NUM_EXAMPLES)
    gradients -= 0.9 * gradients.mean(0)  # near an optimum noise dominates
    exact = np.array(exact_moments(gradients, SUB_BATCH))
    pairs = drawn_pairs(sampling, gradients)
    metric, g, n = fed(
        GradientNoise(SUB_BATCH, NUM_EXAMPLES, sampling=sampling), *pairs
    )
    estimate = metric.estimate()
    ours = np.array([estimate.grad_sq_norm, estimate.noise_trace])
    errors = np.array([estimate.grad_sq_norm_se, estimate.noise_trace_se])
    assert np.all(np.abs(ours - exact) < 3 * errors)
    # The logs are corrected as the estimate is.
    logs = metric.result()
    np.testing.assert_allclose(
        [logs["grad_sq_norm"], logs["noise_trace"]], ours, rtol=1e-5
    )
    # Without the correction, the biased modes fail.
    raw = np.array([g.mean(), n.mean()])
    raw_errors = np.array([g.std(), n.std()]) / NUM_PAIRS**0.5
    deviations = np.abs(raw - exact) / raw_errors
    if sampling == "with_replacement":
        assert deviations.max() < 3
    elif sampling == "without_replacement":
        assert deviations[1] > 4
    else:
        assert deviations[0] > 4


def test_noise_that_dominates_is_not_read_as_less():
    # N/G = 100 at effective dimension (Tr Σ)²/Tr Σ² = 200: clamping each
    # step's G at 0 would read about 30.
    rng = np.random.default_rng(0)
    dimension, count = 200, 60_000
    mean = np.zeros(dimension)
    mean[0] = 1.0
    std = np.sqrt(100 / dimension)
    metric = GradientNoise(batch_size=32)
    clamped, total_noise = 0.0, 0.0
    for _ in range(count // 5000):
        pair = mean + std * rng.normal(size=(2, 5000, dimension))
        _, g, n = fed(metric, *pair)
        clamped += np.maximum(g, 0).sum()
        total_noise += n.sum()
    estimate = metric.estimate()
    assert 25 < total_noise / clamped < 35
    assert abs(estimate.grad_sq_norm - 1) < 3 * estimate.grad_sq_norm_se
    assert abs(estimate.noise_trace - 100) < 3 * estimate.noise_trace_se
    assert abs(estimate.noise_to_signal - 100) < 3 * estimate.noise_to_signal_se
    assert estimate.noise_to_signal_se < 5
    assert float(metric.result()["noise_scale"]) == pytest.approx(
        32 * estimate.noise_to_signal, rel=1e-5
    )


def test_layers_add_up_to_the_total():
    rng = np.random.default_rng(0)
    g, n = rng.normal(size=(2, 20, 3))
    metric = GradientNoise(8, 100, layers=["a", "b", "c"])
    update(metric, tf.constant(g), tf.constant(n))
    estimate = metric.estimate()
    assert list(estimate.per_layer) == ["a", "b", "c"]
    layers = estimate.per_layer.values()
    assert sum(e.grad_sq_norm for e in layers) == pytest.approx(
        estimate.grad_sq_norm, rel=1e-9
    )
    assert sum(e.noise_trace for e in layers) == pytest.approx(
        estimate.noise_trace, rel=1e-9
    )
    third = estimate.per_layer["c"]
    assert third.noise_trace == pytest.approx(n[:, 2].mean() * 99 / 100)
    assert third.grad_sq_norm == pytest.approx(
        g[:, 2].mean() + 8 / 100 * n[:, 2].mean()
    )


def test_config_round_trip():
    metric = GradientNoise(
        16,
        1000,
        name="noise",
        sampling="without_replacement",
        sub_batch_size=8,
        layers=["a", "b"],
    )
    copy = keras.metrics.deserialize(keras.metrics.serialize(metric))
    assert isinstance(copy, GradientNoise)
    assert copy.get_config() == metric.get_config()
    assert copy.layers == ("a", "b")
    for noise in (metric, copy):
        noise.update_state([1.0, 2.0], [3.0, 4.0])
        noise.update_state([2.0, 2.0], [3.0, 5.0])
    assert copy.estimate() == metric.estimate()
