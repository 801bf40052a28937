"""Configurations and files of the optimizers, also in the middle of a pair."""

import keras
import numpy as np
import pytest

from keras_svag import SVAG, SVAGAdam, SVAGRMSprop
from tests.helpers.pairs import assert_same, fit
from tests.helpers.small_problems import regression

BATCH = 6


def schedule():
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        [0, 2], [0.4, 0.2, 0.1]
    )


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (SVAG, {}),
        (SVAGRMSprop, {"rho": 0.8, "epsilon": 1e-3}),
        (SVAGAdam, {"beta_1": 0.7, "beta_2": 0.95, "epsilon": 1e-3}),
    ],
)
def test_config_round_trip(kind, arguments):
    optimizer = kind(
        ell=3, pairing="halves", weight_decay=0.1, name="mine", **arguments
    )
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(copy) is kind
    assert copy.get_config() == optimizer.get_config()
    assert (copy.ell, copy.weight_decay, copy.name) == (3, 0.1, "mine")
    assert copy.gradient_weights == optimizer.gradient_weights
    # Those of the simulated optimizer, as they were given.
    assert copy.get_config().items() >= arguments.items()
    named = keras.optimizers.get(f"keras_svag>{kind.__name__}")
    assert type(named) is kind and named.ell == 1


@pytest.mark.parametrize("kind", [SVAGRMSprop, SVAGAdam])
def test_defaults_are_those_of_the_simulated_optimizer(kind):
    simulated = getattr(keras.optimizers, kind.__name__.removeprefix("SVAG"))()
    ours, theirs = kind().get_config(), simulated.get_config()
    for name in {"rho", "beta_1", "beta_2", "epsilon"} & set(theirs):
        assert ours[name] == theirs[name]
    assert ours["learning_rate"] == pytest.approx(theirs["learning_rate"])


@keras.saving.register_keras_serializable(package="svag_saving_test")
class TwoLayers(keras.Model):
    """Names its layers anew in every instance."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(3, activation="tanh")
        self.out = keras.layers.Dense(2)

    def call(self, inputs):
        return self.out(self.hidden(inputs))


@pytest.mark.parametrize(
    ("done", "pairing"), [(3, "independent"), (4, "halves")]
)
def test_plain_model_trains_on_exactly_after_a_load(tmp_path, done, pairing):
    x, y = regression(10 * BATCH)
    model = TwoLayers()
    model(x[:1])
    optimizer = SVAG(schedule(), ell=2, pairing=pairing, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(
        var_list=[model.layers[0].kernel], var_names=["bias"]
    )
    model.compile(optimizer, "mse")
    fit(model, x[: done * BATCH], y[: done * BATCH], batch_size=BATCH)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for trained in (model, loaded):
        fit(trained, x[done * BATCH :], y[done * BATCH :], batch_size=BATCH)
    assert_same(loaded.variables, model.variables)
    assert_same(loaded.optimizer.variables, model.optimizer.variables)
    assert loaded.optimizer.effective_iterations == 5 / 2
    # SGD steps 0, 0, 1, 1, 2 at the schedule's rates.
    times = (0.4 + 0.4 + 0.2 + 0.2 + 0.2) / 2
    assert float(loaded.optimizer.continuous_time) == pytest.approx(times)
    # Decay alone moves only what is not excluded.
    before = loaded.get_weights()
    for _ in range(2):
        loaded.optimizer.apply([keras.ops.zeros_like(w) for w in before])
    after = loaded.get_weights()
    moved = [np.any(a != b) for a, b in zip(after, before, strict=True)]
    assert moved == [False, False, True, False]
