"""Coverage of the confidence sets, simulated.

With 2,000 runs the standard error of a coverage near 95% is 0.49%, so the
bounds of 93.5% and 96.5% are three standard errors away.
"""

import numpy as np
import pytest

from keras_svag.noise.sampling import sampling_correction
from keras_svag.scaling import max_batch_multiplier
from keras_svag.scaling.conditions import RunConditions
from keras_svag.scaling.verdict import scaling_verdict
from tests.helpers.trajectories import (
    coverage,
    estimates,
    pooled,
    sgd_trajectories,
)

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
        scaling_verdict(
            run,
            RunConditions("SGD", learning_rate, weight_decay),
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
