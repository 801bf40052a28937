"""What is said of a run from its estimate and its conditions."""

import dataclasses
import math
import re

import keras
import pytest

from keras_svag import SVAGAdam, scaling
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.scaling.bounds import min_batch_multiplier
from keras_svag.scaling.conditions import RunConditions, conditions_of
from keras_svag.scaling.optimizers import kind_of
from keras_svag.scaling.reasons import Reason
from keras_svag.scaling.verdict import scaling_verdict

C = 2**0.5
B = 128
CONDITIONS = RunConditions.__dataclass_fields__
SETTINGS = ("kappas", "batch_size", "closeness")


def estimate(g=1.0, n=41.0, g_se=0.125, n_se=1.0, batch_size=B, **fields):
    """G and N at batch size 128, with the errors of 2,000 observations."""
    size, fields = batch_size or B, {"sampling": "independent"} | fields
    moments = g, n * size, g_se, n_se * size, 0.0
    return NoiseEstimate(*moments, 2000, batch_size=batch_size, **fields)


def exactly(q, **fields):
    """N / G that is known, but for 9 digits."""
    return estimate(n=q, g_se=1e-9, n_se=1e-9, **fields)


def judge(measured, **fields):
    """The verdict on a run at rest, but for `fields`."""
    given = {"balance": 1.0, "scale_invariant": True, "rest": True}
    given |= {"learning_rate": 0.8, "weight_decay": 5e-4} | fields
    settings = {name: given.pop(name) for name in SETTINGS if name in given}
    return scaling_verdict(measured, RunConditions(**given), **settings)


def test_verdict_reads_like_a_sentence():
    measured = estimate()
    up_to, beyond = (
        math.floor(B * scaling.max_batch_multiplier(q, C, 0.8, 5e-4))
        for q in measured.interval()
    )
    assert judge(measured).text.splitlines() == [
        f"The linear rule is not ruled out up to batch {up_to:,} "
        f"(×{up_to / B:.3g}); beyond {beyond:,} (×{beyond / B:.3g}) it is "
        "ruled out",
        "Batch 128, learning rate 0.8: N/G = 41 [32.7, 54.5]",
        "At equilibrium: yes (balance 1)",
        "SGD within a factor 1.41 of its SDE: not ruled out (needs N/G of at "
        "least 1)",
    ]


def without_factors(sentence):
    return re.sub(r" \(×[\d.]+\)", "", sentence)


@pytest.mark.parametrize(
    ("q", "fields", "answer"),
    [
        # κ <= 2 + q, and below nothing is ruled out from q = 1 on.
        (3.01, {}, "up to batch 641; beyond 641 it"),
        # κ >= (1 - q)/2.
        (0.2, {}, "from batch 52 to 281; below 52 and beyond 281 it"),
        # κ <= 2/ell + q: SGD at B itself is not close to this run of SVAG.
        (0.3, {"ell": 4}, "up to batch 102; beyond 102 it"),
        # Of κ in [0.239, 0.261] no κB is a whole number.
        (
            0.3,
            {"ell": 4, "closeness": 1.01, "batch_size": 10},
            "or ruled out at every batch; below 3 and beyond 2 it",
        ),
    ],
)
def test_first_sentence_is_the_answer(q, fields, answer):
    measured = exactly(q, batch_size=fields.get("batch_size", B))
    result = judge(measured, weight_decay=0.0, **fields)
    state = "undetermined" if answer.startswith("or") else "not ruled out"
    assert without_factors(result.headline) == (
        f"Only a heuristic: the linear rule is {state} {answer} is ruled out"
    )
    assert result.text.startswith(f"{result.headline}\n")
    assert repr(result) == f"<ScalingVerdict: {result.headline}>"


def test_a_rule_that_ends_says_where():
    for measured, answer in (
        (exactly(1.01), "up to batch 385; beyond 385 it is ruled out"),
        (exactly(41.0), "is not ruled out below batch 1280, where it ends"),
        # Its interval has no upper end.
        (estimate(n=2.0, g_se=0.6), "; the rule ends below batch 1280"),
    ):
        verdict = scaling_verdict(measured, keras.optimizers.Adam())
        headline = without_factors(verdict.headline)
        assert "square-root rule" in headline and headline.endswith(answer)
    # 10 * (1 - 0.9) is below 1 by rounding.
    assert "has no run at batch 1,280" in str(verdict.at(1280))


