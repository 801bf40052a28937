"""The bounds against the definition of C-closeness, found by search."""

import itertools
import math

import numpy as np
import pytest

from keras_svag import scaling
from keras_svag.scaling.bounds import min_batch_multiplier

C, RATE = 2**0.5, 0.5
GRID = [
    (ell, q, u, balance)
    for ell in (1, 2, 4, 16)
    for q in (0.05, 0.7, 3.21, 40.0)
    for u in (1e-6, 0.02, 0.6)
    for balance in (0.9, 1.0, 1.1)
]


def reaches_balance(process, closeness, *means):
    """Whether R, G and N within [1/C, C] of these can be at equilibrium.

    The balance is continuous in them, so that it is 1 somewhere if the corners
    are on both sides of 1.
    """
    corners = [
        scaling.equilibrium_balance(process, *np.multiply(means[:3], f), *rates)
        for rates in [means[3:]]
        for f in itertools.product((1 / closeness, closeness), repeat=3)
    ]
    return min(corners) <= 1 <= max(corners)


def is_close(kappa, closeness, ell, q, u, balance):
    """Whether some SGD run at κB, κη is C-close to the measured run.

    The measured run has G = 1, N = q and the R that its balance says.
    """
    process, decay = "svag" if ell > 1 else "sgd", u / RATE
    if kappa * u >= 2:
        return False
    at_1 = scaling.equilibrium_balance(process, 1.0, 1.0, q, RATE, decay, ell)
    scaled = balance / at_1, 1.0, q / kappa, kappa * RATE, decay
    return reaches_balance("sgd", closeness, *scaled)


@pytest.mark.parametrize("closeness", [1.2, C, 3.0])
def test_what_is_ruled_out_has_no_close_run(closeness):
    factors = np.array([0.5, 0.8, 0.95, 1 - 1e-6, 1 + 1e-6, 1.05, 1.25, 2])
    small = 0
    for case in GRID:
        ell, q, u, balance = case
        smallest, largest = (
            bound(q, closeness, RATE, u / RATE, ell=ell, balance=balance)
            for bound in (min_batch_multiplier, scaling.max_batch_multiplier)
        )
        kappas = [*(factors * largest), 1e-6, 0.01, 0.3]
        if smallest > 0:
            kappas += list(factors * smallest)
            small += 1
        for kappa in kappas:
            expected = smallest <= kappa <= largest
            assert is_close(kappa, closeness, *case) == expected, (kappa, case)
    assert 10 < small < len(GRID)


@pytest.mark.parametrize("kappa", [0.05, 0.5, 1.0, 3.7, 20.0])
def test_the_least_closeness_is_the_first_that_some_run_has(kappa):
    for ell, q, u, balance in GRID:
        least = scaling.min_closeness(
            q, kappa, RATE, u / RATE, ell=ell, balance=balance
        )
        assert math.isinf(least) == (kappa * u >= 2)
        if math.isinf(least):
            continue
        assert is_close(kappa, least * (1 + 1e-9), ell, q, u, balance)
        if least > 1 + 1e-6:
            below = least * (1 - 1e-7)
            assert not is_close(kappa, below, ell, q, u, balance)


def test_what_svag_needs_to_be_close_to_its_sde():
    rates = 1.0, 0.3

    def is_close_to_sde(q, closeness, ell):
        at_1 = scaling.equilibrium_balance("svag", 1.0, 1.0, q, *rates, ell)
        return reaches_balance("sde", closeness, 1 / at_1, 1.0, q, *rates)

    for closeness, ell in itertools.product((1.1, C, 3.0), (1, 2, 8)):
        least = scaling.min_noise_to_signal(closeness, *rates, ell=ell)
        if math.isinf(least):
            assert not is_close_to_sde(1e9, closeness, ell)
        else:
            assert is_close_to_sde(least * (1 + 1e-9), closeness, ell)
            assert not is_close_to_sde(least * (1 - 1e-9), closeness, ell)


def test_bounds_of_arrays_with_their_limits():
    q = np.array([0.0, 0.3, 3.0, 50.0, math.inf])
    u = RATE * 0.02
    for ell in (1, 4):
        given = {"learning_rate": RATE, "weight_decay": 0.02, "ell": ell}
        loose = scaling.max_batch_multiplier(q, C, form="loose", **given)
        np.testing.assert_allclose(loose, 2 * (1 / ell + q))
        sharp = scaling.max_batch_multiplier(q, C, **given)
        assert sharp[-1] == pytest.approx((4 - 2 + u / ell) / (2 * u))
    # At u = 0 they have closed forms.
    q = np.array([0.0, 3.0, math.inf, math.nan])
    for found, expected in (
        (scaling.max_batch_multiplier(q, C), [2, 5, math.inf, math.nan]),
        (min_batch_multiplier(q, C), [0.5, 0, 0, math.nan]),
        (scaling.min_closeness(q, 4.0), [2, (7 / 4) ** 0.5, 1, math.nan]),
    ):
        np.testing.assert_allclose(found, expected)
        assert found.shape == q.shape


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
RMSPROP = {"rho": 0.9, "epsilon": 4e-7, "epsilon_in_root": True}
LINEAR = scaling.linear_scaling_rule
SQUARE_ROOT = scaling.square_root_scaling_rule


@pytest.mark.parametrize(
    ("rule", "given", "scaled", "decay"),
    [
        (LINEAR, SIZES, SCALED_SIZES, 0.01),
        (SQUARE_ROOT, ADAM | SIZES, SCALED_ADAM | SCALED_SIZES, 0.02),
        # In the root, and added to the gradient.
        (SQUARE_ROOT, RMSPROP, {"rho": 0.6, "epsilon": 1e-7}, 0.02),
        (SQUARE_ROOT, {"decoupled": False}, {}, 0.01),
    ],
)
def test_rules_scale_what_they_are_given(rule, given, scaled, decay):
    rate = 3.2 if rule is LINEAR else 1.6
    expected = {"learning_rate": rate, "weight_decay": decay} | scaled
    found = rule(0.8, 4, weight_decay=0.01, **given)
    assert found == pytest.approx(expected)
