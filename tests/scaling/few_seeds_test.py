"""How often the intervals over three seeds err, simulated.

A rate is held against its nominal value and three of its standard errors.
"""

import math

import numpy as np
import pytest

from keras_svag.scaling.closeness import EquilibriumStatistics, c_closeness
from keras_svag.scaling.prediction import predict_closeness

pytestmark = pytest.mark.slow
DRAWS, SEEDS = 4000, 3


def bound(nominal):
    return nominal + 3 * math.sqrt(nominal * (1 - nominal) / DRAWS)


def drawn(rng, truth, spread):
    """`EquilibriumStatistics` of three seeds around true R, G and N."""
    samples = truth * (1 + spread * rng.normal(size=(SEEDS, 3)))
    errors = samples.std(axis=0, ddof=1) / math.sqrt(SEEDS)
    return EquilibriumStatistics(*samples.mean(axis=0), *errors, count=SEEDS)


@pytest.mark.parametrize("spreads", [(0.02, 0.02), (0.1, 0.1), (0.3, 0.02)])
def test_intervals_of_the_ratios_of_two_runs_rarely_err(spreads):
    rng = np.random.default_rng(0)
    near, far = np.array([1.0, 2.0, 8.0]), np.array([1.1, 1.8, 11.2])
    ratios, closeness = [], []
    for _ in range(DRAWS):
        found = c_closeness(*map(drawn, (rng, rng), (near, far), spreads))
        ratios.append([ends[1:] for ends in found.ratios.values()])
        closeness.append((found.low, found.high))
    low, high = np.moveaxis(ratios, -1, 0)
    wrong = (low > far / near) | (high < far / near)
    # So that all three hold together; with three seeds an interval is wide.
    assert wrong.mean() <= bound(0.05 / 3)
    assert wrong.mean() > 0.0005
    low, high = np.transpose(closeness)
    assert np.mean((low > 1.4) | (high < 1.4)) <= bound(0.05)


@pytest.mark.parametrize("spread", [0.01, 0.05])
def test_intervals_of_the_prediction_rarely_err(spread):
    rng = np.random.default_rng(1)
    # To first order in the step: what moves most is N.
    rises = np.array([0.02, -0.1, 0.25])
    true = max((1 + 4 * rises) / (1 + rises))
    ends = []
    for _ in range(DRAWS):
        runs = {
            ell: drawn(
                rng, np.array([1.0, 2.0, 8.0]) * (1 + rises / ell), spread
            )
            for ell in (1, 2)
        }
        ends.append(predict_closeness(runs).closeness(4.0))
    _, low, high = np.transpose(ends)
    assert np.mean(low > true) <= bound(0.025)
    assert np.mean(high < true) <= bound(0.025)
    assert np.median(low) > 1 or spread > 0.01
