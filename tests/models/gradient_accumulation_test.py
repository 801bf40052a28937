"""Optimizers that accumulate gradients: B is the accumulated batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag import LinearScalingRuleCheck, SVAGModel
from tests.helpers.small_problems import (
    dense_network,
    largest_difference,
    linear_model,
    regression,
)

X, Y = regression(50)
BATCHES = 3


def sgd(**kwargs):
    return keras.optimizers.SGD(
        0.05, gradient_accumulation_steps=BATCHES, **kwargs
    )


OPTIMIZERS = {
    "sgd": lambda: sgd(weight_decay=0.1, clipnorm=0.5),
    "adam": lambda: keras.optimizers.Adam(gradient_accumulation_steps=BATCHES),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(sgd()),
}


def batches(size):
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(size)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "fed",
    [{"x": X, "y": Y, "batch_size": 8, "shuffle": False}, {"x": batches(8)}],
    ids=["arrays", "unknown size"],
)
def test_model_trains_as_unwrapped(optimizer, fed):
    unwrapped, model = dense_network(), dense_network()
    wrapped = SVAGModel(model)
    for one in (unwrapped, wrapped):
        one.compile(OPTIMIZERS[optimizer](), "mse")
        # Seven batches an epoch: an update reaches over its end.
        one.fit(epochs=2, verbose=0, **fed)
    assert largest_difference(model, unwrapped) < 1e-6
    assert wrapped.optimizer.iterations == 14 // BATCHES
    assert wrapped.gradient_noise.batch_size == 8 * BATCHES


@pytest.mark.parametrize("known", [True, False])
def test_every_batch_is_measured_and_noise_is_that_of_the_mean(known):
    x, y = X[:48], Y[:48, :1]
    model = linear_model(4)
    wrapped = SVAGModel(model, batch_size=8 if known else None)
    optimizer = keras.optimizers.SGD(0.0, gradient_accumulation_steps=BATCHES)
    wrapped.compile(optimizer, "mse")
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    logs = wrapped.fit(data, verbose=0).history
    kernel = model.get_weights()[0].astype("float64")
    of_rows = (2 * (x @ kernel - y) * x).reshape(6, 4, 2, 4)
    first, second = of_rows.mean(1).transpose(1, 0, 2)
    # Halves of 4 rows have 6 times the noise of 24.
    noise_trace = np.sum((first - second) ** 2, axis=1).mean() / 2 / 6
    grad_sq_norm = np.sum(first * second, axis=1).mean()
    assert wrapped.gradient_noise.estimate().count == 6
    np.testing.assert_allclose(logs["noise_trace"], noise_trace, rtol=1e-5)
    np.testing.assert_allclose(logs["grad_sq_norm"], grad_sq_norm, rtol=1e-5)
    np.testing.assert_allclose(
        logs["noise_scale"], 24 * noise_trace / grad_sq_norm, rtol=1e-5
    )


def test_check_judges_the_accumulated_batch():
    model = SVAGModel(dense_network())
    model.compile(sgd(), "mse")
    check = LinearScalingRuleCheck(8 * BATCHES, verbose=0)
    model.fit(X[:48], Y[:48], 8, epochs=2, callbacks=[check], verbose=0)
    assert "accumulated" not in str(check.report)
    assert check.report.verdict.batch_size == 8 * BATCHES
    with pytest.raises(ValueError, match="24, at which .* accumulated"):
        model.fit(
            *(X[:48], Y[:48], 8),
            callbacks=[LinearScalingRuleCheck(8, verbose=0)],
            verbose=0,
        )
