"""All that training leaves behind, compared to the bit."""

import random

import keras
import numpy as np

# What the monitor, and a check, add to the logs of an epoch.
LOGS = {
    "max_batch_size",
    "max_batch_size_low",
    "max_batch_size_high",
    "noise_to_signal_low",
    "noise_to_signal_high",
    "grad_sq_norm",
    "noise_trace",
    "noise_to_signal",
    "noise_scale",
    "weight_sq_norm",
    "preconditioned_noise_to_signal",
}


def without_noise(logs):
    """Logs without those of the monitor."""
    return {key: value for key, value in logs.items() if key not in LOGS}


def bits_of(model):
    """The variables of a model and its training, and the next random draws."""
    variables = {
        "model": model.variables,
        "optimizer": model.optimizer.variables,
        "metrics": model.metrics_variables,
    }
    numbers = keras.tree.map_structure(keras.ops.convert_to_numpy, variables)
    draws = {
        "Python": random.random(),
        "NumPy": np.random.random(),
        "Keras": keras.random.uniform(()),
    }
    return {**numbers, **draws}


def assert_same_bits(ours, theirs):
    """Asserts that nests of arrays and numbers are equal to the bit."""
    keras.tree.assert_same_structure(ours, theirs)
    for (path, a), (_, b) in zip(
        keras.tree.flatten_with_path(ours),
        keras.tree.flatten_with_path(theirs),
        strict=True,
    ):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape), path
        assert a.tobytes() == b.tobytes(), (path, a, b)
