"""What a script may ask for within an epoch, and what it may hand to `fit`."""

import keras
import numpy as np
import pytest

from keras_svag import GradientNoiseMonitor, ScalingRuleCheck
from tests.helpers.bits import assert_same_bits, bits_of
from tests.helpers.public_layers import NumPyNoise
from tests.helpers.small_problems import dense_network, regression

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
    ends = []
    for monitors in ([], [GradientNoiseMonitor(every=2)]):
        keras.utils.set_random_seed(0)
        inner = keras.Input((4,)), NumPyNoise(), keras.layers.Dense(2)
        model = keras.Sequential(inner)
        model.compile("sgd", "mse", run_eagerly=True)
        model.fit(data(), steps_per_epoch=6, verbose=0, callbacks=monitors)
        ends.append(bits_of(model))
    assert_same_bits(*ends)


class Asks(keras.callbacks.Callback):
    """Asks for a report, and sets a learning rate that Keras may not see."""

    def __init__(self, monitors, optimizer):
        super().__init__()
        self.monitors, self.optimizer = monitors, optimizer
        self.rates = []

    def on_train_batch_begin(self, batch, logs=None):
        for monitor in self.monitors:
            if monitor.report is not None:
                run = monitor.report.verdict.conditions
                self.rates.append(run.learning_rate)
        self.optimizer.learning_rate = 0.5 / (1 + batch)


def test_a_report_within_an_epoch_changes_nothing():
    ends = []
    for monitors in ([], [ScalingRuleCheck(every=1, verbose=0)]):
        model = dense_network()
        model.compile("adam", "mse")
        asks = Asks(monitors, model.optimizer)
        model.fit(X, Y, 8, verbose=0, callbacks=[*monitors, asks])
        ends.append(bits_of(model))
    assert len(asks.rates) == 6
    assert_same_bits(*ends)


def test_a_loop_that_calls_callbacks_trains_without_being_measured():
    model, monitor = dense_network(), GradientNoiseMonitor(every=1)
    model.compile("sgd", "mse")
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
    model, monitor = dense_network(), GradientNoiseMonitor(every=1)
    model.compile("sgd", "mse")
    callbacks = keras.callbacks.CallbackList([monitor], True, model=model)
    history = model.fit(X, Y, 8, verbose=0, callbacks=callbacks).history
    assert len(history["noise_to_signal"]) == 1
