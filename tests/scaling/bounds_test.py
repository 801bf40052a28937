import dataclasses
import json
import math

import numpy as np
import pytest

from keras_svag import scaling
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.scaling.conditions import (
    RunConditions,
    linear_scaling_refusal,
)
from keras_svag.scaling.verdict import Verdict, scaling_verdict

C = 2**0.5


def sharp_condition_holds(kappa, q, closeness, decay):
    """κ <= C²ρ + (C²ρ - 1) q, unsolved."""
    squared = closeness**2 * (2 - kappa * decay) / (2 - decay)
    return kappa <= squared + (squared - 1) * q


@pytest.mark.parametrize("closeness", [1.05, C, 2.0, 5.0])
@pytest.mark.parametrize("decay", [0.0, 4e-4, 0.1, 1.5])
@pytest.mark.parametrize("q", [0.0, 0.3, 1.0, 41.0, 1e4])
def test_max_batch_multiplier_solves_the_condition(closeness, decay, q):
    low, high = 1.0, 2 / decay if decay else 1e9
    assert sharp_condition_holds(low, q, closeness, decay)
    for _ in range(200):
        middle = (low + high) / 2
        if sharp_condition_holds(middle, q, closeness, decay):
            low = middle
        else:
            high = middle
    bound = scaling.max_batch_multiplier(q, closeness, decay, 1.0)
    assert bound == pytest.approx(low, rel=1e-9)


def test_max_batch_multiplier_in_closed_form():
    assert scaling.max_batch_multiplier(41, C) == pytest.approx(43)
    loose = scaling.max_batch_multiplier(41, C, 0.8, 5e-4, form="loose")
    assert loose == pytest.approx(84)
    assert isinstance(loose, float)


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


@pytest.mark.parametrize("q", [0.5, 41.0])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_bound_is_attained_and_not_exceeded(q, decay):
    # The most favourable large run: R' = C R, G' = G / C, κN' = N / C.
    kappa = scaling.max_batch_multiplier(q, C, decay, 1.0)
    weight_decay = decay or 1e-12
    base = scaling.EquilibriumStatistics(
        weight_sq_norm=(1 + q) / ((2 - weight_decay) * weight_decay),
        grad_sq_norm=1.0,
        noise_trace=q,
    )
    assert scaling.balance(
        "sgd", base.weight_sq_norm, 1.0, q, 1.0, weight_decay
    ) == pytest.approx(1)

    def best_large_run(factor):
        # G' and κN' as small as C allows; equilibrium then gives R'.
        g, n = 1 / C, q / C / factor
        r = factor * (g + n) / ((2 - factor * weight_decay) * weight_decay)
        run = scaling.EquilibriumStatistics(r, g, n)
        assert scaling.balance(
            "sgd", r, g, n, factor, weight_decay
        ) == pytest.approx(1)
        return scaling.c_closeness(base, run, kappa=factor)

    attained = best_large_run(kappa)
    assert attained.value == pytest.approx(C, rel=1e-6)
    assert attained.low == pytest.approx(attained.high)
    # Any larger G' or N' makes R' larger still, so this is the best above it.
    assert best_large_run(kappa * 1.01).value > C * 1.001


def test_min_noise_to_signal():
    assert scaling.min_noise_to_signal(C) == pytest.approx(1)
    assert scaling.min_noise_to_signal(2) == pytest.approx(1 / 3)
    sharper = scaling.min_noise_to_signal(C, 0.5, 0.4)
    # SGD and its SDE with equal G, N' = N C and R' = R / C balance there.
    q, u = sharper, 0.2
    assert (1 + q) / (2 - u) == pytest.approx(C**2 * q / 2)
    assert scaling.min_noise_to_signal(1.1, 1.0, 1.0) == math.inf


def test_min_closeness_in_closed_form():
    kappa = 4.0
    assert scaling.min_closeness(3.0, kappa) == pytest.approx((7 / 4) ** 0.5)
    assert scaling.min_closeness(math.inf, kappa) == 1
    least = scaling.min_closeness(np.array([0.0, math.inf]), kappa)
    np.testing.assert_allclose(least, [2, 1])
    # ρ = (2 - 4 * 0.1) / (2 - 0.1).
    with_decay = scaling.min_closeness(math.inf, kappa, 0.5, 0.2)
    assert with_decay == pytest.approx((1.9 / 1.6) ** 0.5)
    assert scaling.min_closeness(3.0, 20.0, 0.5, 0.2) == math.inf
    assert math.isnan(scaling.min_closeness(math.nan, kappa))


