"""Configuration, saving and loading of SVAG, also in the middle of a pair."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag import SVAG, SVAGModel
from keras_svag.optimizers.svag import PAIRINGS
from tests.helpers.small_problems import (
    dense_network,
    interleaved,
    largest_difference,
    regression,
)

BATCH = 6


def schedule():
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        [0, 2], [0.4, 0.2, 0.1]
    )


def fit(model, x, y, batch_size=BATCH):
    return model.fit(x, y, batch_size=batch_size, shuffle=False, verbose=0)


def same_state(model, other):
    for ours, theirs in zip(
        model.variables + model.optimizer.variables,
        other.variables + other.optimizer.variables,
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)


@pytest.mark.parametrize("learning_rate", [0.3, schedule()])
@pytest.mark.parametrize("by_name", [False, True])
def test_config_round_trip(learning_rate, by_name):
    optimizer = SVAG(
        learning_rate, ell=3, pairing="halves", weight_decay=0.1, name="mine"
    )
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    if by_name:
        copy = keras.optimizers.deserialize(
            keras.optimizers.serialize(optimizer)
        )
    else:
        copy = SVAG.from_config(optimizer.get_config())
    assert isinstance(copy, SVAG)
    assert copy.get_config() == optimizer.get_config()
    assert (copy.ell, copy.pairing, copy.weight_decay, copy.name) == (
        3,
        "halves",
        0.1,
        "mine",
    )
    assert copy.gradient_weights == optimizer.gradient_weights


def test_registered_name_gives_the_optimizer():
    optimizer = keras.optimizers.get("keras_svag>SVAG")
    assert isinstance(optimizer, SVAG)
    assert optimizer.ell == 1


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("done", [3, 4])
def test_plain_model_trains_on_exactly_after_a_load(tmp_path, done, pairing):
    x, y = regression(10 * BATCH)
    model = dense_network()
    optimizer = SVAG(schedule(), ell=2, pairing=pairing, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_list=[model.layers[0].bias])
    model.compile(optimizer, "mse")
    fit(model, x[: done * BATCH], y[: done * BATCH])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    same_state(model, loaded)
    for trained in (model, loaded):
        fit(trained, x[done * BATCH :], y[done * BATCH :])
    same_state(model, loaded)
    assert loaded.optimizer.effective_iterations == 5 / 2
    # SGD steps 0, 0, 1, 1, 2 at the schedule's rates.
    times = (0.4 + 0.4 + 0.2 + 0.2 + 0.2) / 2
    assert float(loaded.optimizer.continuous_time) == pytest.approx(times)


def test_reload_in_mid_pair_is_the_uninterrupted_run_of_svag_model(tmp_path):
    x, y = regression(8 * BATCH)
    options = {"ell": 4, "weight_decay": 0.1}
    model = dense_network()
    model.compile(SVAG(schedule(), **options), "mse")
    fit(model, x[: 3 * BATCH], y[: 3 * BATCH])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    fit(loaded, x[3 * BATCH :], y[3 * BATCH :])
    wrapped = SVAGModel(dense_network())
    wrapped.compile(SVAG(schedule(), **options), "mse")
    fit(wrapped, interleaved(x, BATCH), interleaved(y, BATCH), 2 * BATCH)
    assert largest_difference(loaded, wrapped) == 0


@keras.saving.register_keras_serializable(package="svag_saving_test")
class TwoLayers(keras.Model):
    """Names its layers anew in every instance."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(3, activation="tanh")
        self.out = keras.layers.Dense(2)

    def call(self, inputs):
        return self.out(self.hidden(inputs))


@pytest.mark.parametrize("subclassed", [False, True])
def test_exclusion_from_weight_decay_survives_a_load(tmp_path, subclassed):
    x, y = regression(8 * BATCH)
    model = TwoLayers() if subclassed else dense_network()
    model(x[:1])
    optimizer = SVAG(0.1, ell=2, weight_decay=1.0)
    optimizer.exclude_from_weight_decay(
        var_list=[model.layers[0].kernel], var_names=["bias"]
    )
    model.compile(optimizer, "mse")
    fit(model, x[: 4 * BATCH], y[: 4 * BATCH])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    before = loaded.get_weights()
    zeros = [tf.zeros(v.shape) for v in loaded.trainable_variables]
    loaded.optimizer.apply(zeros)
    loaded.optimizer.apply(zeros)
    after = loaded.get_weights()
    moved = [np.any(a != b) for a, b in zip(after, before, strict=True)]
    assert moved == [False, False, True, False]


def test_weights_of_the_optimizer_load_into_a_new_one(tmp_path):
    x, y = regression(3 * BATCH)
    model = dense_network()
    model.compile(SVAG(0.1, ell=2), "mse")
    fit(model, x, y)
    model.save_weights(tmp_path / "model.weights.h5")
    other = dense_network(seed=1)
    other.compile(SVAG(0.1, ell=2), "mse")
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "model.weights.h5")
    same_state(model, other)


def test_names_of_excluded_variables_are_searched_for_in_the_path():
    model = dense_network()
    excluded = model.layers[1].kernel
    optimizer = SVAG(0.5, ell=2, weight_decay=1.0)
    optimizer.exclude_from_weight_decay(var_names=[excluded.path])
    optimizer.build(model.trainable_variables)
    before = model.get_weights()
    for _ in range(2):
        optimizer.apply([tf.zeros(v.shape) for v in model.trainable_variables])
    for i, weights in enumerate(model.get_weights()):
        # By learning_rate / ell * weight_decay.
        kept = 1.0 if i == 2 else 0.75
        np.testing.assert_allclose(weights, kept * before[i], rtol=1e-6)
        assert np.any(weights) or i % 2
