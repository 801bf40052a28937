"""What follows an interrupted `fit` on the backend that runs the tests."""

import keras
import numpy as np
import pytest

from keras_svag import GradientNoiseMonitor
from tests.helpers.small_problems import compiled, regression

X, Y = regression(64)


class Interruption(BaseException):
    """As Ctrl-C; but one that is not caught would end pytest."""


class NoHalves(keras.Model):
    def call(self, x):
        if (x.shape[0] or 8) < 8:
            raise Interruption
        return x * self.scale

    def build(self, shape):
        self.scale = self.add_weight(shape=())


@pytest.mark.parametrize("seed", range(3))
def test_an_interruption_while_measuring_leaves_a_model_that_trains(seed):
    # Keras refuses more on PyTorch.
    steps = 1 if keras.backend.backend() == "torch" else 3
    model = compiled(NoHalves(), steps_per_execution=steps)
    monitor = GradientNoiseMonitor(every=1, seed=seed)
    with pytest.raises(Interruption):
        model.fit(X, X, 8, verbose=0, callbacks=[monitor])
    model.fit(X, X, 8, verbose=0)
    assert np.isfinite(model.get_weights()).all()


def interrupted():
    for start in (0, 8, 16):
        yield X[start : start + 8], Y[start : start + 8]
    raise Interruption


def test_two_monitors_leave_nothing_where_the_data_end_in_an_error():
    model = compiled()
    model.make_train_function()
    hers = model.train_function
    monitors = [GradientNoiseMonitor(every=1) for _ in range(2)]
    # TensorFlow raises one of its own.
    with pytest.raises((Interruption, Exception)):
        model.fit(interrupted(), verbose=0, callbacks=monitors)
    assert model.train_function is hers
    observed = [len(monitor.series) for monitor in monitors]
    model.fit(X, Y, verbose=0)
    assert [len(monitor.series) for monitor in monitors] == observed


def test_after_an_interruption_nothing_is_measured():
    model, monitor = compiled(), GradientNoiseMonitor(every=1)
    model.make_train_function()
    hers = model.train_function

    def stop(batch, logs):
        if batch == 3:
            raise Interruption

    # The monitor has its stand-in in place when the other one raises.
    stopping = keras.callbacks.LambdaCallback(on_train_batch_begin=stop)
    with pytest.raises(Interruption):
        model.fit(X, Y, 8, verbose=0, callbacks=[monitor, stopping])
    observed = len(monitor.series)
    assert observed == 2
    for variable in model.variables:
        # JAX has given the buffers away.
        variable.assign(np.zeros(variable.shape))
    model.train_on_batch(X[:8], Y[:8])
    # On PyTorch Keras hands a list to the step, as `fit` does.
    more = keras.backend.backend() == "torch"
    assert len(monitor.series) == observed + more
    model.fit(X, Y, batch_size=8, verbose=0)
    assert len(monitor.series) == observed + more
    assert model.train_function is hers
