"""The wrapper that lets a plain model train over several workers."""

import keras
import numpy as np
import pytest

from keras_svag import SVAG
from keras_svag.models.wrapper import ModelWrapper
from tests.helpers.small_problems import (
    classification,
    copy_of,
    dense_network,
    regression,
)


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, kernel_regularizer="l2"),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Dropout(0.3, seed=1),
            keras.layers.Dense(3),
        ]
    )


def svag():
    return SVAG(0.1, ell=3, weight_decay=0.01)


@pytest.mark.parametrize("make_optimizer", [svag, lambda: "adam"])
def test_plain_model_trains_as_unwrapped_bit_for_bit(make_optimizer):
    x, y = classification(100)
    weights = np.linspace(0.5, 1.5, 100).astype("float32")
    histories, states = [], []
    for wrap in (lambda model: model, ModelWrapper):
        model = wrap(network())
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(make_optimizer(), loss, metrics=["accuracy"])
        keras.utils.set_random_seed(2)
        # 15 batches, the last of each epoch a smaller one.
        logs = model.fit(
            x,
            y,
            batch_size=21,
            sample_weight=weights,
            epochs=3,
            validation_data=(x, y),
            verbose=0,
        )
        histories.append(logs.history)
        states.append([*model.variables, *model.optimizer.variables])
    assert histories[0] == histories[1]
    for plain, wrapped in zip(*states, strict=True):
        np.testing.assert_array_equal(plain, wrapped)


def test_pair_is_kept_between_calls_of_fit():
    x, y = regression(40)
    kept = dense_network()
    model = ModelWrapper(copy_of(kept))
    model.compile(svag(), "mse")
    before = model.get_weights()
    model.fit(x[:20], y[:20], batch_size=20, verbose=0)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    model.fit(x[20:], y[20:], batch_size=20, verbose=0)
    assert np.any(model.get_weights()[0] != before[0])
    assert model.optimizer.effective_iterations == 1 / 3


def test_wrapper_is_saved_and_loaded_with_its_pending_gradient(tmp_path):
    x, y = regression(40)
    model = ModelWrapper(dense_network())
    model.compile(svag(), "mse")
    model.fit(x[:20], y[:20], batch_size=20, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        each.fit(x[20:], y[20:], batch_size=20, verbose=0)
    for ours, theirs in zip(
        model.get_weights(), loaded.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
