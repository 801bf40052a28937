"""Bad arguments of the optimizer, the models, the probe and the check."""

import keras
import numpy as np
import pytest

import keras_svag
from tests.helpers.refusals import (
    INF,
    NAN,
    NO_BOOLEAN,
    NO_COUNT,
    NO_STRING,
    NOT_NONNEGATIVE,
    NOT_POSITIVE,
    check_refused,
    refused,
    table,
)
from tests.helpers.small_problems import dense_network, regression

X, Y = regression(16)
MODEL = dense_network()
MODEL.compile("sgd", "mse")
UNCOMPILED = dense_network()
SIZES = ("batch_size", "num_examples", "sub_batch_size")
NO_SAMPLING = (*NO_STRING, "random", "SHUFFLE", [], {})
NO_KAPPAS = ("24", None, 2, True, (0.5,), (2, NAN), (2, INF), (2, "4"), (True,))
NO_MODEL = (None, "model", 3, dict, keras.layers.Dense(2), [])


def optional(values):
    """The values without None."""
    return tuple(value for value in values if value is not None)


def cases_of_svag():
    call, good = keras_svag.SVAG, {"learning_rate": 0.1, "ell": 2}
    yield from refused(call, good, "ell", NO_COUNT)
    yield from refused(call, good, "learning_rate", NOT_NONNEGATIVE[:3])
    yield from refused(call, good, "learning_rate", NOT_NONNEGATIVE[5:])
    yield from refused(call, good, "weight_decay", optional(NOT_NONNEGATIVE))
    yield from refused(call, good, "pairing", (*NO_STRING, "both", [], {}))
    for name, value in (
        ("momentum", 0.9),
        ("nesterov", True),
        ("clipnorm", 1.0),
        ("clipvalue", 1.0),
        ("global_clipnorm", 1.0),
        ("use_ema", True),
        ("gradient_accumulation_steps", 2),
    ):
        yield from refused(call, good, name, [value], says=("leave it out",))


def cases_of_models():
    call, good = keras_svag.SVAGModel, {"model": MODEL}
    yield from refused(call, good, "model", NO_MODEL, TypeError)
    yield from refused(call, good, "sampling", NO_SAMPLING)
    yield from refused(call, good, "num_examples", optional(NO_COUNT))
    call = keras_svag.NGDModel
    good = {"model": MODEL, "batch_size": 4, "micro_batch_size": 8}
    yield from refused(call, good, "model", NO_MODEL, TypeError)
    for name in ("batch_size", "micro_batch_size"):
        yield from refused(call, good, name, NO_COUNT)


def cases_of_the_metric():
    call = keras_svag.GradientNoise
    for name in SIZES:
        yield from refused(call, {}, name, optional(NO_COUNT))
    good = {"batch_size": 8}
    yield from refused(call, good, "num_examples", [7], says=(">= 8",))
    yield from refused(call, good, "sampling", NO_SAMPLING)
    yield from refused(
        call, good, "sampling", ["without_replacement"], says=("num_examples",)
    )
    yield from refused(call, good, "layers", ["ab", 3, True, [1]])
    yield from refused(
        keras_svag.GradientNoise(layers=["a", "b"]).update_state,
        {"noise_trace": np.ones(3)},
        "grad_sq_norm",
        [np.ones(3)],
        given="(3,)",
    )
    yield from refused(
        keras_svag.GradientNoise().update_state,
        {"noise_trace": np.ones(3)},
        "grad_sq_norm",
        [np.ones(2)],
        given="(2,)",
    )


def cases_of_the_probe():
    call = keras_svag.measure_gradient_noise
    good = {
        "model": MODEL,
        "dataset": (X, Y),
        "batch_size": 4,
        "num_batches": 4,
        "verbose": 0,
    }
    yield from refused(call, good, "model", NO_MODEL, TypeError)
    for data in (None, X, "data", 3, {"x": X, "y": Y}, (), (X, Y, Y, Y)):
        yield from refused(call, good, "dataset", [data], TypeError)
    for data, shown in (
        ((X[:0], Y[:0]), "(0, 4)"),
        ((X, Y[:-1]), "(15, 2)"),
        ((X[None], Y[None]), "(16, 4)"),
        ((X[:3], Y[:3]), 3),
        ((), None),
    )[:-1]:
        yield from refused(call, good, "dataset", [data], given=shown)
    yield from refused(call, good, "batch_size", NO_COUNT)
    yield from refused(call, good, "num_batches", (*NO_COUNT, 1))
    yield from refused(call, good, "rtol", optional(NOT_POSITIVE))
    yield from refused(call, good, "seed", ("1", 1.5, True, [1]), TypeError)
    yield from refused(call, good, "seed", [2**64])
    yield from refused(call, good, "verbose", (3, -1, "yes", None, [1]))
    yield from refused(call, good, "per_layer", NO_BOOLEAN)
    yield from refused(call, good, "sampling", NO_SAMPLING)
    yield from refused(
        call, {**good, "model": UNCOMPILED}, "loss", [None], given="no loss"
    )


def cases_of_the_check():
    call, good = keras_svag.LinearScalingRuleCheck, {"batch_size": 8}
    yield from refused(call, good, "batch_size", NO_COUNT)
    yield from refused(call, good, "closeness", (*NOT_POSITIVE, 1, 0.5))
    yield from refused(call, good, "kappas", NO_KAPPAS)
    yield from refused(call, good, "window", optional(NO_COUNT))
    yield from refused(call, good, "num_examples", optional((*NO_COUNT, 7)))
    yield from refused(call, good, "probe_every", NO_COUNT)
    yield from refused(call, good, "probe_batches", (*NO_COUNT, 3))
    yield from refused(call, good, "rtol", optional(NOT_POSITIVE))
    yield from refused(call, good, "log_dir", (3, True, ["a"], NAN))
    yield from refused(call, good, "per_layer", NO_BOOLEAN)
    yield from refused(call, good, "verbose", ("yes", None, -1, 2, 0.5))
    yield from refused(call, good, "scale_invariant", ("yes", 1, 0.5))
    yield from refused(
        call(8).load_state_dict,
        {},
        "state",
        [None, {}, {"batch_size": 8}, {"batch_size": 8, "epochs": [{}]}, "x"],
    )


def cases_of_invariance():
    call, good = keras_svag.is_scale_invariant, {"model": MODEL, "x": X}
    yield from refused(call, good, "model", NO_MODEL, TypeError)
    yield from refused(call, good, "rtol", optional(NOT_POSITIVE))
    yield from refused(call, good, "x", [X[:0]], given="(0, 4)")
    yield from refused(call, good, "x", [X[:, :3]], given="(16, 3)")
    yield from refused(call, good, "x", ["x", None])


@table(
    cases_of_svag(),
    cases_of_models(),
    cases_of_the_metric(),
    cases_of_the_probe(),
    cases_of_the_check(),
    cases_of_invariance(),
)
def test_bad_argument_is_one_sentence(case, tmp_path):
    check_refused(case, tmp_path)


def test_the_arguments_are_otherwise_good():
    # A row could be refused for another argument than the bad one.
    keras_svag.SVAG(0.1, ell=2)
    keras_svag.LinearScalingRuleCheck(8)
    keras_svag.measure_gradient_noise(MODEL, (X, Y), 4, 4, verbose=0)
    with pytest.raises(ValueError, match="`rtol`"):
        keras_svag.is_scale_invariant(MODEL, X, rtol="1")
