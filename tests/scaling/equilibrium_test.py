"""Whether a run is at rest: yes, no, or not known."""

import dataclasses
import math

import numpy as np
import pytest

from keras_svag.scaling.conditions import RunConditions, at_rest

C = 2**0.5
RATE, DECAY = 0.8, 5e-4
WINDOWS, LENGTH = 200, 1600


def windows(rng, mean, correlation=0.6, spread=0.5):
    """Rows of correlated observations around a mean that may change."""
    noise = rng.standard_normal((WINDOWS, LENGTH))
    for i in range(1, LENGTH):
        noise[:, i] = correlation * noise[:, i - 1] + noise[:, i]
    return mean + spread * noise


def shares(balance, g, n, closeness=C):
    """How often the answer is yes, and how often no."""
    answers = [
        at_rest(balance, *window, closeness)[0]
        for window in zip(g, n, strict=True)
    ]
    return [np.mean([a is answer for a in answers]) for answer in (True, False)]


def test_a_run_at_rest_is_shown_to_be_or_not_known_to_be():
    rng = np.random.default_rng(0)
    g, n = windows(rng, 1.0), windows(rng, 5.0)
    yes, no = shares(1.02, g, n)
    assert yes > 0.9
    assert no <= 0.05
    yes, no = shares(1.02, g[:, :100], n[:, :100])
    assert yes < 0.5
    assert no <= 0.05


@pytest.mark.parametrize("which", [0, 1])
def test_a_run_that_moves_is_rarely_taken_for_one_at_rest(which):
    rng = np.random.default_rng(1)
    late = np.arange(LENGTH) >= LENGTH // 2
    for factor, yes_expected, no_expected in ((C, 0.05, None), (2, 0, 1)):
        means = np.array([1.0, 5.0])
        means[which] *= factor
        g, n = (
            windows(rng, np.where(late, mean, start))
            for mean, start in zip(means, (1.0, 5.0), strict=True)
        )
        yes, no = shares(1.0, g, n)
        # Three standard errors of 200 windows.
        assert yes <= yes_expected + 3 * math.sqrt(0.05 * 0.95 / WINDOWS)
        if no_expected:
            assert no > 0.95


def test_the_balance_has_to_be_within_c_too():
    rng = np.random.default_rng(2)
    g, n = windows(rng, 1.0)[0], windows(rng, 5.0)[0]
    answers = {
        balance: at_rest(balance, g, n, C)[0]
        for balance in (0.70, 0.72, 1.0, 1.4, 1.42, math.inf, math.nan, None)
    }
    assert list(answers.values()) == [
        *(False, True, True, True),
        *(False, False, None, True),
    ]
    # What is asked for decides.
    assert at_rest(1.42, g, n, 2.0)[0] is True
    assert at_rest(1.05, g, n, 1.04)[0] is False


def run(**fields):
    given = {"scale_invariant": True} | fields
    return RunConditions(learning_rate=RATE, weight_decay=DECAY, **given)


@pytest.mark.parametrize("ell", [1, 4])
def test_the_balance_is_that_of_the_means_of_a_window(ell):
    rng = np.random.default_rng(4)
    g, n = windows(rng, 1.0)[0], windows(rng, 5.0)[0]
    # (2 - u/ell) λ R = η (N + G/ell), of SVAG and of SGD.
    right = RATE * (n.mean() + g.mean() / ell)
    r = 1.1 * right / ((2 - RATE * DECAY / ell) * DECAY)
    g_with_gap, n_with_gap = np.append(g, math.nan), np.append(n, 7.0)
    observed = run(ell=ell).observed(r, g_with_gap, n_with_gap, C)
    assert observed.balance == pytest.approx(1.1)
    assert (observed.rest, observed.drift) == at_rest(1.1, g, n, C)
    assert observed.rest is True
    nothing = run(ell=ell).observed(r, [math.nan], [1.0], C)
    assert nothing.balance is None and nothing.rest is None


@pytest.mark.parametrize(
    "fields",
    [
        {"scale_invariant": False},
        {"momentum": 0.9},
        {"all_weights_decayed": False},
        {"constant_rate": False},
        {"other_reasons": ("clipped",)},
    ],
)
def test_without_an_identity_nothing_is_observed(fields):
    conditions = run(**fields)
    assert conditions.observed(1.0, np.ones(100), np.ones(100), C) == conditions
    undecayed = dataclasses.replace(run(), weight_decay=0.0)
    assert undecayed.observed(1.0, [1.0], [1.0], C) == undecayed
