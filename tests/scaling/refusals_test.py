"""Bad arguments of the theory."""

import dataclasses
import math

import numpy as np

from keras_svag import NoiseEstimate, scaling
from keras_svag.arguments import is_number
from keras_svag.scaling.bounds import min_batch_multiplier
from keras_svag.scaling.conditions import RunConditions, at_rest
from keras_svag.scaling.verdict import scaling_verdict
from tests.helpers.refusals import (
    INF,
    NAN,
    NO_COUNT,
    NO_INTEGER,
    NO_NUMBER,
    NO_STRING,
    NOT_NONNEGATIVE,
    NOT_POSITIVE,
    check_refused,
    refused,
    refused_numbers,
    table,
)

NOT_ABOVE_1 = (*NOT_POSITIVE, 1, 0.5)
NO_KAPPAS = (0, -1, NAN, INF, True, None, "4")
NO_LEVEL = (*NO_NUMBER, 0, 1, -0.5, 95, NAN, INF)
STATE = scaling.EquilibriumStatistics(2.0, 3.0, 4.0)
ESTIMATE = NoiseEstimate(1.0, 160.0, 0.1, 16.0, 0.0, 100, 32)


def optional(values):
    """The values without None."""
    return tuple(value for value in values if value is not None)


def decay_arguments(call, good):
    return [
        *refused_numbers(
            call, good, "learning_rate", optional(NOT_NONNEGATIVE)
        ),
        *refused_numbers(call, good, "weight_decay", optional(NOT_NONNEGATIVE)),
    ]


def cases_of_bounds():
    call = scaling.min_noise_to_signal
    good = {"closeness": 2.0, "learning_rate": 0.1, "weight_decay": 0.1}
    yield from refused_numbers(
        call, good, "closeness", NOT_ABOVE_1, says=("> 1",)
    )
    yield from refused_numbers(call, good, "closeness", [np.ones(2)])
    yield from decay_arguments(call, good)
    yield from refused_numbers(
        call, good, "learning_rate", [20.0], says=("below 2",)
    )

    call, good = scaling.max_batch_multiplier, {"noise_to_signal": 3.0, **good}
    yield from refused_numbers(call, good, "noise_to_signal", [-1])
    yield from refused(call, good, "noise_to_signal", [[3, -1]])
    yield from refused_numbers(call, good, "closeness", NOT_ABOVE_1)
    yield from refused(
        call, good, "form", (*NO_STRING, "tight", ""), says=("'sharp'",)
    )
    yield from decay_arguments(call, good)

    call = scaling.min_closeness
    good = {"noise_to_signal": 3.0, "kappa": 2, "learning_rate": 0.1}
    yield from refused_numbers(call, good, "noise_to_signal", [-1])
    yield from refused_numbers(call, good, "kappa", NOT_POSITIVE)
    yield from decay_arguments(call, good)

    for call, last in (
        (scaling.max_batch_multiplier, {"closeness": 2.0}),
        (min_batch_multiplier, {"closeness": 2.0}),
        (scaling.min_closeness, {"kappa": 2}),
    ):
        good = {"noise_to_signal": 3.0, **last}
        yield from refused_numbers(call, good, "ell", (0, 0.5, -1, NAN, "2"))
        yield from refused_numbers(call, good, "balance", NOT_POSITIVE)


