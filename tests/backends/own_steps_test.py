"""JAX: steps that are no program, draw two batches, or draw on the host."""

import time

import keras
import numpy as np
import pytest
from keras import layers

from keras_svag import GradientNoiseMonitor
from tests.helpers.bits import assert_trains_alike
from tests.helpers.small_problems import compiled, regression

if keras.backend.backend() != "jax":
    pytest.skip("for JAX", allow_module_level=True)

import jax

X, Y = regression(64)


class NoiseOfHost(layers.Layer):
    """Draws by NumPy while the program runs."""

    def call(self, x, training=False):
        if training:
            shape = jax.ShapeDtypeStruct((), "float32")
            row = jax.lax.stop_gradient(x[0, 0])
            x += jax.pure_callback(self._draw, shape, row)
        return x

    def _draw(self, _):
        time.sleep(0.001)
        return np.float32(np.random.normal())


class TwoBatchesACall(keras.Model):
    def make_train_function(self, force=False):
        def train_function(state, iterator):
            _, state = self.train_step(state, next(iterator))
            return self.train_step(state, next(iterator))

        self.train_function = train_function


class OwnGradient(keras.Model):
    """Trains by twice the loss that it is compiled with."""

    def compute_loss_and_updates(self, *args, **kwargs):
        loss, others = super().compute_loss_and_updates(*args, **kwargs)
        return 2 * loss, others


class ByValue(keras.Model):
    """Looks at its batch, as code that is not compiled may."""

    def compile(self, optimizer, loss, jit_compile):
        super().compile(optimizer, jit_compile=False)

    def compute_loss(self, x, y, y_pred, *args, **kwargs):
        return (1 + float(np.mean(y))) * keras.ops.mean((y - y_pred) ** 2)


def model_of(kind, *inner):
    inputs = outputs = keras.Input(X.shape[1:])
    for layer in (*inner, layers.Dense(2)):
        outputs = layer(outputs)
    return compiled(kind(inputs, outputs), "adam", jit_compile=True)


def drawing_on_the_host():
    # JAX waits for a program that is smaller.
    inner = NoiseOfHost(), layers.Dense(5), layers.Dense(5)
    return model_of(keras.Model, *inner)


@pytest.mark.parametrize(
    "build_model",
    [
        drawing_on_the_host,
        lambda: model_of(TwoBatchesACall),
        lambda: model_of(ByValue),
    ],
)
def test_training_has_the_bits_of_training_without(build_model):
    def life(model, monitors):
        model.fit(X, Y, 8, epochs=8, verbose=0, callbacks=monitors)

    assert_trains_alike(build_model, life, [GradientNoiseMonitor(every=1)])


def test_a_loop_that_is_watched_on_devices_is_built_by_its_first_batch():
    devices = keras.distribution.list_devices()[:1]
    monitor = GradientNoiseMonitor(every=1)
    with keras.distribution.DataParallel(devices=devices).scope():
        model = model_of(keras.Model)
        with monitor.watch(model):
            for _ in range(3):
                model.train_on_batch(X[:8], Y[:8])
    assert len(monitor.series) == 2


def test_a_gradient_of_the_models_own_is_an_assumption():
    codes = {}
    for kind in (keras.Model, OwnGradient):
        model, monitor = model_of(kind), GradientNoiseMonitor(every=2)
        model.fit(X, Y, batch_size=8, verbose=0, callbacks=[monitor])
        codes[kind] = monitor.estimate().assumptions
    assert codes == {keras.Model: (), OwnGradient: ("own_train_step",)}
