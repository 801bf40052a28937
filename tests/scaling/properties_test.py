"""What holds for every argument of the bounds, verdicts and scaling rules."""

import json
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keras_svag import scaling
from keras_svag.scaling.bounds import min_batch_multiplier
from keras_svag.scaling.conditions import RunConditions
from keras_svag.scaling.verdict import (
    ScalingVerdict,
    Verdict,
    scaling_verdict,
)
from tests.helpers.generated import (
    anything,
    closenesses,
    decays,
    equilibria,
    estimates,
    finite,
    kappas,
    levels,
    moderate_ratios,
    pairs_of_equilibria,
    ratios,
)


@given(closenesses, closenesses, decays())
def test_who_asks_for_less_closeness_needs_less_noise(first, second, decay):
    tight, wide = sorted((first, second))
    needed = scaling.min_noise_to_signal(tight, **decay)
    assert scaling.min_noise_to_signal(wide, **decay) <= needed
    assert needed > 0


@given(ratios, ratios, closenesses, closenesses, decays())
def test_more_noise_and_less_closeness_carry_further(q, p, c, d, decay):
    (q, p), (c, d) = sorted((q, p)), sorted((c, d))
    for form in ("sharp", "loose"):
        bound = scaling.max_batch_multiplier(q, c, form=form, **decay)
        assert bound >= 1
        more = (1 + 1e-9) * scaling.max_batch_multiplier(
            p, c, form=form, **decay
        )
        assert bound <= more
        wider = (1 + 1e-9) * scaling.max_batch_multiplier(
            q, d, form=form, **decay
        )
        assert bound <= wider


@given(moderate_ratios, closenesses)
def test_sharp_and_loose_bounds_differ_by_the_signal(q, c):
    # Of (C² + (C² - 1) q) and C² (1 + q) the second is larger by q.
    sharp = scaling.max_batch_multiplier(q, c)
    loose = scaling.max_batch_multiplier(q, c, form="loose")
    assert sharp == pytest.approx(c**2 + (c**2 - 1) * q, rel=1e-9)
    assert loose == pytest.approx(c**2 * (1 + q), rel=1e-9)


@given(moderate_ratios, kappas, kappas)
def test_the_least_closeness_grows_with_kappa(q, kappa, more):
    small, large = sorted((kappa, more))
    least = scaling.min_closeness(q, small)
    assert 1 <= least <= scaling.min_closeness(q, large) * (1 + 1e-12)


@given(
    estimates(),
    st.floats(0, 1e3),
    st.floats(0, 1e-3),
    closenesses,
    st.lists(kappas, max_size=6),
    levels,
    st.none() | anything,
)
def test_verdicts_follow_kappa_max(
    estimate, rate, decay, closeness, factors, level, balance
):
    def judged(*kappas):
        return scaling_verdict(
            estimate,
            RunConditions(
                learning_rate=rate, weight_decay=decay, balance=balance
            ),
            closeness=closeness,
            kappas=kappas,
            level=level,
        )

    bare = judged(1)
    low, high = bare.max_multiplier_low, bare.max_multiplier_high
    assert 1 <= low <= high * (1 + 1e-12)
    between = (low + high) / 2
    ends = [end for end in (low, between, high) if end <= 1e100]
    verdict = judged(1, *ends, *factors)
    for kappa, answer in verdict.multiplier_verdicts.items():
        if verdict.refusal:
            assert answer == Verdict.UNDETERMINED
        elif kappa > high:
            assert answer == Verdict.RULED_OUT
        elif kappa <= low:
            assert answer == Verdict.NOT_RULED_OUT
        else:
            assert answer == Verdict.UNDETERMINED
    # The run itself is as close to itself as can be asked for.
    assert verdict.multiplier_verdicts[1] != Verdict.RULED_OUT
    order = [
        {"not ruled out": 0, "undetermined": 1, "ruled out": 2}[answer]
        for _, answer in sorted(verdict.multiplier_verdicts.items())
    ]
    assert order == sorted(order)
    if verdict.sde_verdict == Verdict.RULED_OUT:
        assert estimate.interval(level)[1] < verdict.min_noise_to_signal
    saved = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    if balance is None or math.isfinite(balance):
        assert ScalingVerdict.from_dict(saved).to_dict() == verdict.to_dict()
    assert "nan" not in verdict.text


@given(
    estimates(),
    decays(),
    closenesses,
    st.integers(1, 100),
    st.lists(st.floats(1e-9, 1), min_size=2, max_size=6),
    st.none() | anything,
)
def test_fewer_examples_a_batch_are_never_ruled_out_less(
    estimate, decay, closeness, ell, factors, balance
):
    given = {name: value or 0.0 for name, value in decay.items()}
    verdict = scaling_verdict(
        estimate,
        RunConditions(**given, balance=balance, ell=ell),
        closeness=closeness,
        kappas=factors,
    )
    judged = sorted(verdict.multiplier_verdicts.items())
    largest = verdict.max_multiplier_low
    answers = [answer for kappa, answer in judged if kappa <= largest]
    order = [
        {"not ruled out": 0, "undetermined": 1, "ruled out": 2}[answer]
        for answer in answers
    ]
    assert order == sorted(order, reverse=True)
    for kappa, answer in verdict.multiplier_verdicts.items():
        nearest, _, farthest = verdict.min_closeness[kappa]
        if answer == Verdict.NOT_RULED_OUT:
            assert farthest <= closeness * (1 + 1e-6)
        if answer == Verdict.RULED_OUT:
            assert nearest >= closeness * (1 - 1e-6)