def test_bounds_on_fewer_examples_follow_the_interval():
    measured = estimate(n=0.3, n_se=0.01, g_se=0.03)
    result = judge(measured)
    # Less noise in the measured run leaves less to a smaller batch.
    high, low = (
        min_batch_multiplier(q, C, 0.8, 5e-4) for q in measured.interval()
    )
    bounds = result.min_multiplier_low, result.min_multiplier_high
    assert bounds == pytest.approx((low, high))
    # C is reached at the end of the interval that the bound is of.
    closeness = judge(measured, kappas=(low, high)).min_closeness
    assert closeness[high].high == pytest.approx(C)
    assert closeness[low].low == pytest.approx(C)
    down_to, below = math.ceil(high * B), math.ceil(low * B)
    assert f"not ruled out from batch {down_to} (×" in result.headline
    assert f"; below {below} (×" in result.headline


def test_the_balance_of_a_run_that_may_be_at_rest_is_in_the_bound():
    without, with_balance = (
        scaling.max_batch_multiplier(3.0, C, 0.8, 5e-4, balance=b)
        for b in (1.0, 1.2)
    )
    for rest, balance, low, value, high in (
        (True, 1.2, without, with_balance, with_balance),
        (None, 1.2, without, with_balance, with_balance),
        # On the way to equilibrium it says nothing, nor beyond C.
        (False, 1.2, without, without, without),
        (None, 1.5, without, without, without),
    ):
        result = judge(exactly(3.0), rest=rest, balance=balance)
        bound = result.max_multiplier_low, result.max_multiplier_high
        assert bound == pytest.approx((low, high), rel=1e-6)
        assert result.max_multiplier == pytest.approx(value)


def test_unbounded_interval_rules_out_only_what_no_noise_allows():
    result = judge(estimate(g_se=1.0), kappas=(2, 100, 2600))
    assert "not told apart from 0" in result.text
    # κηλ <= 1 + ηλ/2 at C = √2 whatever N/G is: κ up to 2,500.
    answers = "not ruled out", "undetermined", "ruled out"
    assert tuple(result.multiplier_verdicts.values()) == answers
    undecayed = judge(estimate(g_se=1.0), weight_decay=0.0)
    assert "no larger batch is ruled out" in undecayed.text
    negative = judge(estimate(g=-1.0))
    assert negative.max_multiplier is None
    assert "significantly below 0" in negative.text
    # Its SDE needs N/G of at least 1.
    for n, answer in ((1.0, "undetermined"), (0.2, "ruled out")):
        assert judge(estimate(n=n, n_se=0.01)).sde_verdict == answer


SHUFFLED = {"sampling": "shuffle", "num_examples": 1000}
COUPLED = {"assumptions": ("coupled_loss",), "loss_difference": -0.12}
LOSSES = ("batch_normalization", "masked_loss")
MOVED = {"G": (1.5, 1.75), "N": (0.9, math.inf)}
SEEN = "balance 1; over the window's halves G × [1.5, 1.75], N × [0.9, ∞)"
AT_REST = {True: "yes", False: "no", None: "not known"}
NOT_SGD = {"optimizer": kind_of(keras.optimizers.Optimizer)}


