"""Coverage of the confidence sets, simulated.

With 2,000 runs the standard error of a coverage near 95% is 0.49%, so the
bounds of 93.5% and 96.5% are three standard errors away.
"""

import numpy as np
import pytest

from keras_svag.estimate import NoiseEstimate, PairSums, sampling_correction
from keras_svag.linear_scaling import linear_scaling_verdict
from keras_svag.scaling import max_batch_multiplier

RUNS = 2000


def draw_pairs(rng, shape, noise_to_signal, dimension):
    """G_hat and N_hat with G = 1 and isotropic Gaussian noise.

    The half sum and the half difference of a pair are independent, so three
    draws stand for a pair of any dimension.
    """
    variance = noise_to_signal / dimension / 2
    along = 1 + variance**0.5 * rng.standard_normal(shape)
    mean = along**2 + variance * rng.chisquare(dimension - 1, shape)
    difference = variance * rng.chisquare(dimension, shape)
    return mean - difference, 2 * difference


def estimates(g, n, **fields):
    return [
        NoiseEstimate.from_sums(**PairSums.of(*run).to_dict(), **fields)
        for run in zip(g, n, strict=True)
    ]


def test_simulated_pairs_are_pairs_of_gradients():
    rng = np.random.default_rng(0)
    dimension, ratio, count = 30, 10.0, 100_000
    mean = np.zeros(dimension)
    mean[0] = 1
    noise = rng.normal(0, (ratio / dimension) ** 0.5, (2, count, dimension))
    first, second = mean + noise
    direct = np.stack(
        [
            np.sum(first * second, 1),
            np.sum((first - second) ** 2, 1) / 2,
        ]
    )
    short = np.stack(draw_pairs(rng, count, ratio, dimension))
    for moment in (1, 2, 3):
        difference = (direct**moment).mean(1) - (short**moment).mean(1)
        error = ((direct**moment).var(1) + (short**moment).var(1)) / count
        assert np.all(np.abs(difference) < 4 * error**0.5)


@pytest.mark.parametrize("dimension", [30, 1000])
@pytest.mark.parametrize("pairs", [20, 100, 1000])
@pytest.mark.parametrize("ratio", [1, 10, 100])
def test_interval_covers_and_one_sided_verdicts_rarely_err(
    ratio, pairs, dimension
):
    rng = np.random.default_rng([ratio, pairs, dimension])
    runs = estimates(*draw_pairs(rng, (RUNS, pairs), ratio, dimension))
    low, high = np.array([run.interval() for run in runs]).T
    assert 0.935 <= np.mean((low <= ratio) & (ratio <= high)) <= 0.965
    assert np.mean(high < ratio) <= 0.035
    assert np.mean(low > ratio) <= 0.035


def test_verdicts_on_the_boundary_rarely_err():
    rng = np.random.default_rng(1)
    truth, pairs = 10, 100
    learning_rate, weight_decay = 0.8, 5e-4
    boundary = float(
        max_batch_multiplier(truth, 2**0.5, learning_rate, weight_decay)
    )
    above = boundary * (1 + 1e-9)
    verdicts = [
        linear_scaling_verdict(
            run,
            learning_rate,
            weight_decay,
            batch_size=128,
            kappas=(boundary, above),
        ).multiplier_verdicts
        for run in estimates(*draw_pairs(rng, (RUNS, pairs), truth, 30))
    ]
    wrongly_out = np.mean([v[boundary] == "ruled out" for v in verdicts])
    wrongly_in = np.mean([v[above] == "not ruled out" for v in verdicts])
    assert 0.01 < wrongly_out <= 0.035
    assert 0.01 < wrongly_in <= 0.035


def test_delta_method_would_not_cover():
    rng = np.random.default_rng(2)
    runs = estimates(*draw_pairs(rng, (RUNS, 20), 100, 30))
    ratio = np.array([run.noise_to_signal for run in runs])
    error = np.array([run.noise_to_signal_se for run in runs])
    assert np.mean(np.abs(ratio - 100) <= 2.09 * error) < 0.7


def sgd_trajectories(
    sampling, runs, num_examples, batch_size, steps, skip, rate=0.02, spread=1.0
):
    """Least squares by SGD in parallel runs, measured in halves of batches.

    Returns G_hat and N_hat of shape (runs, steps), and each run's true N / G,
    the ratio of averages along its trajectory.
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
    g_hat, n_hat = np.empty((2, runs, steps))
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
            n_hat[:, step] = np.sum((first - second) ** 2, 1) / 4
        weights -= rate * (first + second) / 2
    return g_hat, n_hat, true_n.sum(1) / true_g.sum(1)


def coverage(runs, truth):
    low, high = np.array([run.interval() for run in runs]).T
    return np.mean((low <= truth) & (truth <= high))


def test_interval_covers_along_a_real_trajectory():
    g, n, truth = sgd_trajectories("with_replacement", 600, 500, 8, 200, 100)
    assert 0.92 <= coverage(estimates(g, n), truth) <= 0.97


def shuffled_readings(rate, spread):
    sizes = {"num_examples": 500, "batch_size": 8}
    g, n, truth = sgd_trajectories(
        "shuffle", 300, steps=620, skip=62, rate=rate, spread=spread, **sizes
    )
    raw = estimates(g, n, sampling="shuffle", **sizes)
    matrix = sampling_correction("shuffle", **sizes)
    return raw, [run.corrected(matrix) for run in raw], truth


def pooled(runs):
    noise = np.mean([run.noise_trace for run in runs])
    return noise / np.mean([run.grad_sq_norm for run in runs])


def test_shuffled_batches_at_fixed_weights_need_the_correction():
    raw, corrected, truth = shuffled_readings(rate=0.0, spread=3.0)
    truth = truth[0]
    # E G_hat = G - B N / (n - 1) and E N_hat = N n / (n - 1).
    expected = truth * 500 / 499 / (1 - truth * 8 / 499)
    assert expected > 1.1 * truth
    # A run of 620 pairs knows G to about 15%, 300 of them to 1%.
    assert abs(pooled(raw) / expected - 1) < 0.03
    assert abs(pooled(corrected) / truth - 1) < 0.03
    assert coverage(corrected, truth) >= 0.93
    assert coverage(raw, truth) < coverage(corrected, truth)
    assert all(run.noise_scale_warning for run in raw)


def test_shuffled_run_is_off_by_about_the_fraction_that_the_warning_names():
    # The weights follow the epoch, so neither reading is exact.
    raw, corrected, truth = shuffled_readings(rate=0.25, spread=1.0)
    fraction = truth.mean() * 8 / 500
    assert 0.05 < fraction < 0.2
    for runs in (raw, corrected):
        assert abs(pooled(runs) / truth.mean() - 1) < 1.5 * fraction
        assert np.mean([bool(run.noise_scale_warning) for run in runs]) > 0.95
