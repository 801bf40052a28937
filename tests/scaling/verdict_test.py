"""What is said of a run from its estimate and its conditions."""

import dataclasses
import math

import keras
import pytest

from keras_svag import SVAGAdam, scaling
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.noise.ratio import Interval
from keras_svag.scaling import sentences
from keras_svag.scaling.bounds import min_batch_multiplier
from keras_svag.scaling.conditions import RunConditions, conditions_of
from keras_svag.scaling.optimizers import kind_of
from keras_svag.scaling.verdict import (
    Verdict,
    scaling_verdict,
)

C = 2**0.5
B = 128
DRIFT = {"G": Interval(0.93, 1.1), "N": Interval(0.97, 1.04)}


def estimate(g=1.0, n=41.0, g_se=0.125, n_se=1.0, **fields):
    """G and N at batch size 128, with the errors of 2,000 observations."""
    given = {"batch_size": B, "sampling": "independent"} | fields
    return NoiseEstimate(g, n * B, g_se, n_se * B, 0.0, 2000, **given)


def judge(measured, **fields):
    given = {"balance": 1.0, "scale_invariant": True, "rest": True} | fields
    settings = {
        name: given.pop(name)
        for name in ("kappas", "batch_size", "closeness")
        if name in given
    }
    conditions = RunConditions(learning_rate=0.8, weight_decay=5e-4, **given)
    return scaling_verdict(measured, conditions, **settings)


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


def exactly(q, **fields):
    """N / G that is known, but for 9 digits."""
    return estimate(n=q, g_se=1e-9, n_se=1e-9, **fields)


@pytest.mark.parametrize(
    ("q", "fields", "answer"),
    [
        # κ <= 2 + q, and below nothing is ruled out from q = 1 on.
        (
            3.01,
            {},
            "not ruled out up to batch 641 (×5.01); beyond 641 (×5.01) it is "
            "ruled out",
        ),
        # κ >= (1 - q)/2.
        (
            0.2,
            {},
            "not ruled out from batch 52 (×0.406) to 281 (×2.2); below 52 "
            "(×0.406) and beyond 281 (×2.2) it is ruled out",
        ),
        # κ <= 2/ell + q: SGD at B itself is not close to this run of SVAG.
        (
            0.3,
            {"ell": 4},
            "not ruled out up to batch 102 (×0.797); beyond 102 (×0.797) it "
            "is ruled out",
        ),
        # Of κ in [0.239, 0.261] no κB is a whole number.
        (
            0.3,
            {"ell": 4, "closeness": 1.01, "batch_size": 10},
            "undetermined or ruled out at every batch; below 3 (×0.3) and "
            "beyond 2 (×0.2) it is ruled out",
        ),
    ],
)
def test_first_sentence_is_the_answer(q, fields, answer):
    given = {"batch_size": B, "closeness": C, "ell": 1} | fields
    conditions = RunConditions(
        learning_rate=0.8, scale_invariant=True, ell=given.pop("ell")
    )
    measured = exactly(q, batch_size=given["batch_size"])
    measured = dataclasses.replace(
        measured, example_noise=q * given["batch_size"]
    )
    result = scaling_verdict(measured, conditions, **given)
    # There is no decay.
    assert result.headline == f"Only a heuristic: the linear rule is {answer}"
    assert result.text.startswith(f"{result.headline}\n")
    assert repr(result) == f"<ScalingVerdict: {result.headline}>"


@pytest.mark.parametrize(
    ("measured", "answer"),
    [
        (exactly(1.01), "is not ruled out up to batch 385 (×3.01); beyond 385"),
        (exactly(41.0), "is not ruled out below batch 1280, where it ends"),
        # Its interval has no upper end.
        (estimate(n=2.0, g_se=0.6), "); the rule ends below batch 1280"),
    ],
)
def test_a_rule_that_ends_says_where(measured, answer):
    headline = scaling_verdict(measured, keras.optimizers.Adam()).headline
    assert "square-root rule" in headline and answer in headline
    assert "no larger batch" not in headline


