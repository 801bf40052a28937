"""Errors of a mean from the spread between blocks of a run.

Observations along a run are correlated and come in bursts: errors that take
them as independent and light-tailed are too small. The sums of long blocks
are neither as correlated nor as skewed (batch means).
"""

import numpy as np

MOST_BLOCKS = 64
_LEAST_BLOCKS = 10  # which merging leaves

# Chosen by benchmarks/block_coverage.py: each side errs in 4% or less.
_SKEWNESS_WEIGHT = 0.25
_MOST_CORRELATION = 0.6


def between_blocks(blocks):
    """Covariance of the means of (G, N), from the spread between blocks.

    Blocks are made equally long, neighbours merged to at most `MOST_BLOCKS`;
    then the length is doubled while neighbours are correlated and at least 10
    blocks remain. Where they are too few to go on, the covariance grows by
    (1 + ρ) / (1 - ρ), as for an autoregressive sequence, with ρ the larger
    correlation of neighbours of G and N, corrected for its bias of
    -(1 + 4ρ) / M over M blocks and held between 0 and 0.6 (which it is for two
    blocks).

    Student's degrees of freedom are fewer than blocks - 1 where the blocks are
    skewed: a sample without its rarest bursts has both too low a mean and too
    small an error. With γ the larger skewness of G and N over the M blocks,
    they are `0.25 / (|γ| / sqrt(M) + 1 / M)²`, between 1 and M - 1 (a fit to
    measured coverage, not a theorem).

    Args:
        blocks: Array of shape (M, 3) of (count, sum of G, sum of N), in the
            order of time; every count is positive.

    Returns:
        `(blocks, covariance, degrees_of_freedom)`: the merged blocks; NaN of
        shape (2, 2) and 0 if there is one block only.

    References:
        Bias of the correlation: F. H. C. Marriott, J. A. Pope, Bias in the
        estimation of autocorrelations, Biometrika 41 (1954).
    """
    blocks = np.asarray(blocks, np.float64)
    size = max(blocks[:, 0].max(), blocks[:, 0].sum() / MOST_BLOCKS)
    blocks = _merged(blocks, size)
    # One standard error: to merge in vain costs little.
    while len(blocks) >= 2 * _LEAST_BLOCKS and (
        _neighbours_correlation(blocks) > len(blocks) ** -0.5
    ):
        size *= 2
        blocks = _merged(blocks, size)
    num_blocks = len(blocks)
    if num_blocks < 2:
        return blocks, np.full((2, 2), np.nan), 0.0
    weighted = _deviations(blocks) * (blocks[:, :1] / blocks[:, 0].sum())
    covariance = weighted.T @ weighted * num_blocks / (num_blocks - 1)
    if num_blocks < 2 * _LEAST_BLOCKS:
        covariance *= _growth_by_correlation(blocks)
    return blocks, covariance, _degrees_of_freedom(blocks)


def _merged(blocks, size):
    """Sums of neighbours: blocks of about `size` observations."""
    middles = np.cumsum(blocks[:, 0]) - blocks[:, 0] / 2
    num_blocks = max(1, round(blocks[:, 0].sum() / size))
    # What is left over at the end is no block of its own.
    of_each = np.minimum(middles // size, num_blocks - 1).astype(int)
    merged = np.zeros((num_blocks, 3))
    np.add.at(merged, of_each, blocks)
    return merged[merged[:, 0] > 0]


def _deviations(blocks):
    """The blocks' means of (G, N), less the mean of all."""
    totals = blocks.sum(0)
    return blocks[:, 1:] / blocks[:, :1] - totals[1:] / totals[0]


def _neighbours_correlation(blocks):
    """The larger one of G's and N's."""
    deviations = _deviations(blocks)
    products = np.sum(deviations[1:] * deviations[:-1], 0)
    squares = np.sum(deviations**2, 0)
    return np.max(products / np.where(squares > 0, squares, 1))


def _growth_by_correlation(blocks):
    num_blocks = len(blocks)
    correlation = _MOST_CORRELATION  # as two blocks do not tell
    if num_blocks > 2:
        found = num_blocks * _neighbours_correlation(blocks) + 1
        found /= max(num_blocks - 4, 1)
        correlation = min(max(found, 0.0), _MOST_CORRELATION)
    return (1 + correlation) / (1 - correlation)


def _degrees_of_freedom(blocks):
    num_blocks, deviations = len(blocks), _deviations(blocks)
    scale = np.sqrt(np.mean(deviations**2, 0))
    cubes = np.mean((deviations / np.where(scale > 0, scale, 1)) ** 3, 0)
    skewness = np.max(np.abs(cubes)) / np.sqrt(num_blocks)
    freedom = _SKEWNESS_WEIGHT / (skewness + 1 / num_blocks) ** 2
    return float(min(max(freedom, 1.0), num_blocks - 1))
