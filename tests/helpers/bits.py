"""All that training leaves behind, compared to the bit."""

import random

import keras
import numpy as np

from keras_svag import GradientNoiseMonitor
from keras_svag.reporting.report import LOG_KEYS

# What the monitor, and a check, add to the logs of an epoch.
LOGS = {
    *LOG_KEYS,
    *("grad_sq_norm", "noise_trace", "noise_scale", "weight_sq_norm"),
    *("noise_to_signal", "preconditioned_noise_to_signal"),
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


def assert_trains_alike(build_model, life, monitors=None):
    """Compares a training with monitors with the same one without.

    Args:
        build_model: Makes a model, from the same seed each time.
        life: Function of the model and a list of monitors, which trains it.
        monitors: One that measures every second step if None.

    Returns:
        What the measured `life` returned, and the monitors.
    """
    measured, ends = monitors or [GradientNoiseMonitor(every=2)], []
    for monitors in ([], measured):
        keras.utils.set_random_seed(0)
        model = build_model()
        ends.append((life(model, monitors), bits_of(model)))
    theirs, ours = ends
    assert_same_bits(ours, theirs)
    assert len(measured[0].series) > 0
    return ours[0], measured