@pytest.mark.parametrize(
    ("fields", "reasons"),
    [
        ({"scale_invariant": False}, ["not_scale_invariant"]),
        ({"scale_invariant": None}, ["scale_invariance_unknown"]),
        ({"momentum": 0.9}, [("momentum", 0.9, pytest.approx(8.0))]),
        ({"rest": False, "drift": MOVED}, [("not_at_equilibrium", SEEN)]),
        ({"balance": None, "rest": None}, ["equilibrium_unknown"]),
        ({"rest": None}, []),
        ({"weight_decay": 0.0}, ["no_weight_decay"]),
        (NOT_SGD, [("not_sgd", "Optimizer")]),
        ({"constant_rate": False}, ["rate_changes"]),
        ({"all_weights_decayed": False}, ["not_all_decayed"]),
        ({"other_reasons": ("regularizer",)}, ["regularizer"]),
        ({"other_reasons": ("It is {odd}",)}, ["It is {odd}"]),
        # Of the estimate.
        ({"g": -1.0}, ["negative_signal"]),
        ({"sampling": None}, ["sampling_unknown"]),
        ({"sampling": "shuffle"}, ["num_examples_unknown"]),
        (SHUFFLED, ["large_noise_scale"]),
        (SHUFFLED | {"num_examples": 10**6}, []),
        (COUPLED, [("coupled_loss", 12.0)]),
        # What is small is no reason, and stays in the estimate.
        ({"loss_difference": 0.005}, []),
        ({"assumptions": LOSSES, "loss_difference": 0.02}, [*LOSSES]),
    ],
)
def test_failing_assumptions_are_named(fields, reasons):
    of_run = {name: fields[name] for name in fields if name in CONDITIONS}
    rest = {name: fields[name] for name in fields if name not in of_run}
    result = judge(estimate(**rest), **of_run)
    codes = [[one] if isinstance(one, str) else one for one in reasons]
    expected = tuple(Reason(code, tuple(values)) for code, *values in codes)
    assert result.reasons == expected
    assert result.heuristic == bool(reasons)
    assert result.headline.startswith("Only a heuristic") == bool(reasons)
    because = f"heuristic, because {'; '.join(map(str, result.reasons))}"
    assert (because in result.text) == bool(reasons)
    assert f"At equilibrium: {AT_REST[result.at_equilibrium]}" in result.text


def test_an_optimizer_stands_for_its_hyperparameters():
    class MyAdamW(keras.optimizers.AdamW):
        pass

    given = {"beta_2": 0.99, "weight_decay": 0.02}
    optimizer = MyAdamW(1e-3, **given)
    result = scaling_verdict(estimate(), optimizer, kappas=(0.25, 4, 20))
    # κ <= C² + (C² - 1) q, and no decay in it.
    assert result.rule == "square_root" and result.refusal is None
    assert result.max_multiplier == pytest.approx(2 + 41)
    given |= {"beta_1": 0.9, "epsilon": 1e-7}
    scaled = scaling.square_root_scaling_rule(1e-3, 4, **given)
    assert result.scaled[4] == pytest.approx(scaled)
    # κ (1 - β₁) is not below 1.
    assert result.scaled[20] is None
    assert result.rule_defined_below == pytest.approx(10)
    # Least C of √((1 + q)/(κ + q)).
    assert result.min_closeness[0.25][1] == pytest.approx(math.sqrt(42 / 41.25))
    assert result.reasons == (Reason("second_moment_steps_unknown"),)
    assert "in the norm of MyAdamW" in result.text


def test_conditions_of_an_optimizer():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.4, 10, 0.5)
    sgd = keras.optimizers.SGD(schedule, 0.9, weight_decay=0.01, clipnorm=1.0)
    for optimizer in (sgd, keras.optimizers.LossScaleOptimizer(sgd)):
        assert conditions_of(optimizer) == RunConditions(
            learning_rate=pytest.approx(0.4),
            weight_decay=0.01,
            momentum=0.9,
            constant_rate=False,
            other_reasons=("clipped",),
        )
    rmsprop = keras.optimizers.RMSprop(rho=0.8, momentum=0.5, centered=True)
    conditions = conditions_of(rmsprop)
    assert conditions.adaptive.hyperparameters == {"rho": 0.8, "epsilon": 1e-7}
    assert conditions.reasons(estimate()) == (
        Reason("second_moment_steps_unknown"),
        Reason("centered"),
        Reason("adaptive_momentum", (0.5,)),
    )
    assert conditions_of(rmsprop, "linear").adaptive is None
    assert conditions_of(SVAGAdam(ell=4)).ell == 4
    # Without memory, or with one that never changes, none is to be shortened.
    for betas in ((0.0, 1.0), (1.0, 1.0)):
        no_memory = conditions_of(keras.optimizers.Adam(1e-3, *betas))
        assert no_memory.adaptive.hyperparameters == {"epsilon": 1e-7}
        assert no_memory.reasons(estimate()) == (
            Reason("second_moment_does_not_follow", ("Adam",)),
        )


