"""What SVAGRMSprop and SVAGAdam refuse, and what of them is saved."""

import keras
import pytest

from keras_svag import SVAGAdam, SVAGRMSprop
from tests.helpers.refusals import (
    NO_COUNT,
    NO_STRING,
    NOT_NONNEGATIVE,
    check_refused,
    refused,
    refused_numbers,
    table,
)


def optional(values):
    return tuple(value for value in values if value is not None)


def cases():
    for call, decay_rates, refusals in (
        (
            SVAGRMSprop,
            ("rho",),
            (("momentum", 0.9, "SVAGAdam"), ("centered", True, "plain")),
        ),
        (SVAGAdam, ("beta_1", "beta_2"), (("amsgrad", True, "without"),)),
    ):
        good = {"learning_rate": 0.1, "ell": 2}
        for name in decay_rates:
            bad = (*NOT_NONNEGATIVE, 1, 1.5)
            yield from refused_numbers(call, good, name, bad)
        for name, bad in (
            ("epsilon", NOT_NONNEGATIVE),
            ("ell", NO_COUNT),
            ("weight_decay", optional(NOT_NONNEGATIVE)),
        ):
            yield from refused_numbers(call, good, name, bad)
        yield from refused(call, good, "pairing", (*NO_STRING, "both"))
        for name, value, why in (
            *refusals,
            ("clipnorm", 1.0, "biases"),
            ("clipvalue", 1.0, "biases"),
            ("global_clipnorm", 1.0, "biases"),
            ("use_ema", True, "average"),
            ("gradient_accumulation_steps", 2, "pairs"),
        ):
            says = (f"left out of {call.__name__}", why)
            yield from refused(call, good, name, [value], says=says)


@table(cases())
def test_bad_argument_is_one_sentence(case, tmp_path):
    check_refused(case, tmp_path)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (SVAGRMSprop, {"rho": 0.8, "epsilon": 1e-3}),
        (SVAGAdam, {"beta_1": 0.7, "beta_2": 0.95, "epsilon": 1e-3}),
    ],
)
def test_config_round_trip(kind, arguments):
    optimizer = kind(
        0.25, ell=3, pairing="halves", weight_decay=0.1, **arguments
    )
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(copy) is kind
    assert copy.get_config() == optimizer.get_config()
    for name, value in arguments.items():
        # Those of the simulated optimizer, as they were given.
        assert getattr(copy, name) == value


@pytest.mark.parametrize("kind", [SVAGRMSprop, SVAGAdam])
def test_registered_name_gives_the_optimizer(kind):
    optimizer = keras.optimizers.get(f"keras_svag>{kind.__name__}")
    assert type(optimizer) is kind
    assert optimizer.ell == 1


@pytest.mark.parametrize("kind", [SVAGRMSprop, SVAGAdam])
def test_defaults_are_those_of_the_simulated_optimizer(kind):
    simulated = getattr(keras.optimizers, kind.__name__.removeprefix("SVAG"))()
    ours, theirs = kind().get_config(), simulated.get_config()
    for name in {"rho", "beta_1", "beta_2", "epsilon"} & set(theirs):
        assert ours[name] == theirs[name]
    assert ours["learning_rate"] == pytest.approx(theirs["learning_rate"])


def test_averages_without_memory_take_every_gradient():
    # The logarithm of such a rate is that of 0.
    x = keras.Variable([1.0])
    optimizer = SVAGAdam(0.25, beta_1=0.0, beta_2=0.0, pairing="halves")
    optimizer.build([x])
    for gradient in (3.0, 3.0, -3.0, -3.0):
        optimizer.apply([keras.ops.convert_to_tensor([gradient])])
    assert x.numpy() == pytest.approx(1.0)
