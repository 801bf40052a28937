"""Bad arguments of the theory and of the estimates."""

import math

import numpy as np

from keras_svag import NoiseEstimate, scaling, svag_weights
from keras_svag.noise.estimate import PairSums
from keras_svag.noise.intervals import student_t_quantile
from keras_svag.noise.pooling import pooled
from keras_svag.noise.sampling import sampling_correction
from keras_svag.scaling.verdict import linear_scaling_verdict
from tests.helpers.refusals import (
    INF,
    NAN,
    NO_COUNT,
    NO_FINITE_NUMBER,
    NO_INTEGER,
    NO_NUMBER,
    NO_STRING,
    NOT_NONNEGATIVE,
    NOT_POSITIVE,
    check_refused,
    refused,
    table,
)

NOT_ABOVE_1 = (*NOT_POSITIVE, 1, 0.5)
NO_KAPPAS = ("24", None, 2, True, (0.5,), (2, NAN), (2, INF), (2, "4"), (True,))
NO_LEVEL = (*NO_NUMBER, 0, 1, -0.5, 95, NAN, INF)
NO_SIZE = ("8", True, [8], 0, -1, 1.5, NAN, INF)
NO_RATIO = ("3", None, True, [1, "a"], 1j, [[1], [1, 2]])
STATE = scaling.EquilibriumStatistics(2.0, 3.0, 4.0)
ESTIMATE = NoiseEstimate(1.0, 5.0, 0.1, 0.5, 0.0, 100, 32)


def optional(values):
    """The values without None."""
    return tuple(value for value in values if value is not None)


def decay_arguments(call, good):
    return [
        *refused(call, good, "learning_rate", optional(NOT_NONNEGATIVE)),
        *refused(call, good, "weight_decay", optional(NOT_NONNEGATIVE)),
    ]


def cases_of_weights():
    good = {"ell": 2, "pairing": "halves"}
    yield from refused(svag_weights, good, "ell", NO_COUNT, says=(">= 1",))
    yield from refused(svag_weights, good, "ell", [10**400])
    yield from refused(
        svag_weights, good, "pairing", (*NO_STRING, "half", "HALVES", {}, [])
    )


def cases_of_bounds():
    call = scaling.min_noise_to_signal
    good = {"closeness": 2.0, "learning_rate": 0.1, "weight_decay": 0.1}
    yield from refused(call, good, "closeness", NOT_ABOVE_1, says=("above 1",))
    yield from refused(call, good, "closeness", [np.ones(2)])
    yield from decay_arguments(call, good)
    yield from refused(call, good, "learning_rate", [20.0], says=("below 2",))

    call, good = scaling.max_batch_multiplier, {"noise_to_signal": 3.0, **good}
    yield from refused(call, good, "noise_to_signal", [*NO_RATIO, -1, [3, -1]])
    yield from refused(call, good, "closeness", NOT_ABOVE_1)
    yield from refused(
        call, good, "form", (*NO_STRING, "tight", ""), says=("'sharp'",)
    )
    yield from decay_arguments(call, good)

    call = scaling.min_scaled_noise_to_signal
    good = {
        "kappa": 2,
        "closeness": 2.0,
        "learning_rate": 0.1,
        "weight_decay": 0.1,
    }
    yield from refused(call, good, "kappa", (*NOT_POSITIVE, 0.5))
    yield from refused(call, good, "kappa", [200], says=("keep kappa below",))
    yield from refused(call, good, "closeness", NOT_ABOVE_1)
    yield from decay_arguments(call, good)

    call = scaling.weight_norm_growth
    good = {"noise_to_signal": 3.0, "kappa": 2, "learning_rate": 0.1}
    yield from refused(call, good, "noise_to_signal", [*NO_RATIO, -1])
    yield from refused(call, good, "kappa", NOT_POSITIVE)
    yield from decay_arguments(call, good)


def cases_of_equilibrium():
    good = {
        "process": "sgd",
        "weight_sq_norm": 1.0,
        "grad_sq_norm": 1.0,
        "noise_trace": 1.0,
        "learning_rate": 0.1,
        "weight_decay": 0.1,
    }
    call = scaling.balance
    yield from refused(call, good, "process", (*NO_STRING, "adam"))
    for name in ("weight_sq_norm", "grad_sq_norm", "noise_trace"):
        yield from refused(call, good, name, NO_RATIO)
    for name in ("learning_rate", "weight_decay"):
        yield from refused(call, good, name, NOT_POSITIVE)
    yield from refused(call, good, "ell", (*NO_NUMBER, 0, 0.5, NAN, -1))

    call, good = scaling.c_closeness, {"first": STATE, "second": STATE}
    yield from refused(call, good, "kappa", (0, -1, NAN, INF))
    yield from refused(call, good, "level", (0, 1, -1, NAN, 95))
    for name in ("weight_sq_norm", "noise_trace"):
        for value in (0, -1.0, NAN, INF):
            values = {"grad_sq_norm": 1.0, name: value}
            bad = scaling.EquilibriumStatistics(
                **{"weight_sq_norm": 1.0, "noise_trace": 1.0, **values}
            )
            yield from refused(
                call, good, "second", [bad], named=name, given=value
            )