def test_balance_of_every_process():
    r, g, n, rate, decay, ell = 3.0, 2.0, 5.0, 0.5, 0.1, 4
    arguments = r, g, n, rate, decay
    u = rate * decay
    for process in ("sgd", "NGD"):
        assert scaling.balance(process, *arguments) == pytest.approx(
            (2 - u) * decay * r / (rate * (g + n))
        )
    assert scaling.balance("svag", *arguments, ell) == pytest.approx(
        (2 - u / ell) * decay * r / (rate * (n + g / ell))
    )
    assert scaling.balance("sde", *arguments) == pytest.approx(
        2 * decay * r / (rate * n)
    )
    assert scaling.balance("svag", *arguments, 1) == pytest.approx(
        scaling.balance("sgd", *arguments)
    )
    limit = scaling.balance("svag", *arguments, 10**9)
    assert limit == pytest.approx(scaling.balance("sde", *arguments))


def test_linear_scaling_rule():
    assert scaling.linear_scaling_rule(
        0.8, 4, weight_decay=5e-4, batch_size=128, steps=1000
    ) == {
        "learning_rate": 3.2,
        "weight_decay": 5e-4,
        "batch_size": 512,
        "steps": 250,
    }


def test_square_root_scaling_rule():
    scaled = scaling.square_root_scaling_rule(
        1e-3,
        4,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        weight_decay=0.01,
        batch_size=128,
        steps=1000,
    )
    assert scaled == pytest.approx(
        {
            "learning_rate": 2e-3,
            "beta_1": 0.6,
            "beta_2": 0.996,
            "epsilon": 5e-8,
            "weight_decay": 0.02,
            "batch_size": 512,
            "steps": 250,
        }
    )
    coupled = scaling.square_root_scaling_rule(
        1e-3, 4, rho=0.9, weight_decay=0.01, decoupled=False
    )
    assert coupled == pytest.approx(
        {"learning_rate": 2e-3, "rho": 0.6, "weight_decay": 0.01}
    )


def test_c_closeness_is_the_largest_ratio():
    first = scaling.EquilibriumStatistics(1.0, 2.0, 8.0)
    second = scaling.EquilibriumStatistics(1.2, 1.0, 3.0)
    result = scaling.c_closeness(first, second, kappa=2)
    assert result.value == result.low == result.high == 2.0
    assert result.ratios["noise_trace"][0] == pytest.approx(0.75)
    unknown = dataclasses.replace(second, grad_sq_norm=0.1, grad_sq_norm_se=1)
    assert scaling.c_closeness(first, unknown).high == math.inf


def test_interval_of_c_closeness_covers():
    rng = np.random.default_rng(0)
    truth = np.array([[1.0, 2.0, 8.0], [1.3, 1.3, 5.0]])
    errors = 0.05 * truth
    covered = []
    for _ in range(1000):
        runs = [
            scaling.EquilibriumStatistics(*means, *se)
            for means, se in zip(rng.normal(truth, errors), errors, strict=True)
        ]
        result = scaling.c_closeness(*runs)
        covered.append(result.low <= 1.6 <= result.high)
        assert result.low <= result.value <= result.high
    # At least 95%, less three standard errors of 1,000 runs.
    assert np.mean(covered) >= 0.93


def estimate(g=1.0, n=41.0, g_se=0.125, **fields):
    given = {"batch_size": 128, "sampling": "with_replacement"} | fields
    return NoiseEstimate(g, n, g_se, 1.0, 0.0, 2000, **given)


def judge(measured, **fields):
    given = {"balance": 1.0, "scale_invariant": True, "drift": ()} | fields
    settings = {
        name: given.pop(name)
        for name in ("kappas", "batch_size", "closeness")
        if name in given
    }
    conditions = RunConditions(learning_rate=0.8, weight_decay=5e-4, **given)
    return scaling_verdict(measured, conditions, **settings)


def test_verdict_reads_like_a_sentence():
    assert judge(estimate()).text == (
        "batch 128, learning rate 0.8: N/G = 41 [33, 55]; the linear scaling "
        "rule is not ruled out up to batch 4,400, ruled out beyond 7,100 "
        "(point estimate 5,400); at equilibrium: yes (balance 1.00)"
    )


def test_verdicts_follow_the_interval():
    measured = estimate()
    low, high = measured.interval()
    ends = [scaling.max_batch_multiplier(q, C, 0.8, 5e-4) for q in (low, high)]
    kappas = (1, ends[0], ends[0] + 1e-6, ends[1], ends[1] + 1e-6, 1e6)
    result = judge(measured, kappas=kappas)
    assert list(result.multiplier_verdicts.values()) == [
        Verdict.NOT_RULED_OUT,
        Verdict.NOT_RULED_OUT,
        Verdict.UNDETERMINED,
        Verdict.UNDETERMINED,
        Verdict.RULED_OUT,
        Verdict.RULED_OUT,
    ]
    assert result.not_ruled_out_up_to == ends[0] * 128
    assert result.ruled_out_beyond == ends[1] * 128
    assert not result.heuristic