def test_verdicts_on_fewer_examples_follow_the_interval():
    measured = estimate(n=0.3, n_se=0.01, g_se=0.03)
    low, high = measured.interval()
    assert 0.2 < low < 0.3 < high < 0.4
    # Less noise in the measured run leaves less to a smaller batch.
    high_end, low_end = (
        min_batch_multiplier(q, C, 0.8, 5e-4) for q in (low, high)
    )
    assert 0.25 < low_end < high_end < 0.45
    kappas = (1, high_end, high_end - 1e-6, low_end, low_end - 1e-6, 1e-6)
    result = judge(measured, kappas=kappas)
    assert list(result.multiplier_verdicts.values()) == [
        Verdict.NOT_RULED_OUT,
        Verdict.NOT_RULED_OUT,
        Verdict.UNDETERMINED,
        Verdict.UNDETERMINED,
        Verdict.RULED_OUT,
        Verdict.RULED_OUT,
    ]
    # C is reached at the end of the interval that the bound is of.
    nearest, _, farthest = result.min_closeness[high_end]
    assert nearest < C == pytest.approx(farthest)
    nearest, _, farthest = result.min_closeness[low_end]
    assert nearest == pytest.approx(C) and C < farthest
    down_to, below = math.ceil(high_end * B), math.ceil(low_end * B)
    assert f"not ruled out from batch {down_to} (×" in result.headline
    assert f"; below {below} (×" in result.headline


@pytest.mark.parametrize(
    "n, verdict",
    [
        (41.0, Verdict.NOT_RULED_OUT),
        (1.0, Verdict.UNDETERMINED),
        (0.2, Verdict.RULED_OUT),
    ],
)
def test_sde_condition(n, verdict):
    assert judge(estimate(n=n, n_se=0.01)).sde_verdict == verdict


def test_unbounded_interval_rules_out_only_what_no_noise_allows():
    result = judge(estimate(g_se=1.0), kappas=(0.1, 2, 100, 2600))
    assert "not told apart from 0" in result.text
    verdicts = list(result.multiplier_verdicts.values())
    # κηλ <= 1 + ηλ/2 at C = √2 whatever N/G is: κ up to 2,500.
    assert verdicts[1:] == ["not ruled out", "undetermined", "ruled out"]
    undecayed = scaling_verdict(
        estimate(g_se=1.0), RunConditions(learning_rate=0.8)
    )
    assert "no larger batch is ruled out" in undecayed.text
    negative = judge(estimate(g=-1.0))
    assert negative.max_multiplier is None
    assert "significantly below 0" in negative.text


SHUFFLED = {"sampling": "shuffle", "num_examples": 1000}
TWO_CODES = ("batch_normalization", "masked_loss")
MOVED = {"G": (1.5, 1.75), "N": (0.9, math.inf)}


@pytest.mark.parametrize(
    ("fields", "of_estimate", "phrases"),
    [
        ({"scale_invariant": False}, {}, ["not scale-invariant"]),
        ({"scale_invariant": None}, {}, ["not known to be scale-invariant"]),
        (
            {"momentum": 0.9},
            {},
            ["0.9: the bound is that of SGD at the effective rate 8,"],
        ),
        (
            {"balance": 1.5, "rest": False},
            {},
            ["not at equilibrium (balance 1.5)"],
        ),
        (
            {"rest": False, "drift": MOVED},
            {},
            [
                "not at equilibrium (balance 1; over the window's halves "
                "G × [1.5, 1.75], N × [0.9, ∞))"
            ],
        ),
        ({"balance": None, "rest": None}, {}, ["not known to be at equilib"]),
        ({"optimizer": kind_of(keras.optimizers.Optimizer)}, {}, ["not Optim"]),
        ({"constant_rate": False}, {}, ["learning rate changes"]),
        ({"all_weights_decayed": False}, {}, ["weights are not decayed"]),
        ({"other_reasons": ("regularizer",)}, {}, ["contains a regularizer"]),
        ({"other_reasons": ("It is {odd}",)}, {}, ["It is {odd}"]),
        ({}, {"sampling": None}, ["drawn is not known"]),
        ({}, {"sampling": "shuffle"}, ["and their number is not known"]),
        ({}, SHUFFLED, ["not small against"]),
        ({}, SHUFFLED | {"num_examples": 10**6}, []),
        (
            {},
            {"assumptions": ("coupled_loss",), "loss_difference": -0.1234},
            ["differs from the mean of its halves' by 12.3%"],
        ),
        (
            {},
            {"assumptions": TWO_CODES, "loss_difference": 0.02},
            [
                "batch normalization saw halves of a batch apart",
                "a mask divides the loss by the entries that a batch keeps",
            ],
        ),
        # What is small is no reason, and stays in the estimate.
        ({}, {"loss_difference": 0.005}, []),
    ],
)
def test_failing_assumptions_are_named(fields, of_estimate, phrases):
    result = judge(estimate(**of_estimate), **fields)
    for reason, phrase in zip(result.heuristic_reasons, phrases, strict=True):
        assert phrase in reason
        assert reason in result.text.split("Only a heuristic, because ")[1]
    assert result.heuristic == bool(phrases)
    is_said = result.headline.startswith("Only a heuristic: the linear rule is")
    assert is_said == bool(phrases)


