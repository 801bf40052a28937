"""Bad arguments of the optimizer, the models, the probe and the check."""

import keras
import numpy as np
import tensorflow as tf

import keras_svag
from tests.helpers.refusals import (
    INF,
    NAN,
    NO_COUNT,
    NO_INTEGER,
    NO_STRING,
    NOT_NONNEGATIVE,
    NOT_POSITIVE,
    check_refused,
    refused,
    refused_numbers,
    table,
)
from tests.helpers.small_problems import dense_network, regression

X, Y = regression(16)
MODEL = dense_network()
MODEL.compile("sgd", "mse")
UNCOMPILED = dense_network()
NO_SAMPLING = (*NO_STRING, "random", "SHUFFLE", [], {})
NO_MODEL = (None, "model", 3, dict, keras.layers.Dense(2), [])


def optional(values):
    """The values without None."""
    return tuple(value for value in values if value is not None)


def cases_of_svag():
    call, good = keras_svag.SVAG, {"learning_rate": 0.1, "ell": 2}
    yield from refused_numbers(call, good, "ell", NO_COUNT)
    # Keras takes a dict for a schedule's configuration.
    rates = [value for value in NOT_NONNEGATIVE if value != {}]
    yield from refused_numbers(call, good, "learning_rate", rates)
    decays = optional(NOT_NONNEGATIVE)
    yield from refused_numbers(call, good, "weight_decay", decays)
    yield from refused(call, good, "pairing", (*NO_STRING, "both", [], {}))
    for name, value, why in (
        ("momentum", 0.9, "without momentum"),
        ("nesterov", True, "without momentum"),
        ("clipnorm", 1.0, "biases"),
        ("clipvalue", 1.0, "biases"),
        ("global_clipnorm", 1.0, "biases"),
        ("use_ema", True, "average"),
        ("gradient_accumulation_steps", 2, "pairs"),
    ):
        yield from refused(call, good, name, [value], says=("left out", why))


def cases_of_weights():
    call, good = keras_svag.svag_weights, {"ell": 2, "pairing": "halves"}
    yield from refused_numbers(call, good, "ell", NO_COUNT, says=(">= 1",))
    yield from refused(
        call, good, "pairing", (*NO_STRING, "half", "HALVES", {}, [])
    )


def cases_of_models():
    call = keras_svag.SVAGModel
    yield from refused(call, {}, "model", NO_MODEL, TypeError)
    for measure_noise in (True, False):
        good = {"model": MODEL, "measure_noise": measure_noise}
        yield from refused(call, good, "sampling", NO_SAMPLING)
        sizes = (*optional(NO_COUNT), 1)
        yield from refused_numbers(call, good, "num_examples", sizes)
    call = keras_svag.NGDModel
    good = {"model": MODEL, "batch_size": 4, "micro_batch_size": 8}
    yield from refused(call, good, "model", NO_MODEL, TypeError)
    for name in ("batch_size", "micro_batch_size"):
        yield from refused_numbers(call, good, name, NO_COUNT)
    yield from refused_numbers(call, good, "seed", (*optional(NO_INTEGER), -1))


def cases_of_the_metric():
    call = keras_svag.GradientNoise
    for name in ("batch_size", "num_examples"):
        yield from refused_numbers(call, {}, name, optional(NO_COUNT))
    good = {"batch_size": 8}
    yield from refused(call, good, "num_examples", [7], says=(">= 8",))
    yield from refused(call, good, "sampling", NO_SAMPLING)
    good["sampling"] = "without_replacement"
    yield from refused(call, good, "num_examples", [None], TypeError)
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
    once = (batch for batch in [(X, Y)])
    for data in (None, "data", 3, dict, MODEL, (), (X, Y, Y, Y), once):
        yield from refused(call, good, "dataset", [data], TypeError)
    slices = tf.data.Dataset.from_tensor_slices((X, Y))
    ragged = tf.ragged.constant([[1.0], [1.0, 2.0]])
    for data, why, given in (
        (X, "targets y", "x alone"),
        ({"x": X, "y": Y}, "targets y", "x alone"),
        (slices.batch(4).take(2), "at least", "8"),
        (slices.batch(4).repeat(), "finite", "infinite"),
        (slices.batch(4).batch(2), "as many axes", "(None, None, 4)"),
        (slices.take(0), "must have examples", "empty"),
        ((X, ragged), "dense", "RaggedTensor"),
        (lambda: iter([(X, Y[:5])]), "number of rows", "(5, 2)"),
    ):
        arguments = {**good, "batch_size": 9}
        yield from refused(
            call, arguments, "dataset", [data], says=(why,), given=given
        )
    yield from refused_numbers(call, good, "batch_size", NO_COUNT)
    yield from refused_numbers(call, good, "num_batches", (*NO_COUNT, 1))
    yield from refused_numbers(call, good, "rtol", optional(NOT_POSITIVE))
    yield from refused_numbers(call, good, "seed", ("0", True, 1.5, NAN))
    yield from refused(call, good, "sampling", NO_SAMPLING)
    yield from refused(
        call, {**good, "model": UNCOMPILED}, "loss", [None], given="no loss"
    )


def cases_of_the_check():
    call, good = keras_svag.LinearScalingRuleCheck, {"batch_size": 8}
    yield from refused_numbers(call, good, "batch_size", optional(NO_COUNT))
    yield from refused_numbers(call, good, "closeness", (*NOT_POSITIVE, 1, 0.5))
    for kappas in ("24", None, 2, True, (2, "4"), (True,)):
        yield from refused(call, good, "kappas", [kappas], TypeError)
    yield from refused(call, good, "kappas", [(0.5,), (2, NAN), (2, INF)])
    counts = optional(NO_COUNT)
    yield from refused_numbers(call, good, "window", counts)
    yield from refused_numbers(call, good, "num_examples", (*counts, 7))
    yield from refused_numbers(call, good, "probe_every", NO_COUNT)
    yield from refused_numbers(call, good, "probe_batches", (*NO_COUNT, 3))
    yield from refused_numbers(call, good, "rtol", optional(NOT_POSITIVE))
    yield from refused(
        call(8).load_state_dict,
        {},
        "state",
        [None, {}, {"batch_size": 8}, {"batch_size": 8, "epochs": [{}]}, "x"],
    )


def cases_of_invariance():
    call, good = keras_svag.is_scale_invariant, {"model": MODEL, "x": X}
    yield from refused(call, good, "model", NO_MODEL, TypeError)
    yield from refused_numbers(call, good, "rtol", optional(NOT_POSITIVE))
    yield from refused(call, good, "x", [X[:0]], given="(0, 4)")
    yield from refused(call, good, "x", [X[0, 0]], given="()")


@table(
    cases_of_svag(),
    cases_of_weights(),
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
    assert not keras_svag.is_scale_invariant(MODEL, X)
