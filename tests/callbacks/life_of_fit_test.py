"""What happens to a `fit` that is measured happens as without the monitor."""

import contextlib
import copy
import gc
import itertools
import pickle
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag import GradientNoiseMonitor, ScalingRuleCheck
from tests.helpers.bits import assert_trains_alike, bits_of, without_noise
from tests.helpers.public_layers import Breaking
from tests.helpers.small_problems import (
    compiled,
    dense_network,
    network_with_state,
    regression,
)

ROWS, BATCH_SIZE, STEPS = 43, 8, 6
X, Y = regression(ROWS)
BATCHES = [slice(i, i + BATCH_SIZE) for i in range(0, ROWS, BATCH_SIZE)]
slow = pytest.mark.slow


def network(**compilation):
    return compiled(network_with_state(), **compilation)


def fit(model, callbacks=(), x=X, y=Y, **arguments):
    way = {"batch_size": BATCH_SIZE, "epochs": 2, "verbose": 0} | arguments
    history = model.fit(x, y, callbacks=list(callbacks), **way).history
    return without_noise(history)


def train_on_batch(model):
    return model.train_on_batch(X, Y)


def every_step():
    return GradientNoiseMonitor(every=1)


def at(hook, count, action):
    """A callback that does something in one of the calls of a hook."""
    calls = itertools.count(1)

    def on_call(*_, **__):
        if next(calls) == count:
            action()

    return keras.callbacks.LambdaCallback(**{hook: on_call})


def among(monitors, callback):
    """The callback behind the first monitor, and before the other."""
    return [*monitors[:1], callback, *monitors[1:]]


def assert_lives_alike(life, build_model=network, monitors=1):
    """`assert_trains_alike`, with so many monitors of every step."""
    monitors = [every_step() for _ in range(monitors)]
    return assert_trains_alike(build_model, life, monitors)


# Interruptions


def test_interruption_while_measuring_leaves_the_model_as_before_the_step():
    # What stands before has changed its state when this breaks.
    def build_model():
        model = keras.Sequential([network_with_state(), Breaking()])
        return compiled(model, run_eagerly=True)

    def life(model, monitors):
        breaking = model.layers[-1]

        def break_second_half():
            # Without a monitor, where this step would be measured.
            if not monitors:
                raise KeyboardInterrupt
            breaking.countdown = 2

        callback = at("on_train_batch_begin", 4, break_second_half)
        with pytest.raises(KeyboardInterrupt):
            fit(model, [*monitors, callback])
        assert breaking.countdown == 0
        return bits_of(model), fit(model)

    assert_lives_alike(life, build_model)


def test_after_a_break_in_a_loop_nothing_is_measured():
    model, monitor = network(), every_step()
    train_on_batch(model)
    hers = model.train_function
    with pytest.raises(KeyboardInterrupt), monitor.watch(model):
        for rows in BATCHES[:4]:
            model.train_on_batch(X[rows], Y[rows])
        raise KeyboardInterrupt
    assert model.train_function is hers
    fit(model)
    assert len(monitor.series) == 3


# Several fits, and other callbacks


def test_two_monitors_and_weights_that_are_frozen_between_fits():
    def life(model, monitors):
        histories = [fit(model, monitors)]
        for trainable in (False, True):
            model.layers[0].trainable = trainable
            histories.append(fit(model, monitors))
        return histories

    monitors = [every_step(), ScalingRuleCheck(every=1, verbose=0)]
    assert_trains_alike(network, life, monitors)
    first, second = (monitor.series["grad_sq_norm"] for monitor in monitors)
    np.testing.assert_array_equal(first, second)


def compile_anew(model):
    model.compile("adam", "mse")


def force_a_new_function(model):
    model.make_train_function(force=True)


def freeze(model):
    model.layers[0].trainable = False


@pytest.mark.parametrize(
    ("action", "hook"),
    [
        (compile_anew, "on_epoch_end"),
        (train_on_batch, "on_train_batch_begin"),
        pytest.param(compile_anew, "on_train_batch_begin", marks=slow),
        pytest.param(freeze, "on_train_batch_begin", marks=slow),
        pytest.param(fit, "on_train_batch_begin", marks=slow),
        pytest.param(force_a_new_function, "on_train_batch_end", marks=slow),
    ],
)
def test_callback_that_acts_on_the_model(action, hook):
    """Where Keras itself breaks it breaks in the same way."""

    def life(model, monitors):
        count = 1 if hook == "on_epoch_end" else 4
        try:
            acting = at(hook, count, lambda: action(model))
            return fit(model, among(monitors, acting))
        except Exception as error:
            return type(error).__name__, str(error)

    assert_lives_alike(life, monitors=2)


