"""What a script may ask for within an epoch, and what it may hand to `fit`."""

import keras

from keras_svag import GradientNoiseMonitor, ScalingRuleCheck
from tests.helpers.bits import assert_same_bits, bits_of
from tests.helpers.small_problems import dense_network, regression

X, Y = regression(64)


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


def test_a_list_of_callbacks_without_parameters_is_as_good_as_another():
    model, monitor = dense_network(), GradientNoiseMonitor(every=1)
    model.compile("sgd", "mse")
    callbacks = keras.callbacks.CallbackList([monitor], True, model=model)
    history = model.fit(X, Y, 8, verbose=0, callbacks=callbacks).history
    assert len(history["noise_to_signal"]) == 1
