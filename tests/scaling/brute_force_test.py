"""The bounds against the definition of C-closeness, found by search."""

import itertools
import math

import numpy as np
import pytest

from keras_svag import scaling
from keras_svag.scaling.bounds import min_batch_multiplier

RATE = 0.5
GRID = [
    (ell, q, u, balance)
    for ell in (1, 2, 4, 16)
    for q in (0.05, 0.7, 3.21, 40.0)
    for u in (1e-6, 0.02, 0.6)
    for balance in (0.9, 1.0, 1.1)
]


def is_close(kappa, closeness, ell, q, u, balance):
    """Whether some SGD run at κB, κη is C-close to the measured run.

    The measured run has G = 1, N = q and the R that its balance says. The
    balance of the scaled one is continuous in R', G' and κN', so that it is 1
    somewhere within [1/C, C] of them if the corners are on both sides of 1.
    """
    process = "svag" if ell > 1 else "sgd"
    decay = u / RATE
    if kappa * u >= 2:
        return False
    r = balance / scaling.equilibrium_balance(
        process, 1.0, 1.0, q, RATE, decay, ell
    )
    corners = [
        scaling.equilibrium_balance(
            "sgd", fr * r, fg, fn * q / kappa, kappa * RATE, decay
        )
        for fr, fg, fn in itertools.product(
            (1 / closeness, closeness), repeat=3
        )
    ]
    return min(corners) <= 1 <= max(corners)


def bounds(closeness, ell, q, u, balance):
    """The smallest and the largest κ that the condition does not rule out."""
    given = {"ell": ell, "balance": balance}
    return [
        bound(q, closeness, RATE, u / RATE, **given)
        for bound in (min_batch_multiplier, scaling.max_batch_multiplier)
    ]


@pytest.mark.parametrize("closeness", [1.2, 2**0.5, 3.0])
def test_what_is_ruled_out_has_no_close_run(closeness):
    factors = np.array([0.5, 0.8, 0.95, 1 - 1e-6, 1 + 1e-6, 1.05, 1.25, 2])
    small = 0
    for case in GRID:
        smallest, largest = bounds(closeness, *case)
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


def sde_is_close(q, closeness, ell):
    """Whether some SDE is C-close to a run of SVAG, which is at rest."""
    rates = 1.0, 0.3
    r = 1 / scaling.equilibrium_balance("svag", 1.0, 1.0, q, *rates, ell)
    corners = [
        scaling.equilibrium_balance("sde", fr * r, 1.0, fn * q, *rates)
        for fr, fn in itertools.product((1 / closeness, closeness), repeat=2)
    ]
    return min(corners) <= 1 <= max(corners)


def test_what_svag_needs_to_be_close_to_its_sde():
    for closeness, ell in itertools.product((1.1, 2**0.5, 3.0), (1, 2, 8)):
        least = scaling.min_noise_to_signal(closeness, 1.0, 0.3, ell=ell)
        if math.isinf(least):
            assert not sde_is_close(1e9, closeness, ell)
        else:
            assert sde_is_close(least * (1 + 1e-9), closeness, ell)
            assert not sde_is_close(least * (1 - 1e-9), closeness, ell)


def test_the_loose_form_is_implied_by_the_sharp_one():
    q = np.array([0.0, 0.3, 3.0, 50.0, np.inf])
    for ell, u in itertools.product((1, 2, 4, 16), (0.0, 0.02, 0.6)):
        loose = scaling.max_batch_multiplier(
            q, 2**0.5, RATE, u / RATE, form="loose", ell=ell
        )
        np.testing.assert_allclose(loose, 2 * (1 / ell + q))
        sharp = scaling.max_batch_multiplier(q, 2**0.5, RATE, u / RATE, ell=ell)
        assert np.all(sharp <= loose * (1 + 1e-12))
