import math

import numpy as np
import pytest

from keras_svag import scaling
from keras_svag.scaling import EquilibriumStatistics, predict_closeness

C = 2**0.5


def family(step, slopes=(0.1, -0.03, -0.4)):
    """R, G and N of processes whose logarithms are linear in the step."""
    return EquilibriumStatistics(
        *(
            s0 * math.exp(a * step)
            for s0, a in zip((9, 2, 5), slopes, strict=True)
        )
    )


@pytest.mark.parametrize("ells", [(1, 2), (1, 4), (2, 8), (1, 2, 4, 8)])
def test_a_family_that_is_log_linear_is_predicted_exactly(ells):
    prediction = predict_closeness({ell: family(1 / ell) for ell in ells})
    for kappa in (0.25, 1.0, 2.0, 5.0):
        for reference in (0.0, 0.125, 1.0):
            # SGD at κB, κη has the step κ; N is stated at one batch size.
            actual = scaling.c_closeness(family(reference), family(kappa))
            values = prediction.closeness(kappa, reference)
            assert values == pytest.approx((actual.value,) * 3)
    leaves = prediction.max_batch_multiplier(C, reference=0.125)
    assert leaves == pytest.approx((0.125 + math.log(C) / 0.4,) * 3)


def test_several_ell_give_the_line_of_least_squares():
    rng = np.random.default_rng(0)
    ells = np.array([1, 2, 3, 8])
    values = np.exp(rng.normal(size=(4, 3)))
    prediction = predict_closeness(
        {
            ell: EquilibriumStatistics(*row)
            for ell, row in zip(ells, values, strict=True)
        }
    )
    lines = np.polyfit(1 / ells, np.log(values), 1)[0]
    assert list(prediction.slopes.values()) == pytest.approx(list(lines))
    assert prediction.speed[0] == pytest.approx(np.abs(lines).max())


@pytest.mark.parametrize("ell", [2, 4])
def test_the_prediction_is_of_first_order(ell):
    # A quadratic loss a x²/2 with noise: its R is that of the stationary
    # variance at a fixed noise scale, 1 / (2 - h a).
    def run(step, a=1.0):
        return EquilibriumStatistics(1 / (2 - step * a), 1.0, 1.0)

    errors = []
    for rate in (0.2, 0.1, 0.05):
        prediction = predict_closeness({1: run(rate), ell: run(rate / ell)})
        truth = scaling.c_closeness(run(rate), run(3 * rate)).value
        errors.append(math.log(truth) - math.log(prediction.closeness(3.0)[0]))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 2, atol=0.3)


@pytest.mark.parametrize("spreads", [(0.02, 0.02), (0.005, 0.03)])
def test_the_interval_covers_with_three_seeds(spreads):
    rng = np.random.default_rng(1)
    # All three move at the same speed: the hardest for the lower end.
    truth = {ell: family(1 / ell, (0.3, -0.3, 0.3)) for ell in (1, 2)}
    above, below = [], []
    for _ in range(600):
        runs = {}
        for (ell, mean), spread in zip(truth.items(), spreads, strict=True):
            means = [mean.weight_sq_norm, mean.grad_sq_norm, mean.noise_trace]
            seeds = means * np.exp(spread * rng.normal(size=(3, 3)))
            errors = seeds.std(axis=0, ddof=1) / math.sqrt(3)
            runs[ell] = EquilibriumStatistics(*seeds.mean(axis=0), *errors, 3)
        _, low, high = predict_closeness(runs).speed
        above.append(low > 0.3)
        below.append(high < 0.3)
    # 2.5% on each side, and three standard errors of 600 runs.
    most = 0.025 + 3 * math.sqrt(0.025 * 0.975 / 600)
    assert np.mean(above) <= most
    assert np.mean(below) <= most


def test_the_upper_end_is_that_of_one_statistic():
    # Student's t of Welch's 4 degrees of freedom, for equal relative errors.
    runs = {
        ell: EquilibriumStatistics(10.0, 10.0, n, 0.1, 0.1, 0.01 * n, 3)
        for ell, n in ((1, 10.0), (2, 12.0))
    }
    value, low, high = predict_closeness(runs).speed
    error = math.hypot(0.01, 0.01) / 0.5
    assert value == pytest.approx(math.log(1.2) / 0.5)
    assert high == pytest.approx(value + 2.776445 * error)
    # 0.975 to 1 - 0.025 / 3 on the other side.
    assert value - low > 1.3 * (high - value)


def test_without_errors_there_is_no_interval():
    one_seed = EquilibriumStatistics(9.0, 2.0, 5.0, *(math.nan,) * 3, 1)
    prediction = predict_closeness({1: one_seed, 2: family(0.5)})
    value, low, high = prediction.closeness(np.array([1.0, 2.0]))
    np.testing.assert_array_equal(low, [1, 1])
    np.testing.assert_array_equal(high, [1, math.inf])
    assert value[1] > 1


def test_what_does_not_move_never_leaves():
    prediction = predict_closeness({1: family(1.0), 2: family(1.0)})
    assert prediction.max_batch_multiplier(C) == (math.inf,) * 3