def test_equilibrium_that_is_not_known_is_said_and_no_heuristic():
    result = judge(estimate(), balance=1.02, rest=None, drift=DRIFT)
    assert not result.heuristic
    assert result.at_equilibrium is None
    assert (
        "At equilibrium: not known (balance 1.02; over the window's halves "
        "G × [0.93, 1.1], N × [0.97, 1.04])"
    ) in result.text


def test_an_optimizer_stands_for_its_hyperparameters():
    class MyAdamW(keras.optimizers.AdamW):
        pass

    optimizer = MyAdamW(1e-3, beta_2=0.99, weight_decay=0.02)
    result = scaling_verdict(estimate(), optimizer, kappas=(0.25, 4, 20))
    # κ <= C² + (C² - 1) q, and no decay in it.
    assert result.rule == "square_root" and result.refusal is None
    assert result.max_multiplier == pytest.approx(2 + 41)
    scaled = scaling.square_root_scaling_rule(
        1e-3, 4, beta_1=0.9, beta_2=0.99, epsilon=1e-7, weight_decay=0.02
    )
    assert result.scaled[4] == pytest.approx(scaled)
    # κ (1 - β₁) is not below 1.
    assert result.scaled[20] is None
    assert result.rule_defined_below == pytest.approx(10)
    # Least C of √((1 + q)/(κ + q)).
    assert result.min_closeness[0.25][1] == pytest.approx(math.sqrt(42 / 41.25))
    assert [reason.code for reason in result.reasons] == [
        "second_moment_steps_unknown"
    ]
    assert "in the norm of MyAdamW" in result.text


def test_conditions_of_an_optimizer():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.4, 10, 0.5)
    sgd = keras.optimizers.SGD(schedule, 0.9, weight_decay=0.01, clipnorm=1.0)
    for optimizer in (sgd, keras.optimizers.LossScaleOptimizer(sgd)):
        conditions = conditions_of(optimizer)
        assert conditions == RunConditions(
            learning_rate=pytest.approx(0.4),
            weight_decay=0.01,
            momentum=0.9,
            constant_rate=False,
            other_reasons=("clipped",),
        )
    rmsprop = keras.optimizers.RMSprop(rho=0.8, momentum=0.5, centered=True)
    conditions = conditions_of(rmsprop)
    assert conditions.adaptive.hyperparameters == {"rho": 0.8, "epsilon": 1e-7}
    codes = [reason.code for reason in conditions.reasons(estimate())]
    assert codes == [
        "second_moment_steps_unknown",
        "centered",
        "adaptive_momentum",
    ]
    assert conditions_of(rmsprop, "linear").adaptive is None
    assert conditions_of(SVAGAdam(ell=4)).ell == 4
    # Without memory, there is none to be shortened.
    no_memory = conditions_of(keras.optimizers.Adam(beta_1=0.0))
    assert "beta_1" not in no_memory.adaptive.hyperparameters


