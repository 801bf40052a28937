"""What holds for every argument of the bounds, verdicts and scaling rules."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_svag import scaling
from keras_svag.scaling.conditions import RunConditions
from keras_svag.scaling.verdict import (
    ScalingVerdict,
    Verdict,
    scaling_verdict,
)
from tests.helpers.generated import (
    anything,
    closenesses,
    estimates,
    kappas,
    levels,
    pairs_of_equilibria,
)


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