@slow
def test_model_is_saved_exported_and_copied_in_fit(tmp_path):
    def life(model, monitors):
        def keep():
            model.save(tmp_path / "model.keras")
            model.save_weights(tmp_path / "model.weights.h5")
            model.export(tmp_path / "exported", verbose=False)
            exported = tf.saved_model.load(tmp_path / "exported")
            expected = model.predict_on_batch(X)
            for kept in (
                keras.models.load_model(tmp_path / "model.keras"),
                copy.deepcopy(model),
                pickle.loads(pickle.dumps(model)),
                exported.serve,
            ):
                np.testing.assert_allclose(kept(X), expected, atol=1e-6)

        return fit(model, among(monitors, at("on_train_batch_begin", 2, keep)))

    assert_lives_alike(life, monitors=2)


@pytest.mark.parametrize("count", [4, pytest.param(1, marks=slow)])
def test_callback_that_wraps_the_train_function_for_good(count):
    """It comes later in the list, so that it finds what the monitor put."""

    def life(model, monitors):
        calls, wrappers = [], []

        def wrap():
            hers = model.train_function

            def counting(iterator):
                calls.append(model.optimizer.iterations.numpy())
                return hers(iterator)

            model.train_function = counting
            wrappers.append(counting)

        callback = at("on_train_batch_begin", count, wrap)
        histories = []
        for callbacks in ([*monitors, callback], monitors):
            histories.append(fit(model, callbacks))
            assert model.train_function is wrappers[0]
        return histories, calls

    (_, calls), [monitor] = assert_lives_alike(life)
    assert len(calls) == 4 * STEPS + 1 - count
    # The monitor goes on, whether it measures within or outside.
    assert np.sum(monitor.series["step"] > count) >= 4 * STEPS - count - 1


def test_training_that_ends_on_nan():
    x = np.array(X)
    x[3 * BATCH_SIZE] = np.nan

    def life(model, monitors):
        terminate = keras.callbacks.TerminateOnNaN()
        return fit(model, [terminate, *monitors], x, shuffle=False)

    ended, [monitor] = assert_lives_alike(life)
    assert len(ended["loss"]) == 1
    assert len(monitor.series) == 3


# Ways of the train function


class Traced(keras.Sequential):
    """Notes of each call in Python, one a trace, whether it is in training."""

    def __init__(self, layers):
        super().__init__(layers)
        self.calls = []

    def call(self, x, training=None, mask=None):
        self.calls.append(bool(training))
        return super().call(x, training, mask)


@pytest.mark.parametrize("rows", [5 * BATCH_SIZE, ROWS])
def test_second_fit_traces_nothing_and_the_first_pays_two_traces(rows):
    counts = []

    def life(model, monitors):
        fit(model, monitors, X[:rows], Y[:rows], epochs=1)
        counts.append([model.calls.count(mode) for mode in (True, False)])
        fit(model, monitors, X[:rows], Y[:rows], epochs=2)
        assert len(model.calls) == sum(counts[-1])

    def build_model():
        inputs = keras.Input((4,))
        return compiled(Traced([inputs, *dense_network().layers]))

    assert_lives_alike(life, build_model)
    (training, inference), ours = counts
    # Of whole batches and of halves; of any number of rows where they vary.
    sizes = 2 if rows % BATCH_SIZE == 0 else 1
    assert ours == [training + 1, inference + sizes]


def test_loop_that_is_watched_returns_the_same_logs():
    def life(model, monitors):
        def loop():
            return [model.train_on_batch(X[rows], Y[rows]) for rows in BATCHES]

        train_on_batch(model)
        hers, logs = model.train_function, []
        watching = (monitor.watch(model) for monitor in monitors)
        with next(watching, contextlib.nullcontext()):
            logs += loop()
        assert model.train_function is hers
        observed = [len(monitor.series) for monitor in monitors]
        logs += loop()
        assert [len(monitor.series) for monitor in monitors] == observed
        return logs

    assert_lives_alike(life, lambda: network(metrics=["mae"]))


# What cannot be held, as the documents say


class TensorFlowNoise(keras.layers.Layer):
    """Draws from TensorFlow's own generator, and counts its calls."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def call(self, x, training=False):
        self.calls += 1
        return x + tf.random.normal(tf.shape(x)) if training else x


def test_limits_are_those_of_the_documents():
    def build_model():
        inner = [keras.Input((4,)), TensorFlowNoise(), keras.layers.Dense(2)]
        return compiled(keras.Sequential(inner), run_eagerly=True)

    calls = []

    def life(model, monitors):
        before = model.layers[0].calls
        fit(model, monitors)
        calls.append(model.layers[0].calls - before)

    # Only on several replicas does it draw other numbers.
    assert_lives_alike(life, build_model)
    assert 2 * STEPS == calls[0] < calls[1]
    documented = " ".join(GradientNoiseMonitor.__doc__.split())
    assert "Attributes of Python objects" in documented
    assert "`tf.random.normal`" in documented


def test_data_are_let_go_with_their_fit():
    """Not by the collector: deleting an iterator can hold up a later `fit`."""
    model = network()
    gc.disable()
    try:
        x = X.copy()
        kept = weakref.ref(x)
        fit(model, [every_step()], x=x)
        del x
        assert kept() is None
    finally:
        gc.enable()
