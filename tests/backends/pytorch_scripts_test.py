"""Scripts in the manner of PyTorch train with a monitor as without it."""

import keras
import numpy as np
import pytest

from keras_svag import GradientNoiseMonitor
from tests.helpers.bits import assert_same_bits, bits_of
from tests.helpers.small_problems import dense_network, regression

if keras.backend.backend() != "torch":
    pytest.skip("for PyTorch alone", allow_module_level=True)

import torch  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402


def batches():
    rows = TensorDataset(*map(torch.as_tensor, regression(64)))
    return DataLoader(rows, 8, shuffle=True)


class EverySecondStep(keras.Sequential):
    """Takes the gradient of the losses of two batches, at once."""

    losses_so_far = ()

    def train_step(self, data):
        x, y = data
        loss = self.compute_loss(x, y, self(x, training=True))
        self.losses_so_far = *self.losses_so_far, loss
        if len(self.losses_so_far) == 2:
            self.zero_grad()
            sum(self.losses_so_far).backward()
            self.losses_so_far = ()
            weights = self.trainable_weights
            with torch.no_grad():
                self.optimizer.apply([w.value.grad for w in weights], weights)
        return {"loss": loss.detach()}


class ToCenter(keras.losses.Loss):
    """A loss with a variable, which Keras does not know."""

    def __init__(self):
        super().__init__()
        self.center = keras.Variable(np.zeros(2, "float32"), trainable=False)

    def call(self, y, y_pred):
        mean = y_pred.mean(0).detach()
        self.center.assign(0.9 * self.center + 0.1 * mean)
        return ((y_pred - y - self.center) ** 2).mean(-1)


class NoisyByNumPy(keras.layers.Layer):
    def call(self, x):
        return x + np.random.normal()


def gradient_of_two_steps():
    network = dense_network()
    model = EverySecondStep([keras.Input((4,)), *network.layers])
    model.compile("adam", "mse")
    return model


def frozen_by_its_flag():
    model = dense_network()
    model.layers[0].kernel.value.requires_grad = False
    model.compile("adam", "mse")
    return model


def targets_changed_in_place():
    def loss(y, y_pred):
        y -= y.mean()
        return ((y_pred - y) ** 2).mean(-1)

    model = dense_network()
    model.compile("adam", loss)
    return model


def loss_with_a_variable():
    model = dense_network()
    model.compile("adam", ToCenter())
    return model


def noisy_by_numpy():
    model = dense_network()
    model.add(NoisyByNumPy())
    model.compile("adam", "mse")
    return model


@pytest.mark.parametrize(
    "make_model",
    [
        gradient_of_two_steps,
        frozen_by_its_flag,
        targets_changed_in_place,
        loss_with_a_variable,
        noisy_by_numpy,
    ],
)
def test_training_is_the_same(make_model):
    ends = []
    for monitors in ([], [GradientNoiseMonitor(every=2)]):
        keras.utils.set_random_seed(0)
        model = make_model()
        logs = model.fit(batches(), epochs=2, verbose=0, callbacks=monitors)
        ends.append((bits_of(model), logs.history["loss"]))
    assert len(monitors[0].series) > 2
    assert_same_bits(*ends)


class WithDropout(keras.Model):
    """Drops entries as PyTorch's own flag says."""

    def __init__(self):
        super().__init__()
        self.outputs_of = dense_network()

    def call(self, x):
        dropped = torch.nn.functional.dropout(x, training=self.training)
        return self.outputs_of(dropped)


def test_inference_is_in_the_mode_of_inference():
    model = WithDropout()
    model.compile("sgd", "mse")
    monitor = GradientNoiseMonitor(every=1)
    model.fit(batches(), verbose=0, callbacks=[monitor])
    assert all(difference < 1e-5 for _, difference in monitor.series.couplings)
