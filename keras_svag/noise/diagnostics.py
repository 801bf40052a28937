"""How much a series of observations tells: numbers beside an interval."""

import math

import numpy as np

from keras_svag.noise.ratio import covariance_of_mean, differences


def effective_sample_size(observations):
    """How many independent observations would have the error of these.

    For (G, S), an array of shape (T, 2) in the order of time, it is the
    variance of D = S - q G at the point estimate over the long-run variance of
    its mean, see `covariance_of_mean`: below T where neighbours are alike,
    above T where they alternate. It is itself known to a third, from 16
    cosines. It is None where D does not vary, for fewer than 2 observations,
    or for such that are too large to be summed.
    """
    if len(observations) < 2:
        return None
    d = differences(observations.mean(axis=0), observations)
    variance = float(covariance_of_mean(d[:, None])[0][0, 0])
    size = float(d.var(ddof=1)) / variance if variance > 0 else math.inf
    return size if 0 < size < math.inf else None


def largest_share(observations):
    """Share of the largest 1% of the observations, one at least, in their sum.

    Sizes are summed, so that it is at most 1 where G changes its sign. Of
    Gaussian noise around 0 it is 0.04; near 1 a mean rests on a few bursts,
    and no interval knows the bursts that were not seen.

    Returns:
        `(share in G, share in S)`; None for fewer than 2 observations, or
        where all of a kind are 0.
    """
    sizes = np.abs(observations)
    if len(sizes) < 2 or not np.all(sizes.any(axis=0)):
        return None
    sizes = np.sort(sizes / sizes.max(axis=0), axis=0)
    largest = sizes[-math.ceil(len(sizes) / 100) :]
    shares = largest.sum(axis=0) / sizes.sum(axis=0)
    return float(shares[0]), float(shares[1])
