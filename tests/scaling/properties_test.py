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
    equilibria,
    estimates,
    kappas,
    levels,
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
    conditions = RunConditions(
        learning_rate=rate, weight_decay=decay, balance=balance
    )
    asked = {"closeness": closeness, "level": level}
    bare = scaling_verdict(estimate, conditions, kappas=(1,), **asked)
    low, high = bare.max_multiplier_low, bare.max_multiplier_high
    assert 1 <= low <= high * (1 + 1e-12)
    ends = [end for end in (low, (low + high) / 2, high) if end <= 1e100]
    kappas = tuple(sorted({1, *ends, *factors}))
    verdict = scaling_verdict(estimate, conditions, kappas=kappas, **asked)
    for kappa, answer in verdict.multiplier_verdicts.items():
        if verdict.refusal or low < kappa <= high:
            assert answer == Verdict.UNDETERMINED
        else:
            is_beyond = kappa > high
            assert answer == (
                Verdict.RULED_OUT if is_beyond else Verdict.NOT_RULED_OUT
            )
    # The run itself is as close to itself as can be asked for.
    assert verdict.multiplier_verdicts[1] != Verdict.RULED_OUT
    if verdict.sde_verdict == Verdict.RULED_OUT:
        assert estimate.interval(level)[1] < verdict.min_noise_to_signal
    saved = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    if balance is None or math.isfinite(balance):
        assert ScalingVerdict.from_dict(saved).to_dict() == verdict.to_dict()
    assert "nan" not in verdict.text


@given(equilibria(), equilibria(), st.floats(1e-6, 1e6), levels)
def test_closeness_is_at_least_1_within_its_interval(a, b, kappa, level):
    result = scaling.c_closeness(a, b, kappa, level)
    assert 1 <= result.low <= result.high
    if math.isfinite(result.value):
        assert result.low <= result.value * (1 + 1e-6)
        assert result.value * (1 - 1e-6) <= result.high
    swapped = scaling.c_closeness(b, a, 1 / kappa, level)
    assert swapped.value == pytest.approx(result.value, rel=1e-6)
