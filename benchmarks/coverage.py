"""Coverage of the confidence sets for N / G, as a markdown table.

    PYTHONPATH=. python benchmarks/coverage.py [--runs 2000] [--preconditioned]

Pairs of gradients with isotropic Gaussian noise, whose effective dimension
(Tr Σ)² / Tr Σ² is their dimension, are drawn exactly through sufficient
statistics. A set covers if it contains the true N / G, bounded or not. The
linear scaling rule is judged at the largest κ that the truth does not rule
out, where each verdict's error is largest: "ruled out" is then wrong, and so
is "not ruled out" for any κ just above.

With `--preconditioned` the gradients are of a problem whose coordinates differ
in mean and noise, each scaled by 1/√v with v at its mean m² + s, as Adam does:
the sets are those for q_P = N_P / G_P.
"""

import argparse

import numpy as np
from scipy import optimize

from keras_svag.noise.estimate import NoiseEstimate


def draw_pairs(rng, shape, noise_to_signal, dimension):
    """Observations with G = 1 and isotropic Gaussian noise.

    The half sum and the half difference of a pair are independent, so three
    draws stand for a pair of any dimension.
    """
    variance = noise_to_signal / dimension / 2
    along = 1 + variance**0.5 * rng.standard_normal(shape)
    mean = along**2 + variance * rng.chisquare(dimension - 1, shape)
    difference = variance * rng.chisquare(dimension, shape)
    return mean - difference, 2 * difference


def draw_preconditioned_pairs(rng, shape, noise_to_signal, dimension):
    """G_hat and N_hat of pairs that are scaled, with N_P / G_P as given.

    The noise-to-signal ratios of the coordinates span three decades.
    """
    spread = np.logspace(-1.5, 1.5, dimension)

    def ratio_at(size):
        # Scaled by 1/(m² + s), signal and noise of a coordinate add up to 1.
        shares = 1 / (1 + size * spread)
        return (1 - shares).sum() / shares.sum()

    size = optimize.brentq(
        lambda size: ratio_at(size) - noise_to_signal, 1e-6, 1e6
    )
    signal = np.sqrt(1 / (1 + size * spread))
    noise = np.sqrt(1 - signal**2)
    g, n = np.zeros(shape), np.zeros(shape)
    for mean, deviation in zip(signal, noise, strict=True):
        first, second = mean + deviation * rng.standard_normal((2, *shape))
        g += first * second
        n += (first - second) ** 2 / 2
    return g, n


def simulate(rng, runs, pairs, noise_to_signal, dimension, draw=draw_pairs):
    """Confidence sets of many runs, shape (runs, 2)."""
    g, n = draw(rng, (runs, pairs), noise_to_signal, dimension)
    return np.array(
        [
            NoiseEstimate.from_observations(*run, batch_size=1).interval()
            for run in zip(g, n, strict=True)
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preconditioned", action="store_true")
    options = parser.parse_args()
    draw = draw_preconditioned_pairs if options.preconditioned else draw_pairs
    rng = np.random.default_rng(options.seed)
    print(
        "| N/G | pairs | dimension | covered | wrongly ruled out "
        "| wrongly not ruled out | unbounded | median width / (N/G) |"
    )
    print("|---:" * 8 + "|")
    for ratio in (1, 10, 100):
        for pairs in (20, 100, 1000):
            for dimension in (30, 1000):
                low, high = simulate(
                    rng, options.runs, pairs, ratio, dimension, draw
                ).T
                covered = np.mean((low <= ratio) & (ratio <= high))
                print(
                    f"| {ratio} | {pairs:,} | {dimension:,} | {covered:.1%} "
                    f"| {np.mean(high < ratio):.1%} "
                    f"| {np.mean(low > ratio):.1%} "
                    f"| {np.mean(np.isinf(high)):.1%} "
                    f"| {np.median(high - low) / ratio:.2f} |"
                )


if __name__ == "__main__":
    main()
