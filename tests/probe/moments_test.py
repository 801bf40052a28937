import numpy as np
import pytest

from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.noise.sampling import sampling_correction
from keras_svag.probe.moments import (
    probe_degrees_of_freedom,
    sequential_moments,
)


def products(gradients):
    """What the probe keeps of a sequence of gradients."""
    mean_dots, deviations, alternating_dots = [], [], []
    signs = np.resize([1.0, -1.0], len(gradients))[:, None]
    for i in range(1, len(gradients)):
        g, mean = gradients[i], gradients[:i].mean(0)
        mean_dots.append(g @ mean)
        deviations.append(np.sum((g - mean) ** 2) * i / (i + 1))
        alternating_dots.append(g @ np.sum(signs[:i] * gradients[:i], 0))
    return mean_dots, deviations, alternating_dots


def all_pairs(gradients):
    """G and N from all pairs of gradients, and the sample variance."""
    k = len(gradients)
    gram = gradients @ gradients.T
    g = (gram.sum() - np.trace(gram)) / (k * (k - 1))
    return np.array([g, np.trace(gram) / k - g])


@pytest.mark.parametrize("k", [2, 3, 4, 9])
def test_means_are_those_over_all_pairs(k):
    gradients = np.random.default_rng(k).normal(0.3, 1, (k, 5))
    means, covariance = sequential_moments(*products(gradients))
    np.testing.assert_allclose(means, all_pairs(gradients), rtol=1e-12)
    assert np.isnan(covariance).all() == (k < 4)


def skewed_noise(rng, shape):
    return rng.exponential(1, shape) - 1


def noise_of_random_size(rng, shape):
    size = np.exp(rng.normal(0, 0.3, (*shape[:-1], 1)))
    return size * rng.standard_normal(shape)


def gaussian_noise(rng, shape):
    return rng.standard_normal(shape)


@pytest.mark.parametrize("signal", [0.3, 3.0])
@pytest.mark.parametrize(
    "noise", [gaussian_noise, skewed_noise, noise_of_random_size]
)
def test_covariance_is_that_of_the_estimates(noise, signal):
    rng = np.random.default_rng(0)
    runs, k, dimension = 3000, 40, 20
    scales = np.linspace(0.2, 1, dimension)
    means, covariances = [], []
    for gradients in signal * scales + scales * noise(
        rng, (runs, k, dimension)
    ):
        mean, covariance = sequential_moments(*products_at_once(gradients))
        means.append(mean)
        covariances.append(covariance)
    truth, estimated = np.cov(np.transpose(means)), np.mean(covariances, 0)
    # A sample variance is known to about 4% here; what is clamped at 0 or
    # neglected, of order 1 / k, may add as much again.
    scale = np.sqrt(np.outer(np.diag(truth), np.diag(truth)))
    np.testing.assert_array_less(np.abs(estimated - truth) / scale, 0.15)


def test_variance_of_a_strong_signal_is_unbiased():
    rng = np.random.default_rng(4)
    runs, k, dimension = 4000, 10, 5
    signal = np.full(dimension, 20.0)
    noise = rng.standard_normal((runs, k, dimension))
    estimated = [
        sequential_moments(*products_at_once(gradients))[1][0, 0]
        for gradients in signal + noise
    ]
    truth = 4 * signal @ signal / k
    error = np.std(estimated) / runs**0.5
    assert error < 0.02 * truth
    assert abs(np.mean(estimated) - truth) < 4 * error


def products_at_once(gradients):
    i = np.arange(1.0, len(gradients))[:, None]
    rest, means = gradients[1:], np.cumsum(gradients, 0)[:-1] / i
    signs = np.resize([1.0, -1.0], len(gradients))[:, None]
    alternating = np.cumsum(signs * gradients, 0)[:-1]
    return (
        np.sum(rest * means, 1),
        np.sum((rest - means) ** 2, 1) * i[:, 0] / (i[:, 0] + 1),
        np.sum(rest * alternating, 1),
    )


def test_products_at_once_are_the_products():
    gradients = np.random.default_rng(1).normal(0.3, 1, (9, 5))
    np.testing.assert_allclose(products_at_once(gradients), products(gradients))


@pytest.mark.parametrize("k", [20, 60, 200])
@pytest.mark.parametrize("ratio", [1.0, 10.0, 100.0])
def test_interval_covers(ratio, k):
    rng = np.random.default_rng([k, int(ratio)])
    runs, dimension = 1000, 60
    mean = np.zeros(dimension)
    mean[0] = 1
    covered = 0
    for _ in range(runs):
        noise = rng.normal(0, (ratio / dimension) ** 0.5, (k, dimension))
        means, covariance = sequential_moments(*products_at_once(mean + noise))
        low, high = NoiseEstimate(
            *means,
            *np.sqrt(np.diag(covariance)),
            covariance[0, 1],
            count=k,
            degrees_of_freedom=probe_degrees_of_freedom(k),
        ).interval()
        covered += low <= ratio <= high
    # Where noise dominates, V is near 0 and cannot be told from it: clamped
    # there, it makes intervals of few batches too long.
    highest = 0.995 if ratio * 2 > k else 0.975
    error = (0.95 * 0.05 / runs) ** 0.5
    assert 0.94 - 3 * error <= covered / runs <= highest


@pytest.mark.parametrize(
    "sampling", ["with_replacement", "without_replacement", "shuffle"]
)
def test_estimates_are_unbiased_however_batches_are_drawn(sampling):
    rng = np.random.default_rng(3)
    n, b, k, runs = 12, 3, 4, 20_000
    examples = rng.normal(0.5, 1, (n, 4))
    gradient = examples.mean(0)
    truth = np.array(
        [gradient @ gradient, np.sum((examples - gradient) ** 2) / n / b]
    )
    raw = []
    for _ in range(runs):
        if sampling == "with_replacement":
            rows = rng.integers(n, size=(k, b))
        elif sampling == "shuffle":
            rows = rng.permutation(n).reshape(k, b)
        else:
            rows = [rng.choice(n, b, replace=False) for _ in range(k)]
        raw.append(all_pairs(examples[np.array(rows)].mean(1)))
    matrix = np.array(sampling_correction(sampling, n, b, b))
    corrected = raw @ matrix.T
    error = corrected.std(0) / runs**0.5 + 1e-12
    assert np.all(np.abs(corrected.mean(0) - truth) < 4 * error)
    uncorrected = np.abs(np.mean(raw, 0) - truth) / error
    assert (uncorrected.max() > 8) == (sampling != "with_replacement")
