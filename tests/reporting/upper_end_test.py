"""The observations that a report asks for give N/G an upper end, simulated."""

import math

import numpy as np
import pytest

from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.reporting.report import _times_to_tell_apart


def estimate(rng, count, noise=60.0, dimension=300):
    """That of pairs with isotropic Gaussian noise, G = 1 and N = 60."""
    spread = math.sqrt(noise / dimension)
    along = 1 + spread * rng.normal(size=(2, count))
    across = spread**2 * rng.normal(0, (dimension - 1) ** 0.5, count)
    g = along[0] * along[1] + across
    n = np.sum((along - 1) ** 2, axis=0) / 2
    n += spread**2 * rng.chisquare(2 * (dimension - 1), count) / 2
    return NoiseEstimate.from_observations(g, n, batch_size=1)


@pytest.mark.slow
def test_so_many_observations_as_are_named_likely_give_an_upper_end():
    rng, ends, short = np.random.default_rng(0), [], []
    while len(ends) < 150:
        first = estimate(rng, count=50)
        times = _times_to_tell_apart(first, 0.95)
        if not math.isinf(first.interval()[1]) or times > 50:
            continue
        for found, part in ((ends, 1.0), (short, 0.25)):
            more = estimate(rng, math.ceil(50 * part * times))
            found.append(math.isfinite(more.interval()[1]))
    # Four of five is what is aimed at.
    assert np.mean(ends) > 0.7
    assert np.mean(short) < 0.7
