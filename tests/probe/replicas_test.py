"""The check's probe beside a mirrored training, in a process of its own."""

import subprocess
import sys

import numpy as np

from tests.helpers.paths import ROOT

_TRAINING = """
import sys
import keras
import numpy as np
import tensorflow as tf
from keras_svag.callbacks.check import LinearScalingRuleCheck

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
rng = np.random.default_rng(0)
x = rng.normal(size=(256, 8)).astype("float32")
y = rng.integers(0, 3, 256)
for callbacks in ([], [LinearScalingRuleCheck(32, probe=(x, y), verbose=0)]):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(16),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
                keras.layers.Dropout(0.3),
                keras.layers.Dense(3),
            ]
        )
        model.compile(
            keras.optimizers.SGD(0.1),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
    model.fit(x, y, batch_size=32, epochs=2, verbose=0, callbacks=callbacks)
    for weight in model.get_weights():
        print("weights", *(value.hex() for value in weight.ravel().tolist()))
print("observations", callbacks[0].report.estimate.count)
"""


def test_probe_leaves_a_mirrored_training_as_it_is():
    process = subprocess.run(
        [sys.executable, "-c", _TRAINING],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    weights = [
        line.split()[1:]
        for line in process.stdout.splitlines()
        if line.startswith("weights")
    ]
    half = len(weights) // 2
    assert half == 8
    assert weights[:half] == weights[half:]
    assert not np.isnan([float.fromhex(v) for w in weights for v in w]).any()
    assert "observations 32" in process.stdout