def test_what_is_short_against_the_memory_of_v_is_named():
    # β₂ is 0.999, and SVAGAdam's own is closer to 1 by ell.
    for ell, steps, window, code, count in (
        (1, 999, 2_000, "second_moment_is_young", 999),
        (1, 1_001, 2_000, None, None),
        (1, 1_001, 990, "one_stretch", 990),
        (2, 1_999, 5_000, "second_moment_is_young", 1_999),
        (2, 2_001, 1_010, "one_stretch", 1_010),
    ):
        conditions = conditions_of(SVAGAdam(ell=ell))
        adaptive = dataclasses.replace(
            conditions.adaptive,
            second_moment_steps=steps,
            window_steps=window,
            epsilon_ratio=0.5,
        )
        conditions = dataclasses.replace(conditions, adaptive=adaptive)
        memory = pytest.approx(1000 * ell)
        expected = [Reason(code, (count, memory))] if code else []
        expected.append(Reason("large_epsilon", (0.5,)))
        assert list(conditions.reasons(estimate())) == expected


def test_another_batch_size_restates_the_noise():
    result = judge(estimate(), batch_size=64)
    assert result.batch_size == result.estimate.batch_size == 64
    assert result.noise_to_signal == pytest.approx(82)
    assert judge(estimate(batch_size=None), batch_size=64) == result


def test_without_a_verdict_the_reason_is_said():
    adam_w = kind_of(keras.optimizers.AdamW)
    for fields, code, words in (
        ({"optimizer": adam_w}, "linear_rule_for_adaptive", "not for AdamW: "),
        ({"momentum": 0.9999}, "diverges", "times weight decay is 4"),
    ):
        result = judge(estimate(), **fields)
        assert result.refusal.code == code and words in str(result.refusal)
        assert result.headline.startswith("No verdict on the linear rule. ")
        assert set(result.multiplier_verdicts.values()) == {"undetermined"}
        assert result.allows(64) is None
        for sentence in (result.headline, str(result.at(64))):
            assert sentence.endswith(str(result.refusal))


def test_a_verdict_can_be_asked_about_any_batch_size():
    measured = estimate(n=3.0, n_se=0.2, g_se=0.05)
    result = judge(measured)
    low, high = result.max_multiplier_low * B, result.max_multiplier_high * B
    for size, allowed in (
        (1, True),
        (math.floor(low), True),
        (math.ceil(low), None),
        (math.ceil(high), False),
    ):
        run = result.at(size)
        assert result.allows(size) is run.allowed is allowed
        assert (run.batch_size, run.kappa) == (size, size / B)
        assert run.hyperparameters == {"learning_rate": 0.8 * size / B}
    assert result.at(2 * B) == result.runs[2]
    loose = result.at(1024, closeness=3.0)
    assert loose.allowed is True and result.allows(1024) is False
    assert loose == judge(measured, closeness=3.0).at(1024)
    wide, narrow = result.at(600), result.at(600, level=0.5)
    assert narrow.min_closeness.high < wide.min_closeness.high
    assert narrow.min_closeness.value == wide.min_closeness.value


def test_a_scaled_run_is_one_sentence():
    measured = exactly(3.0)
    # √((κ + q)/(1 + q)).
    assert str(judge(measured, weight_decay=0.0).at(1024)) == (
        "Only a heuristic: batch 1,024 (×8) with learning_rate=6.4 is ruled "
        f"out: C is at least {math.sqrt(11 / 4):.3g} [1.66, 1.66], asked for "
        "is 1.41"
    )
    assert str(judge(measured).at(96)).startswith(
        "Batch 96 (×0.75) with learning_rate=0.6 is not ruled out: C is at "
        "least 1.03 ["
    )
    adam = scaling_verdict(measured, keras.optimizers.Adam())
    assert str(adam.at(1408)) == (
        "The square-root rule has no run at batch 1,408 (×11), for κ (1 - β) "
        "is not below 1"
    )
    assert adam.allows(1408) is None
    decayed = judge(measured, momentum=0.9)
    # κηλ >= 2 at the effective rate of 8.
    assert "C is at least ∞: the weights diverge" in str(decayed.at(64000))