def cases_of_equilibrium():
    good = {
        "process": "sgd",
        "weight_sq_norm": 1.0,
        "grad_sq_norm": 1.0,
        "noise_trace": 1.0,
        "learning_rate": 0.1,
        "weight_decay": 0.1,
    }
    call = scaling.equilibrium_balance
    yield from refused(call, good, "process", (*NO_STRING, "adam"))
    for name in ("learning_rate", "weight_decay"):
        yield from refused_numbers(call, good, name, NOT_POSITIVE)
    yield from refused_numbers(call, good, "ell", (*NO_NUMBER, 0, 0.5, NAN, -1))

    good = {"balance": 1.0, "grad_sq_norms": [1.0], "noise_traces": [1.0]}
    good["closeness"] = 2.0
    yield from refused_numbers(at_rest, good, "closeness", NOT_ABOVE_1)

    call, good = scaling.c_closeness, {"first": STATE, "second": STATE}
    yield from refused_numbers(call, good, "kappa", (0, -1, NAN, INF))
    for name in ("weight_sq_norm", "noise_trace"):
        for value in (0, -1.0, NAN, INF):
            values = {"grad_sq_norm": 1.0, name: value}
            bad = scaling.EquilibriumStatistics(
                **{"weight_sq_norm": 1.0, "noise_trace": 1.0, **values}
            )
            yield from refused(
                call, good, "second", [bad], named=name, given=value
            )

    call, good = scaling.predict_closeness, {"statistics": {1: STATE, 2: STATE}}
    yield from refused(call, good, "statistics", [{}, {2: STATE}], given="of")
    yield from refused(call, good, "statistics", [[STATE, STATE]], TypeError)
    yield from refused_numbers(call, good, "level", NO_LEVEL)
    for name, value in (("grad_sq_norm", -1.0), ("noise_trace", NAN)):
        bad = dataclasses.replace(STATE, **{name: value})
        yield from refused(
            call,
            good,
            "statistics",
            [{1: STATE, 2: bad}],
            named=name,
            given=value,
        )
    prediction = scaling.predict_closeness({1: STATE, 2: STATE})
    yield from refused_numbers(
        prediction.max_batch_multiplier, {}, "closeness", NOT_ABOVE_1
    )
    good = {"closeness": 2.0}
    yield from refused_numbers(
        prediction.max_batch_multiplier, good, "reference", NOT_NONNEGATIVE
    )
    call, good = prediction.closeness, {"kappa": 2.0}
    yield from refused_numbers(call, good, "kappa", (-5, "1", None, NAN, INF))
    yield from refused(call, good, "kappa", [np.array([2.0, -5.0])], given=-5.0)
    yield from refused_numbers(call, good, "reference", NOT_NONNEGATIVE)


def cases_of_rules():
    call = scaling.linear_scaling_rule
    good = {"learning_rate": 0.1, "kappa": 4, "weight_decay": 0.1}
    yield from refused_numbers(call, good, "kappa", NOT_POSITIVE)
    yield from refused_numbers(
        call, good, "kappa", [200], says=("keep kappa below",)
    )
    yield from decay_arguments(call, good)
    yield from refused_numbers(call, good, "learning_rate", [None])
    yield from refused_numbers(call, good, "batch_size", optional(NO_COUNT))
    yield from refused_numbers(call, good, "steps", optional((*NO_INTEGER, -1)))
    yield from refused(
        call, {**good, "kappa": 0.3}, "batch_size", [7], says=("whole number",)
    )

    call = scaling.square_root_scaling_rule
    good = {"learning_rate": 0.1, "kappa": 4}
    yield from refused_numbers(call, good, "learning_rate", NOT_NONNEGATIVE)
    yield from refused_numbers(call, good, "kappa", NOT_POSITIVE)
    for name in ("beta_1", "beta_2", "rho"):
        bad = (*optional(NOT_NONNEGATIVE), 1, 1.5)
        yield from refused_numbers(call, good, name, bad)
        yield from refused_numbers(
            call, good, name, [0.5], says=("keep kappa below",)
        )
    for name in ("epsilon", "weight_decay"):
        yield from refused_numbers(call, good, name, optional(NOT_NONNEGATIVE))
    yield from refused_numbers(call, good, "batch_size", optional(NO_COUNT))
    yield from refused_numbers(call, good, "steps", optional((*NO_INTEGER, -1)))


def cases_of_verdicts():
    call = scaling_verdict
    conditions = RunConditions(learning_rate=0.1, weight_decay=0.01)
    good = {"estimate": ESTIMATE, "conditions": conditions}
    yield from refused_numbers(
        call, good, "batch_size", (0, -1, NAN, INF, "32", True)
    )
    yield from refused_numbers(call, good, "closeness", NOT_ABOVE_1)
    yield from refused(call, good, "kappas", ("24", None, 2, True), TypeError)
    for kappa in NO_KAPPAS:
        error = ValueError if is_number(kappa) else TypeError
        yield from refused(
            call, good, "kappas", [(2, kappa)], error, given=kappa
        )
    yield from refused_numbers(call, good, "level", NO_LEVEL)
    yield from refused(call, good, "conditions", ["sgd", None], TypeError)


@table(
    cases_of_bounds(),
    cases_of_equilibrium(),
    cases_of_rules(),
    cases_of_verdicts(),
)
def test_bad_argument_is_one_sentence(case, tmp_path):
    check_refused(case, tmp_path)


def test_unknown_ratios_stay_unknown():
    # NaN is an answer of a measurement, not a mistake.
    assert math.isnan(scaling.max_batch_multiplier(NAN, 2.0))
