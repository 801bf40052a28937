"""Coverage of the confidence sets for N / G, as a markdown table.

    python benchmarks/coverage.py [--runs 2000] [--seed 0]

Pairs of gradients with isotropic Gaussian noise, whose effective dimension
(Tr Σ)² / Tr Σ² is their dimension, are drawn exactly through sufficient
statistics. A set covers if it contains the true N / G, bounded or not. The
linear scaling rule is judged at the largest κ that the truth does not rule
out, where each verdict's error is largest: "ruled out" is then wrong, and so
is "not ruled out" for any κ just above.
"""

import argparse

import numpy as np

from keras_svag.noise.estimate import NoiseEstimate, PairSums


def draw_pairs(rng, shape, noise_to_signal, dimension):
    """G_hat and N_hat of pairs with G = 1, isotropic noise, b = B.

    With m = (g1 + g2)/2 and d = (g1 - g2)/2, which are independent with
    covariance Σ/2: <g1, g2> = |m|² - |d|² and |g1 - g2|²/2 = 2 |d|².
    """
    half_variance = noise_to_signal / dimension / 2
    along = 1 + np.sqrt(half_variance) * rng.standard_normal(shape)
    mean = along**2 + half_variance * rng.chisquare(dimension - 1, shape)
    difference = half_variance * rng.chisquare(dimension, shape)
    return mean - difference, 2 * difference


def simulate(rng, runs, pairs, noise_to_signal, dimension):
    """Confidence sets of many runs, shape (runs, 2)."""
    g, n = draw_pairs(rng, (runs, pairs), noise_to_signal, dimension)
    return np.array(
        [
            NoiseEstimate.from_sums(**PairSums.of(*run).to_dict()).interval()
            for run in zip(g, n, strict=True)
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
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
                    rng, options.runs, pairs, ratio, dimension
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