def cases_of_rules():
    call = scaling.linear_scaling_rule
    good = {"learning_rate": 0.1, "kappa": 4, "weight_decay": 0.1}
    yield from refused(call, good, "kappa", NOT_POSITIVE)
    yield from refused(call, good, "kappa", [200], says=("keep kappa below",))
    yield from decay_arguments(call, good)
    yield from refused(call, good, "learning_rate", [None])
    yield from refused(call, good, "batch_size", optional(NO_COUNT))
    yield from refused(call, good, "steps", optional((*NO_INTEGER, -1)))
    yield from refused(
        call, {**good, "kappa": 0.3}, "batch_size", [7], says=("whole number",)
    )

    call = scaling.square_root_scaling_rule
    good = {"learning_rate": 0.1, "kappa": 4}
    yield from refused(call, good, "learning_rate", NOT_NONNEGATIVE)
    yield from refused(call, good, "kappa", NOT_POSITIVE)
    for name in ("beta_1", "beta_2", "rho"):
        bad = (*optional(NOT_NONNEGATIVE), 1, 1.5)
        yield from refused(call, good, name, bad)
        yield from refused(call, good, name, [0.5], says=("keep kappa below",))
    for name in ("epsilon", "weight_decay"):
        yield from refused(call, good, name, optional(NOT_NONNEGATIVE))
    yield from refused(call, good, "decoupled", ("yes", None, 1))
    yield from refused(call, good, "batch_size", optional(NO_COUNT))
    yield from refused(call, good, "steps", optional((*NO_INTEGER, -1)))


def cases_of_estimates():
    sums = dict.fromkeys(("sum_g", "sum_n", "sum_gg", "sum_gn", "sum_nn"), 1.0)
    good = {
        "grad_sq_norm": 1.0,
        "noise_trace": 5.0,
        "grad_sq_norm_se": 0.1,
        "noise_trace_se": 0.5,
        "covariance": 0.0,
        "count": 100,
    }
    for name in list(good)[:5]:
        yield from refused(NoiseEstimate, good, name, NO_NUMBER)
    for name in ("grad_sq_norm_se", "noise_trace_se"):
        yield from refused(NoiseEstimate, good, name, [-0.1])
    for name in ("count", "num_skipped"):
        yield from refused(NoiseEstimate, good, name, (*NO_INTEGER, -1))
    for name in (
        "batch_size",
        "num_examples",
        "num_examples_used",
        "degrees_of_freedom",
    ):
        yield from refused(NoiseEstimate, good, name, optional(NO_COUNT))
    yield from refused(
        NoiseEstimate, good, "sampling", optional((*NO_STRING, "random"))
    )
    call, good = NoiseEstimate.from_sums, {"count": 2, **sums}
    yield from refused(call, good, "count", (*NO_FINITE_NUMBER, -1))
    for method in (ESTIMATE.interval, ESTIMATE.grad_sq_norm_sign):
        yield from refused(method, {}, "level", NO_LEVEL)
    yield from refused(ESTIMATE.describe, {}, "level", NO_LEVEL)
    good = {"level": 0.95, "dof": 3}
    yield from refused(student_t_quantile, good, "dof", (0, 1.5, NAN, INF, "3"))
    yield from refused(
        PairSums.of,
        {"noise_trace": np.ones(3)},
        "grad_sq_norm",
        [np.ones(2)],
        says=("2 and 3 values",),
        given=2,
    )
    good = {
        "sampling": "shuffle",
        "num_examples": 100,
        "batch_size": 8,
        "sub_batch_size": 4,
    }
    call = sampling_correction
    yield from refused(call, good, "sampling", (*NO_STRING, "random", []))
    for name in ("num_examples", "batch_size", "sub_batch_size"):
        yield from refused(call, good, name, NO_SIZE)
    yield from refused(call, good, "num_examples", [1], says=("at least 2",))
    yield from refused(call, good, "batch_size", [101], says=("at most",))
    good["sampling"] = "without_replacement"
    yield from refused(call, good, "sub_batch_size", [100], says=("below",))
    yield from refused(pooled, {}, "estimates", [[]], given="none")


def cases_of_verdicts():
    call = linear_scaling_verdict
    good = {"estimate": ESTIMATE, "learning_rate": 0.1, "weight_decay": 0.01}
    yield from refused(call, good, "learning_rate", NOT_NONNEGATIVE)
    yield from refused(call, good, "weight_decay", optional(NOT_NONNEGATIVE))
    yield from refused(call, good, "batch_size", (0, -1, NAN, INF, "32", True))
    yield from refused(call, good, "batch_size", [64], says=("32",))
    yield from refused(call, good, "closeness", NOT_ABOVE_1)
    yield from refused(call, good, "kappas", NO_KAPPAS)
    yield from refused(call, good, "level", NO_LEVEL)


@table(
    cases_of_weights(),
    cases_of_bounds(),
    cases_of_equilibrium(),
    cases_of_rules(),
    cases_of_estimates(),
    cases_of_verdicts(),
)
def test_bad_argument_is_one_sentence(case, tmp_path):
    check_refused(case, tmp_path)


def test_unknown_ratios_stay_unknown():
    # NaN is an answer of a measurement, not a mistake.
    assert math.isnan(scaling.max_batch_multiplier(NAN, 2.0))
