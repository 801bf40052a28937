"""Noise and weights of a training on the JAX devices of this process."""

import sys

import jax
import keras
import numpy as np

import keras_svag
from tests.helpers.backend_cases import built, convolutions, numbers

if __name__ == "__main__":
    if jax.device_count() > 1:
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    found = {"devices": jax.device_count()}
    for name in ("plain", "svag"):
        model, *_ = built(convolutions)
        optimizer = keras.optimizers.SGD(0.1)
        if name == "svag":
            model = keras_svag.SVAGModel(model)
            optimizer = keras_svag.SVAG(0.1, ell=2)
        model.compile(optimizer, "mse")
        monitor = keras_svag.GradientNoiseMonitor(every=1)
        x, y = numbers(160, 8, 8, 3), numbers(160, 3, seed=1)
        model.fit(
            x, y, batch_size=16, shuffle=False, verbose=0, callbacks=[monitor]
        )
        weights = [keras.ops.convert_to_numpy(v).ravel() for v in model.weights]
        found[f"{name} weights"] = np.concatenate(weights)
        for column in ("grad_sq_norm", "example_noise", "rows"):
            found[f"{name} {column}"] = monitor.series[column]
    np.savez(sys.argv[1], **found)
