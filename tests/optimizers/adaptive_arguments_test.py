"""What SVAGRMSprop and SVAGAdam take, and what of them is saved."""

import keras
import pytest

from keras_svag import SVAGAdam, SVAGRMSprop


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
