"""What a script may ask for within an epoch, and what it may hand to `fit`."""

import keras
import numpy as np
import pytest

from keras_svag import SVAG, GradientNoiseMonitor, ScalingRuleCheck, SVAGModel
from tests.helpers.bits import assert_trains_alike
from tests.helpers.public_layers import NumPyNoise
from tests.helpers.small_problems import (
    compiled,
    dense_network,
    regression,
)

X, Y = regression(64)


def drawn():
    while True:
        rows = np.random.choice(len(X), 8)
        yield X[rows], Y[rows]


class Drawn(keras.utils.PyDataset):
    def __len__(self):
        return 6

    def __getitem__(self, _):
        return next(drawn())


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="it reads in threads"
)
@pytest.mark.parametrize("data", [drawn, Drawn])
def test_data_and_a_layer_may_draw_from_one_generator(data):
    def build_model():
        inner = keras.Input((4,)), NumPyNoise(), keras.layers.Dense(2)
        return compiled(keras.Sequential(inner), run_eagerly=True)

    def life(model, monitors):
        model.fit(data(), steps_per_epoch=6, verbose=0, callbacks=monitors)

    assert_trains_alike(build_model, life, [GradientNoiseMonitor(every=1)])


def test_a_report_within_an_epoch_changes_nothing():
    asked = []

    def life(model, monitors):
        def ask(batch, logs):
            asked.extend(m.report for m in monitors if m.report is not None)
            # Which Keras may not see.
            model.optimizer.learning_rate = 0.5 / (1 + batch)

        asking = keras.callbacks.LambdaCallback(on_train_batch_begin=ask)
        model.fit(X, Y, 8, verbose=0, callbacks=[*monitors, asking])

    check = ScalingRuleCheck(every=1, verbose=0)
    assert_trains_alike(compiled, life, [check])
    assert len(asked) == 6


def test_a_loop_that_calls_callbacks_trains_without_being_measured():
    model, monitor = compiled(), GradientNoiseMonitor(every=1)
    callbacks = keras.callbacks.CallbackList([monitor], model=model)
    callbacks.on_train_begin()
    for batch in range(3):
        callbacks.on_train_batch_begin(batch)
        model.train_on_batch(X[:8], Y[:8])
    callbacks.on_epoch_end(0)
    callbacks.on_train_end()
    # On PyTorch it looks as `fit` does, but for the first batch.
    on_torch = keras.backend.backend() == "torch"
    assert len(monitor.series) == (1 if on_torch else 0)


def test_a_list_of_callbacks_without_parameters_is_as_good_as_another():
    model, monitor = compiled(), GradientNoiseMonitor(every=1)
    callbacks = keras.callbacks.CallbackList([monitor], True, model=model)
    history = model.fit(X, Y, 8, verbose=0, callbacks=callbacks).history
    assert len(history["noise_to_signal"]) == 1


def test_every_step_of_an_svag_model_is_observed_and_counted():
    model = compiled(SVAGModel(dense_network()), SVAG(0.01, ell=2))
    model.optimizer.build(model.trainable_variables)
    # Beyond the digits of float32.
    done = 2**24 - 10
    model.optimizer.iterations.assign(done)
    x, y = regression(600)
    assert 300 > 2 * model.observe().room
    monitor = GradientNoiseMonitor()
    model.fit(x, y, batch_size=2, verbose=0, callbacks=[monitor])
    steps = np.arange(300)
    np.testing.assert_array_equal(monitor.series["step"], steps + 1)
    np.testing.assert_array_equal(monitor.series["iteration"], steps + done)


@pytest.mark.parametrize("kind", ["plain", "pairs"])
def test_a_fit_in_float64_is_measured(kind):
    floatx = keras.config.floatx()
    keras.config.set_floatx("float64")

    def build_model():
        if kind == "plain":
            return compiled()
        return compiled(SVAGModel(dense_network()), SVAG(0.01, ell=2))

    def life(model, monitors):
        model.fit(X, Y, 8, verbose=0, callbacks=monitors)

    try:
        assert_trains_alike(build_model, life)
    finally:
        keras.config.set_floatx(floatx)