@pytest.mark.parametrize(
    "n, verdict",
    [
        (41.0, Verdict.NOT_RULED_OUT),
        (1.0, Verdict.UNDETERMINED),
        (0.2, Verdict.RULED_OUT),
    ],
)
def test_sde_condition(n, verdict):
    measured = dataclasses.replace(estimate(n=n), noise_trace_se=0.01)
    assert judge(measured).sde_verdict == verdict


def test_unbounded_interval_rules_out_only_what_no_noise_allows():
    result = judge(estimate(g_se=1.0), kappas=(2, 100, 2600))
    assert "not told apart from 0" in result.text
    verdicts = list(result.multiplier_verdicts.values())
    # κηλ <= 1 + ηλ/2 at C = √2 whatever N/G is: κ up to 2,500.
    assert verdicts == ["not ruled out", "undetermined", "ruled out"]
    undecayed = scaling_verdict(estimate(g_se=1.0), RunConditions("SGD", 0.8))
    assert "no larger batch is ruled out" in undecayed.text
    negative = judge(estimate(g=-1.0))
    assert negative.max_multiplier is None
    assert "significantly below 0" in negative.text


@pytest.mark.parametrize(
    "fields, phrase",
    [
        ({"scale_invariant": False}, "not scale-invariant"),
        ({"scale_invariant": None}, "not known to be scale-invariant"),
        ({"momentum": 0.9}, "momentum is 0.9"),
        ({"balance": 1.5}, "not at equilibrium (balance 1.50)"),
        ({"balance": None}, "not known to be at equilibrium"),
        ({"drift": None}, "not known to be at equilibrium"),
        ({"drift": ("G moves",)}, "equilibrium (balance 1.00; G moves)"),
        ({"batch_norm_halves": True}, "batch normalization"),
        ({"optimizer": "Other"}, "not Other"),
    ],
)
def test_failing_assumptions_are_named(fields, phrase):
    result = judge(estimate(), **fields)
    assert result.heuristic
    assert len(result.heuristic_reasons) == 1
    assert phrase in result.heuristic_reasons[0]
    assert "Only a heuristic: " in result.text


def test_failing_assumptions_about_the_data_are_named():
    for fields, phrase in [
        ({"sampling": None}, "not known"),
        ({"sampling": "shuffle"}, "shuffled and their number is not known"),
        (
            {
                "sampling": "shuffle",
                "num_examples": 1000,
                "corrected_for_sampling": True,
            },
            "not small against",
        ),
        ({"sampling": "without_replacement"}, "not corrected"),
    ]:
        (reason,) = judge(estimate(**fields)).heuristic_reasons
        assert phrase in reason
    large = estimate(
        sampling="shuffle", num_examples=10**6, corrected_for_sampling=True
    )
    assert not judge(large).heuristic
    undecayed = scaling_verdict(
        estimate(), RunConditions("SGD", 0.8, scale_invariant=True)
    )
    assert "no weight decay" in undecayed.heuristic_reasons[0]


@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop", "adam", "Lion"])
def test_adaptive_optimizers_are_refused_a_verdict(name):
    assert "square_root_scaling_rule" in linear_scaling_refusal(name)
    result = judge(estimate(), optimizer=name)
    assert result.refusal
    assert "no verdict" in result.text
    assert set(result.multiplier_verdicts.values()) == {Verdict.UNDETERMINED}
    assert linear_scaling_refusal("SGD") is None


def test_zero_gradients_and_skipped_steps_are_said():
    zero = NoiseEstimate(0.0, 0.0, 0.0, 0.0, 0.0, 50, 128)
    text = judge(zero).text
    assert "N/G is undefined: every gradient was exactly zero" in text
    assert "no verdict" in text
    assert (
        "3 observations were not finite" in judge(estimate(num_skipped=3)).text
    )


def test_verdict_to_dict_is_strict_json():
    result = judge(estimate(g_se=1.0, num_skipped=3), kappas=(2, 1000))
    saved = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert saved["noise_to_signal_high"] is None
    assert saved["multiplier_verdicts"] == {
        "2": "not ruled out",
        "1000": "undetermined",
    }
    assert saved["text"] == result.text
    assert "safe" not in json.dumps(saved).lower()
