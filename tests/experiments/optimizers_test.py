"""What the optimizers of a configuration take, and how they are scaled."""

import keras
import numpy as np
import pytest

from experiments.optimizers import (
    OPTIONS,
    optimizer_class,
    optimizer_options,
    square_root_scaled,
)
from keras_svag import SVAG, SVAGAdam, SVAGRMSprop
from tests.helpers.refusals import check_sentence

ADAM = {"optimizer": "adam", "learning_rate": 0.01, "weight_decay": 0.0}

# The class of a name, and which of the options it takes.
OPTIMIZERS = {
    "svag": (SVAG, set()),
    "svag_adam": (SVAGAdam, {"beta_1", "beta_2", "epsilon"}),
    "svag_rmsprop": (SVAGRMSprop, {"rho", "epsilon"}),
    "ngd": (keras.optimizers.SGD, set()),
    "sgd": (keras.optimizers.SGD, {"momentum"}),
    "Adam": (keras.optimizers.Adam, {"beta_1", "beta_2", "epsilon"}),
    "rmsprop": (keras.optimizers.RMSprop, {"rho", "epsilon", "momentum"}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_name_is_that_of_a_class_which_takes_some_options(name):
    known, taken = OPTIMIZERS[name]
    assert optimizer_class(name) is known
    for key in OPTIONS:
        config = {"optimizer": name, key: 0.5}
        if key in taken:
            assert optimizer_options(config) == {key: 0.5}
            continue
        with pytest.raises(ValueError, match="got 0.5; it takes ") as refused:
            optimizer_options(config)
        check_sentence(str(refused.value), f"`{key}`", repr(name))


@pytest.mark.parametrize("name", ["Optimizer", "get", None])
def test_what_is_no_optimizer_is_one_sentence(name):
    with pytest.raises(ValueError) as refused:
        optimizer_class(name)
    check_sentence(str(refused.value), "'svag_adam'", repr(name))


@pytest.mark.parametrize(
    "name", ["adam", "adamw", "rmsprop", "svag_adam", "svag_rmsprop"]
)
def test_epsilon_keeps_its_part_of_the_second_moment(name):
    """Gradients of pure noise are √κ smaller, and steps √κ larger."""
    config = ADAM | {"optimizer": name, "epsilon": 0.2}
    kappa, moved = 4.0, []
    for factor in (1.0, kappa):
        optimizer = optimizer_class(name)(**square_root_scaled(config, factor))
        weights = keras.Variable(np.zeros(1))
        optimizer.build([weights])
        size = 0.3 / factor**0.5
        # As after many steps.
        optimizer.iterations.assign(100_000)
        for moment in optimizer.variables:
            if "velocity" in moment.path:
                moment.assign([size**2])
            elif "momentum" in moment.path:
                moment.assign([size])
        # SVAG with ell 1 takes a step every second time.
        for _ in range(2):
            optimizer.apply([keras.ops.full([1], size)])
        moved.append(weights.numpy()[0])
    assert moved[1] / moved[0] == pytest.approx(kappa**0.5, rel=1e-4)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"optimizer": "sgd"}, "`optimizer` .*='linear'"),
        ({"optimizer": "rmsprop", "momentum": 0.9}, "`momentum` .* got 0.9"),
    ],
)
def test_what_the_rule_cannot_scale_is_one_sentence(changes, says):
    with pytest.raises(ValueError, match=says):
        square_root_scaled(ADAM | changes, 4)
