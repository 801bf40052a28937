import math

import numpy as np
import pytest

from keras_svag import scaling
from keras_svag.scaling.bounds import min_batch_multiplier

C = 2**0.5


def test_max_batch_multiplier_grows_to_its_limit():
    q = np.array([0.0, 0.1, 1, 10, 100, 1e4, 1e8, np.inf])
    bounds = scaling.max_batch_multiplier(q, C, 0.8, 5e-4)
    assert bounds.shape == q.shape
    assert np.all(np.diff(bounds) > 0)
    u, square = 0.8 * 5e-4, C**2
    assert bounds[-1] == pytest.approx((2 * square - 2 + u) / (square * u))
    assert bounds[-1] * u < 2
    assert scaling.max_batch_multiplier(math.inf, C) == math.inf
    assert math.isnan(scaling.max_batch_multiplier(math.nan, C))
    loose = scaling.max_batch_multiplier(q, C, 0.8, 5e-4, form="loose")
    assert np.all(bounds <= loose)


def test_where_the_sde_may_be_close_any_smaller_batch_may_be():
    for rates in ((None, None), (0.3, 0.5)):
        needed = scaling.min_noise_to_signal(C, *rates)
        q = np.array([0.0, 0.999 * needed, 1.001 * needed, math.inf])
        bounds = min_batch_multiplier(q, C, *rates)
        assert np.all(bounds[:2] > 0)
        np.testing.assert_array_equal(bounds[2:], 0)
    assert math.isnan(min_batch_multiplier(math.nan, C))
    # From SVAG's run SGD at B itself may have too little noise.
    assert min_batch_multiplier(0.0, C, ell=1) == pytest.approx(0.5)
    assert min_batch_multiplier(0.0, C, ell=4) == pytest.approx(0.125)


def test_without_decay_the_bounds_have_closed_forms():
    for closeness, least in ((C, 1), (2, 1 / 3)):
        assert scaling.min_noise_to_signal(closeness) == pytest.approx(least)
    q = np.array([0.0, 3.0, math.inf, math.nan])
    least = scaling.min_closeness(q, 4.0)
    np.testing.assert_allclose(least, [2, (7 / 4) ** 0.5, 1, math.nan])


@pytest.mark.parametrize(
    ("process", "ell"), [("sgd", 1), ("NGD", 1), ("svag", 4), ("sde", 10**9)]
)
def test_balance_is_1_where_a_step_keeps_the_norm(process, ell):
    g, n, rate, decay = 2.0, 5.0, 0.5, 0.1
    # |x|² keeps its mean in steps x - η/ell (λ x + g), where g is orthogonal
    # to x, of mean square G + ell N. The SDE is the limit of small steps.
    step = rate / ell
    r = step**2 * (g + ell * n) / (1 - (1 - step * decay) ** 2)
    arguments = g, n, rate, decay, ell if process == "svag" else 1
    balance = scaling.equilibrium_balance(process, r, *arguments)
    assert balance == pytest.approx(1, rel=1e-6)
    balance = scaling.equilibrium_balance(process, 3 * r, *arguments)
    assert balance == pytest.approx(3, rel=1e-6)
    each = scaling.equilibrium_balance(process, 3 * r, [g, g], *arguments[1:])
    assert list(each) == [balance, balance]


SIZES = {"batch_size": 128, "steps": 1000}
SCALED_SIZES = {"batch_size": 512, "steps": 250}
ADAM = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
SCALED_ADAM = {"beta_1": 0.6, "beta_2": 0.996, "epsilon": 5e-8}


@pytest.mark.parametrize(
    ("rule", "given", "scaled", "decay"),
    [
        (scaling.linear_scaling_rule, SIZES, SCALED_SIZES, 0.01),
        (
            scaling.square_root_scaling_rule,
            ADAM | SIZES,
            SCALED_ADAM | SCALED_SIZES,
            0.02,
        ),
        # In the root, and added to the gradient.
        (
            scaling.square_root_scaling_rule,
            {"rho": 0.9, "epsilon": 4e-7, "epsilon_in_root": True},
            {"rho": 0.6, "epsilon": 1e-7},
            0.02,
        ),
        (scaling.square_root_scaling_rule, {"decoupled": False}, {}, 0.01),
    ],
)
def test_rules_scale_what_they_are_given(rule, given, scaled, decay):
    rate = 3.2 if rule is scaling.linear_scaling_rule else 1.6
    expected = {"learning_rate": rate, "weight_decay": decay} | scaled
    found = rule(0.8, 4, weight_decay=0.01, **given)
    assert found == pytest.approx(expected)
