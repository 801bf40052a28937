"""Coverage of the confidence sets, simulated.

A set that is too high rules too little out, one that is too low too much: the
rates of both are counted apart. Each bound is what the rule was found to have,
and three standard errors of the simulated rate are added to it.
"""

import numpy as np
import pytest

from keras_svag.noise.estimate import NoiseEstimate

pytestmark = pytest.mark.slow
RUNS = 2000


def sgd_trajectories(
    sampling, runs, num_examples, batch_size, steps, skip, rate=0.02, spread=1.0
):
    """Least squares by SGD in parallel runs, measured in halves of batches.

    Returns the estimates of G and S of shape (runs, steps), and each run's true
    N / G, the ratio of averages along its trajectory.
    """
    rng = np.random.default_rng(3)
    dimension = 10
    x = rng.normal(0, 1, (num_examples, dimension))
    y = x @ rng.normal(0, 1, dimension)
    y += rng.normal(0, spread, num_examples)
    # G and N are quadratic in the weights: small matrices that no BLAS spreads
    # over threads, which is slow on a busy machine.
    row_sq_norms = np.sum(x**2, 1)
    hessian, target = x.T @ x / num_examples, y @ x / num_examples
    weighted = x.T * row_sq_norms / num_examples
    quadratic, linear = weighted @ x, weighted @ y
    constant = np.mean(row_sq_norms * y**2)
    weights = np.zeros((runs, dimension))
    g_hat, s_hat = np.empty((2, runs, steps))
    true_g, true_n = np.empty((2, runs, steps))
    per_epoch = num_examples // batch_size
    for step in range(-skip, steps):
        if sampling == "shuffle":
            position = (step + skip) % per_epoch
            if position == 0:
                order = rng.permuted(
                    np.tile(np.arange(num_examples), (runs, 1)), axis=1
                )
            start = position * batch_size
            rows = order[:, start : start + batch_size]
        else:
            rows = rng.integers(num_examples, size=(runs, batch_size))
        residuals = np.einsum("rbd,rd->rb", x[rows], weights) - y[rows]
        picked = residuals[:, :, None] * x[rows]
        first, second = picked[:, ::2].mean(1), picked[:, 1::2].mean(1)
        if step >= 0:
            true_g[:, step] = np.sum((weights @ hessian - target) ** 2, 1)
            second_moment = (
                np.sum(weights @ quadratic * weights, 1)
                - 2 * weights @ linear
                + constant
            )
            true_n[:, step] = (second_moment - true_g[:, step]) / batch_size
            g_hat[:, step] = np.sum(first * second, 1)
            distance = np.sum((first - second) ** 2, 1)
            s_hat[:, step] = distance * batch_size / 4
        weights -= rate * (first + second) / 2
    return g_hat, s_hat, true_n.sum(1) / true_g.sum(1)


def estimates(g, s, **fields):
    return [
        NoiseEstimate.from_observations(*run, **fields)
        for run in zip(g, s, strict=True)
    ]


def ratio_of_means(runs):
    noise = np.mean([run.noise_trace for run in runs])
    return noise / np.mean([run.grad_sq_norm for run in runs])


def coverage(runs, truth):
    low, high = np.array([run.interval() for run in runs]).T
    return np.mean((low <= truth) & (truth <= high))


def bound(nominal):
    return nominal + 3 * np.sqrt(nominal * (1 - nominal) / RUNS)


def autoregressive(rng, shape, correlation):
    """Standard normal series, correlated along their last axis."""
    z = rng.normal(size=shape)
    for t in range(1, shape[-1]):
        z[..., t] *= (1 - correlation**2) ** 0.5
        z[..., t] += correlation * z[..., t - 1]
    return z


def bursts(rng, shape, correlation=0.6, size=1.5):
    """Log-normal bursts of mean 1: the top 1% carry 15% of the sum."""
    z = autoregressive(rng, shape, correlation)
    return np.exp(size * z - size**2 / 2)


def test_sets_of_a_gradient_in_bursts_rarely_err():
    rng = np.random.default_rng(5)
    signal = bursts(rng, (RUNS, 400))
    other = rng.normal(size=(2, RUNS, 400))
    runs = estimates(
        signal + other[0], 10 + 2 * other[1] + 2 * signal, batch_size=1
    )
    low, high = np.transpose([run.interval() for run in runs])
    assert np.mean(low > 12) <= bound(0.03)
    # Without the skewness, which moves both ends up, almost none is too low.
    assert 0.01 <= np.mean(high < 12) <= bound(0.04)
    assert 0.55 < np.median(low) / 12 and np.median(high) / 12 < 1.6


def test_interval_covers_along_a_real_trajectory():
    g, s, truth = sgd_trajectories("with_replacement", 600, 500, 8, 200, 100)
    runs = estimates(g, s, batch_size=8)
    assert 0.92 <= coverage(runs, truth) <= 0.985


def shuffled_readings(rate, spread):
    g, s, truth = sgd_trajectories(
        "shuffle", 300, 500, 8, steps=620, skip=62, rate=rate, spread=spread
    )
    raw = estimates(g, s, batch_size=8, num_examples=500)
    corrected = estimates(
        g, s, batch_size=8, num_examples=500, sampling="shuffle"
    )
    return raw, corrected, truth


def test_shuffled_batches_at_fixed_weights_need_the_correction():
    raw, corrected, truth = shuffled_readings(rate=0.0, spread=3.0)
    truth = truth[0]
    # The mean of Ĝ is G - S / (n - 1), that of Ŝ is S n / (n - 1).
    expected = truth * 500 / 499 / (1 - truth * 8 / 499)
    assert expected > 1.1 * truth
    # A run of 620 pairs knows G to about 15%, 300 of them to 1%.
    assert abs(ratio_of_means(raw) / expected - 1) < 0.03
    assert abs(ratio_of_means(corrected) / truth - 1) < 0.03
    assert coverage(corrected, truth) >= 0.93
    assert coverage(raw, truth) < coverage(corrected, truth)
    assert all(run.noise_scale_warning for run in raw)