@given(ratios, ratios, closenesses, decays(), st.integers(1, 100))
def test_more_noise_carries_further_down(q, p, closeness, decay, ell):
    q, p = sorted((q, p))
    bound = min_batch_multiplier(q, closeness, ell=ell, **decay)
    more = min_batch_multiplier(p, closeness, ell=ell, **decay)
    assert 0 <= more <= bound * (1 + 1e-9)
    largest = scaling.max_batch_multiplier(q, closeness, ell=ell, **decay)
    assert bound <= largest * (1 + 1e-9)
    if ell == 1:
        assert bound <= 1


@given(pairs_of_equilibria(), st.floats(1e-6, 1e6), levels)
def test_closeness_is_at_least_1_within_its_interval(runs, kappa, level):
    a, b = runs
    result = scaling.c_closeness(a, b, kappa, level)
    assert 1 <= result.low <= result.high
    if math.isfinite(result.value):
        assert result.low <= result.value * (1 + 1e-6)
        assert result.value * (1 - 1e-6) <= result.high
    swapped = scaling.c_closeness(b, a, 1 / kappa, level)
    assert swapped.value == pytest.approx(result.value, rel=1e-6)


@given(equilibria(st.none() | st.integers(1, 100)), levels)
def test_a_run_is_close_to_itself(run, level):
    assume(run.grad_sq_norm > 0)
    assert scaling.c_closeness(run, run, level=level).value == 1


@given(st.floats(1e-6, 1e6), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_linear_rule_composes_and_has_an_inverse(rate, kappa, other):
    def rule(rate, kappa):
        return scaling.linear_scaling_rule(rate, kappa)["learning_rate"]

    assert rule(rate, kappa) == pytest.approx(kappa * rate)
    assert rule(rule(rate, kappa), 1 / kappa) == pytest.approx(rate)
    assert rule(rule(rate, kappa), other) == pytest.approx(
        rule(rate, kappa * other)
    )


@given(
    st.floats(1e-6, 1e6),
    st.floats(1e-3, 1e3),
    st.floats(1e-3, 1e3),
    st.booleans(),
)
def test_square_root_rule_composes_and_has_an_inverse(rate, k1, k2, decoupled):
    start = {
        "learning_rate": rate,
        "beta_1": 1 - 1e-7,
        "beta_2": 1 - 1e-8,
        "epsilon": 1e-8,
        "weight_decay": 0.1,
    }

    def rule(values, kappa):
        return scaling.square_root_scaling_rule(
            **values, kappa=kappa, decoupled=decoupled
        )

    there_and_back = rule(rule(start, k1), 1 / k1)
    twice, once = rule(rule(start, k1), k2), rule(start, k1 * k2)
    for name, value in start.items():
        assert there_and_back[name] == pytest.approx(value)
        assert twice[name] == pytest.approx(once[name])
    # Of learning rate and epsilon the squares go with κ and 1 / κ.
    scaled = rule(start, k1)
    assert scaled["learning_rate"] ** 2 == pytest.approx(k1 * rate**2)
    assert scaled["epsilon"] ** 2 == pytest.approx(1e-16 / k1, rel=1e-9, abs=0)
    decay = 0.1 * math.sqrt(k1) if decoupled else 0.1
    assert scaled["weight_decay"] == pytest.approx(decay)
    # Averages forget over κ times fewer steps: as many examples.
    assert 1 - rule(start, k1)["beta_1"] == pytest.approx(
        k1 * (1 - start["beta_1"]), rel=1e-6
    )


@given(st.integers(1, 10**6), st.integers(1, 1000), st.integers(0, 10**9))
def test_scaled_sizes_keep_the_examples_seen(batch_size, kappa, steps):
    scaled = scaling.linear_scaling_rule(
        0.1, kappa, batch_size=batch_size, steps=steps
    )
    assert scaled["batch_size"] == kappa * batch_size
    # To half a step.
    seen = scaled["batch_size"] * scaled["steps"]
    assert abs(seen - batch_size * steps) <= scaled["batch_size"] / 2


@given(finite, finite)
def test_rules_refuse_or_answer_with_finite_numbers(rate, kappa):
    for rule in (scaling.linear_scaling_rule, scaling.square_root_scaling_rule):
        try:
            scaled = rule(rate, kappa, batch_size=8, steps=8)
        except ValueError as error:
            assert "`" in str(error)
        else:
            assert all(map(math.isfinite, scaled.values()))
