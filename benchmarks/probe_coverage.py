"""Coverage of the probe's intervals for N / G, as a markdown table.

    PYTHONPATH=. python benchmarks/probe_coverage.py [--runs 2000] [--rtol 0.1]

Gradients of K independent batches are drawn with known G = 1 and N, and go
through the estimator of `keras_svag.probe.moments`. A set covers if it
contains the true N / G, bounded or not. With `--rtol` each run stops as soon
as the relative standard error is at most that, at 20 batches at the earliest.

Noise: isotropic Gaussian in 30 and in 1,000 dimensions; Gaussian with a
spectrum that falls as 1 / i; skewed (exponential); and Gaussian of a random
size per batch (a log-normal factor of 0.3), which has heavy tails.
"""

import argparse

import numpy as np

from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.probe.moments import (
    probe_degrees_of_freedom,
    sequential_moments,
)
from tests.probe.moments_test import products

NOISES = (
    ("isotropic", 30),
    ("isotropic", 1000),
    ("falling spectrum", 1000),
    ("skewed", 100),
    ("random size", 300),
)


def draw_gradients(rng, noise, dimension, noise_to_signal, count):
    """Gradients of shape (count, dimension) with |mean|² = 1."""
    mean, scales = np.ones(dimension), np.ones(dimension)
    if noise == "falling spectrum":
        scales = np.arange(1, dimension + 1) ** -0.5
        mean = scales * rng.standard_normal(dimension)
    mean /= np.linalg.norm(mean)
    scales *= np.sqrt(noise_to_signal / np.sum(scales**2))
    if noise == "skewed":
        draws = rng.exponential(1, (count, dimension)) - 1
    else:
        draws = rng.standard_normal((count, dimension))
    if noise == "random size":
        draws *= np.exp(rng.normal(0, 0.3, (count, 1)) - 0.3**2)
    return mean + scales * draws


def estimate(kept):
    means, covariance, parts = sequential_moments(*kept)
    count = kept.shape[1] + 1
    return NoiseEstimate(
        *means,
        *np.sqrt(np.diag(covariance)),
        covariance[0, 1],
        count=count,
        batch_size=1,
        degrees_of_freedom=probe_degrees_of_freedom(count),
        probe=tuple(parts),
    )


def stopped(kept, rtol):
    """The estimate at which a probe with `rtol` stops."""
    for count in range(20, kept.shape[1] + 1):
        result = estimate(kept[:, : count - 1])
        if result.noise_to_signal_se / result.noise_to_signal <= rtol:
            return result
    return estimate(kept)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rtol", type=float)
    options = parser.parse_args()
    print(
        "| noise | dimension | batches | N/G | covered | all below "
        "| all above | unbounded | median width / (N/G) | batches used |"
    )
    print("|---|" + "---:|" * 9)
    for noise, dimension in NOISES:
        for count in (20, 50, 200):
            for ratio in (1, 10, 100):
                rng = np.random.default_rng([options.seed, count, ratio])
                runs = []
                for _ in range(options.runs):
                    kept = np.stack(
                        products(
                            draw_gradients(rng, noise, dimension, ratio, count)
                        )
                    )
                    result = (
                        estimate(kept)
                        if options.rtol is None
                        else stopped(kept, options.rtol)
                    )
                    runs.append((*result.interval(), result.count))
                low, high, used = np.transpose(runs)
                below, above = np.mean(high < ratio), np.mean(low > ratio)
                print(
                    f"| {noise} | {dimension:,} | {count} | {ratio} "
                    f"| {1 - below - above:.1%} | {below:.1%} | {above:.1%} "
                    f"| {np.mean(np.isinf(high)):.1%} "
                    f"| {np.median(high - low) / ratio:.2f} "
                    f"| {used.mean():.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
