"""Whether a run is at rest: yes, no, or not known."""

import math

import numpy as np
import pytest
from scipy import fft

from keras_svag import NoiseEstimate
from keras_svag.scaling.conditions import RunConditions, at_rest

C = 2**0.5
RATE, DECAY = 0.8, 5e-4
LENGTH = 1600


def window(seed, mean, factor=1.0, correlation=0.6):
    """Correlated observations, whose mean changes in the middle."""
    noise = np.random.default_rng(seed).standard_normal(LENGTH)
    for i in range(1, LENGTH):
        noise[i] += correlation * noise[i - 1]
    means = np.where(np.arange(LENGTH) < LENGTH // 2, mean, factor * mean)
    return means + 0.5 * noise


def drift_of(x):
    """The second half's mean over the first's, by two one-sided tests."""
    x = x[np.isfinite(x)]
    parts = np.reshape(x, (2, -1))
    waves = fft.dct(parts)[:, 1:9] / math.sqrt(2) / len(parts[0])
    error = np.sqrt(np.mean(waves**2))
    # The set of a ratio, with Student's 16 degrees of freedom.
    fields = {"count": 2, "degrees_of_freedom": 16, "batch_size": 1}
    one = NoiseEstimate(*parts.mean(1), error, error, 0.0, **fields)
    return one.interval(0.9)


G, N = window(0, 1.0), window(1, 5.0)
GAPS = np.insert(G, [3, 60, 61], [math.nan, math.inf, math.nan])


@pytest.mark.parametrize(
    ("g", "n", "answer"),
    [
        (G, N, True),
        (GAPS, N, True),
        (G[:100], N, None),
        (G, 5 + 9 * (N - 5), None),
        (window(0, 1.0, factor=2), N, False),
        (window(0, 1.0, factor=2)[::-1], N, False),
        (G, window(1, 5.0, factor=2), False),
        # Just at the margin it is not known.
        (window(0, 1.0, factor=C), N, None),
        (G, window(1, 5.0, factor=C), None),
    ],
)
def test_both_g_and_n_have_to_be_shown_to_rest(g, n, answer):
    rest, drift = at_rest(1.0, g, n, C)
    assert rest is answer
    for name, x in {"G": g, "N": n}.items():
        assert drift[name] == pytest.approx(drift_of(x))


def test_of_too_few_observations_nothing_is_known():
    rest, drift = at_rest(1.0, [1.0, 2.0, 3.0], N, C)
    assert rest is None and drift["G"] == (0.0, math.inf)


def test_answers_err_as_often_as_they_may():
    # The means of G differ by just the margin, and its other end is far.
    rng = np.random.default_rng(0)
    runs = 10 + rng.normal(0, 3, size=(1000, 100))
    runs[:, 50:] *= 1.5
    answers = [at_rest(None, g, np.ones(100), 1.5)[0] for g in runs]
    # Both of G and N may lead to "no", which is wrong at one end of two.
    for answer, level in ((True, 0.05), (False, 0.05 / 2 / 2)):
        error = np.sqrt(level / len(runs))
        assert abs(answers.count(answer) / len(runs) - level) < 3 * error


def test_the_balance_has_to_be_within_c_too():
    for balance, closeness, answer in (
        (0.70, C, False),
        (0.72, C, True),
        (1.4, C, True),
        (1.42, C, False),
        (1.42, 2.0, True),
        (1.05, 1.04, False),
        (math.inf, C, False),
        (math.nan, C, None),
        (None, C, True),
    ):
        assert at_rest(balance, G, N, closeness)[0] is answer


def run(**fields):
    given = {"scale_invariant": True, "weight_decay": DECAY} | fields
    return RunConditions(learning_rate=RATE, **given)


@pytest.mark.parametrize("ell", [1, 4])
def test_the_balance_is_that_of_the_means_of_a_window(ell):
    # (2 - u/ell) λ R = η (N + G/ell), of SVAG and of SGD.
    right = RATE * (N.mean() + G.mean() / ell)
    r = 1.1 * right / ((2 - RATE * DECAY / ell) * DECAY)
    g_with_gap, n_with_gap = np.append(G, math.nan), np.append(N, 7.0)
    observed = run(ell=ell).observed(r, g_with_gap, n_with_gap, C)
    assert observed.balance == pytest.approx(1.1)
    assert (observed.rest, observed.drift) == at_rest(1.1, G, N, C)
    assert observed.rest is True
    nothing = run(ell=ell).observed(r, [math.nan], [1.0], C)
    assert nothing.balance is None and nothing.rest is None


def test_without_an_identity_nothing_is_observed():
    for fields in (
        {"scale_invariant": False},
        {"momentum": 0.9},
        {"all_weights_decayed": False},
        {"constant_rate": False},
        {"other_reasons": ("clipped",)},
        {"weight_decay": 0.0},
    ):
        conditions = run(**fields)
        assert conditions.observed(1.0, G, N, C) == conditions