@pytest.mark.parametrize(
    ("ell", "steps", "window", "codes"),
    [
        (1, 999, 2_000, ["second_moment_is_young"]),
        (1, 1_001, 2_000, []),
        (1, 1_001, 990, ["one_stretch"]),
        (2, 2_001, 1_010, ["one_stretch"]),
    ],
)
def test_what_is_short_against_the_memory_of_v_is_named(
    ell, steps, window, codes
):
    # β₂ is 0.999, and SVAGAdam's own is closer to 1 by ell.
    conditions = conditions_of(SVAGAdam(ell=ell))
    adaptive = dataclasses.replace(
        conditions.adaptive,
        second_moment_steps=steps,
        window_steps=window,
        epsilon_ratio=0.5,
    )
    conditions = dataclasses.replace(conditions, adaptive=adaptive)
    reasons = {r.code: str(r) for r in conditions.reasons(estimate())}
    assert list(reasons) == [*codes, "large_epsilon"]
    if "one_stretch" in codes:
        words = f"has {window:,} steps, fewer than the {1000 * ell:,} over"
        assert words in reasons["one_stretch"]


def test_the_compared_runs_are_named():
    assert sentences.compared(judge(estimate())) == (
        "SGD at (κB, κη) against this run of SGD"
    )
    svag_adam = scaling_verdict(estimate(), SVAGAdam(ell=4))
    assert sentences.compared(svag_adam).startswith(
        "Adam at κB by the square-root rule against this run of SVAGAdam with "
        "ell 4"
    )


def test_another_batch_size_restates_the_noise():
    result = judge(estimate(), batch_size=64)
    assert result.batch_size == result.estimate.batch_size == 64
    assert result.noise_to_signal == pytest.approx(82)
    unknown = estimate(batch_size=None)
    with pytest.raises(TypeError, match="`batch_size`.*got None"):
        judge(unknown)
    assert judge(unknown, batch_size=64) == result


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        (
            {"optimizer": kind_of(keras.optimizers.AdamW)},
            "linear_rule_for_adaptive",
            "not for AdamW: for adaptive optimizers use the square-root",
        ),
        ({"momentum": 0.9999}, "diverges", "times weight decay is 4"),
    ],
)
def test_without_a_verdict_the_reason_is_said(fields, code, words):
    result = judge(estimate(), **fields)
    assert result.refusal.code == code
    assert result.headline.startswith("No verdict on the linear rule. ")
    assert set(result.multiplier_verdicts.values()) == {Verdict.UNDETERMINED}
    assert str(result.at(64)).startswith("No verdict on batch 64 (×0.5). ")
    assert result.allows(64) is None
    for sentence in (result.headline, str(result.at(64))):
        assert words in sentence


# Other batch sizes


def test_a_verdict_can_be_asked_about_any_batch_size():
    result = judge(estimate(n=3.0, n_se=0.2, g_se=0.05))
    low, high = result.max_multiplier_low * B, result.max_multiplier_high * B
    for size, allowed in (
        (1, True),
        (B, True),
        (math.floor(low), True),
        (math.ceil(low), None),
        (math.floor(high), None),
        (math.ceil(high), False),
        (10**9, False),
    ):
        assert result.allows(size) is allowed
        run = result.at(size)
        assert (run.batch_size, run.kappa) == (size, size / B)
        assert run.allowed is allowed
        assert run.hyperparameters == {"learning_rate": 0.8 * size / B}
    assert result.at(2 * B) == result.runs[2]


def test_at_another_level_and_closeness():
    measured = estimate(n=3.0, n_se=0.2, g_se=0.05)
    result = judge(measured)
    loose = result.at(1024, closeness=3.0)
    assert loose.allowed is True and result.allows(1024) is False
    assert loose == judge(measured, closeness=3.0).at(1024)
    narrow = result.at(600, level=0.5)
    assert narrow.min_closeness.high < result.at(600).min_closeness.high
    assert narrow.min_closeness.value == result.at(600).min_closeness.value


def test_a_scaled_run_is_one_sentence():
    measured = exactly(3.0)
    conditions = RunConditions(learning_rate=0.8, scale_invariant=True)
    result = scaling_verdict(measured, conditions)
    # √((κ + q)/(1 + q)).
    assert str(result.at(1024)) == (
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
