import numpy as np
import pytest

from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.probe.moments import sequential_moments
from tests.helpers.small_problems import over_all_pairs


def products(gradients):
    i = np.arange(1.0, len(gradients))[:, None]
    rest, means = gradients[1:], np.cumsum(gradients, 0)[:-1] / i
    signs = np.resize([1.0, -1.0], len(gradients))[:, None]
    alternating = np.cumsum(signs * gradients, 0)[:-1]
    return (
        np.sum(rest * means, 1),
        np.sum((rest - means) ** 2, 1) * i[:, 0] / (i[:, 0] + 1),
        np.sum(rest * alternating, 1),
    )


@pytest.mark.parametrize("k", [2, 3, 4, 9])
def test_means_are_those_over_all_pairs(k):
    gradients = np.random.default_rng(k).normal(0.3, 1, (k, 5))
    means, covariance, parts = sequential_moments(*products(gradients))
    np.testing.assert_allclose(means, over_all_pairs(gradients), rtol=1e-12)
    assert np.isnan(covariance).all() == np.isnan(parts).all() == (k < 4)


def gaussian_noise(rng, shape):
    return rng.standard_normal(shape)


def skewed_noise(rng, shape):
    return rng.exponential(1, shape) - 1


def noise_of_random_size(rng, shape):
    # With a second moment of 1.
    size = np.exp(rng.normal(0, 0.3, (*shape[:-1], 1)) - 0.3**2)
    return size * rng.standard_normal(shape)


@pytest.mark.parametrize(
    ("noise", "signal"),
    [(gaussian_noise, 3.0), (skewed_noise, 0.3), (noise_of_random_size, 3.0)],
)
def test_covariance_and_its_parts_are_those_of_the_estimates(noise, signal):
    rng = np.random.default_rng(0)
    runs, k, dimension = 3000, 40, 20
    scales = np.linspace(0.2, 1, dimension)
    gradients = signal * scales + scales * noise(rng, (runs, k, dimension))
    means, covariances, parts = zip(
        *(sequential_moments(*products(run)) for run in gradients),
        strict=True,
    )
    truth, estimated = np.cov(np.transpose(means)), np.mean(covariances, 0)
    # A sample variance is known to about 4% here; what is clamped at 0 or
    # neglected, of order 1 / k, may add as much again.
    scale = np.sqrt(np.outer(np.diag(truth), np.diag(truth)))
    np.testing.assert_array_less(np.abs(estimated - truth) / scale, 0.15)
    # Of Σ = diag(scales²) and ∇L = signal scales. The smaller one of the two
    # is not told apart from 0, and biased because it is clamped there.
    v, t = signal**2 * np.sum(scales**4), np.sum(scales**4)
    larger = int(t > v)
    np.testing.assert_allclose(
        np.mean(parts, 0)[larger], (v, t)[larger], rtol=0.06
    )


@pytest.mark.slow
@pytest.mark.parametrize(("ratio", "k"), [(1.0, 60), (10.0, 20), (100.0, 60)])
def test_interval_covers(ratio, k):
    rng, runs, dimension = np.random.default_rng(k), 1000, 60
    noise = rng.standard_normal((runs, k, dimension)) * (ratio / 60) ** 0.5
    ends = []
    for gradients in np.eye(dimension)[0] + noise:
        means, covariance, parts = sequential_moments(*products(gradients))
        errors = np.sqrt(np.diag(covariance))
        estimate = NoiseEstimate(
            *(*means, *errors, covariance[0, 1], k),
            batch_size=1,
            degrees_of_freedom=k // 3,
            probe=parts,
        )
        ends.append(estimate.interval())
    low, high = np.transpose(ends)
    error = (0.025 * 0.975 / runs) ** 0.5
    assert max(np.mean(high < ratio), np.mean(low > ratio)) < 0.025 + 3 * error
