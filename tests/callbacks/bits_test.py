"""Law 1: with the monitor a model trains as without it, to the bit."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag import GradientNoiseMonitor
from tests.helpers import public_models as models
from tests.helpers.public_models import BATCH_SIZE

LOGS = {
    "grad_sq_norm",
    "noise_trace",
    "noise_to_signal",
    "noise_scale",
    "weight_sq_norm",
    "preconditioned_noise_to_signal",
}


# Ways of `fit`


def arrays(script, **arguments):
    return script.model.fit(
        script.x,
        script.y,
        batch_size=BATCH_SIZE,
        sample_weight=script.sample_weight,
        verbose=0,
        **{"epochs": 2, **script.fit, **arguments},
    ).history


def epoch_by_epoch(script, **arguments):
    histories = [arrays(script, epochs=1, **arguments) for _ in range(3)]
    return {k: [h[k] for h in histories] for k in histories[0]}


def one_row_last(script, **arguments):
    rows = 2 * BATCH_SIZE + 1
    x, y = _rows(script, slice(rows))
    return arrays(script._replace(x=x, y=y), epochs=3, **arguments)


def data_set(script, **arguments):
    data = tf.data.Dataset.from_tensor_slices((script.x, script.y))
    data = data.shuffle(50, seed=1).batch(BATCH_SIZE).prefetch(2)
    return script.model.fit(data, epochs=2, verbose=0, **arguments).history


class Batches(keras.utils.PyDataset):
    def __init__(self, script):
        super().__init__()
        self.script = script

    def __len__(self):
        return -(-models.ROWS // BATCH_SIZE)

    def __getitem__(self, index):
        start = index * BATCH_SIZE
        return _rows(self.script, slice(start, start + BATCH_SIZE))


def py_data_set(script, **arguments):
    return script.model.fit(
        Batches(script), epochs=2, verbose=0, **arguments
    ).history


def generator(script, **arguments):
    def batches():
        rng = np.random.default_rng(1)
        while True:
            yield _rows(script, rng.choice(models.ROWS, rng.integers(2, 9)))

    return script.model.fit(
        batches(), steps_per_epoch=6, epochs=2, verbose=0, **arguments
    ).history


def _rows(script, rows):
    return keras.tree.map_structure(lambda a: a[rows], (script.x, script.y))


WAYS = {
    "arrays": (arrays, {}),
    "epoch by epoch": (epoch_by_epoch, {}),
    "one row last": (one_row_last, {}),
    "tf.data": (data_set, {}),
    "PyDataset": (py_data_set, {}),
    "generator": (generator, {}),
    "eager": (arrays, {"run_eagerly": True}),
    "XLA": (arrays, {"jit_compile": True}),
    "four steps at once": (arrays, {"steps_per_execution": 4}),
}

MODELS = [
    models.perceptron,
    models.convolutions,
    models.frozen_batch_normalization,
    models.augmented_images,
    models.half_precision,
    models.spectral_normalization,
    models.vector_quantization,
    models.counted_calls,
    models.noise_without_a_seed,
    models.numpy_noise,
    models.mixture_of_experts,
    models.summed_add_loss,
    models.minibatch_deviation,
    models.attention_across_examples,
    models.regularizers,
    models.dice_loss,
    models.in_batch_negatives,
    models.named_targets,
    models.masked_lstm,
    models.class_weights,
    models.sample_weights,
    models.embeddings,
    models.sparse_input,
    models.ragged_input,
    models.subclass,
    models.own_train_step,
    models.own_compute_loss,
    models.own_compute_metrics,
    models.variational_autoencoder,
    models.low_rank_adaptation,
    models.int8,
    models.float8,
    models.moving_average_of_weights,
    models.clipped_norms,
    models.clipped_global_norm,
    models.weight_decay,
    models.accumulated_gradients,
    models.adamw,
    models.adafactor,
    models.lion,
    models.rmsprop,
]

IN_EVERY_WAY = [
    models.convolutions,
    models.masked_lstm,
    models.own_train_step,
    models.summed_add_loss,
    models.embeddings,
]

FITS = [(model, "arrays") for model in MODELS] + [
    (model, way) for model in IN_EVERY_WAY for way in WAYS if way != "arrays"
]


class StepLogs(keras.callbacks.Callback):
    """The logs of every training step, as other callbacks see them."""

    def __init__(self):
        super().__init__()
        self.logs = []

    def on_train_batch_end(self, batch, logs=None):
        self.logs.append((batch, {k: np.array(v) for k, v in logs.items()}))


def trained(make_script, way, monitored):
    """All that training leaves behind, and the monitor."""
    fit, compilation = WAYS[way]
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    script = make_script(**compilation)
    monitor = GradientNoiseMonitor(every=2, **script.monitor)
    steps = StepLogs()
    callbacks = [steps, *([monitor] if monitored else [])]
    history = fit(script, callbacks=callbacks)
    model = script.model
    left = {
        "logs": {k: v for k, v in history.items() if k not in LOGS},
        "logs of steps": steps.logs,
        "variables": [keras.ops.convert_to_numpy(v) for v in model.variables],
        "optimizer": [
            keras.ops.convert_to_numpy(v) for v in model.optimizer.variables
        ],
        "metrics": [
            keras.ops.convert_to_numpy(v) for v in model.metrics_variables
        ],
        "predictions": np.array(model(script.x)),
        "draws": [
            random.random(),
            np.random.random(),
            np.array(keras.random.uniform(())),
        ],
    }
    return left, monitor


def assert_same_bits(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        keras.tree.assert_same_structure(ours[name], expected)
        for a, b in zip(
            keras.tree.flatten(ours[name]),
            keras.tree.flatten(expected),
            strict=True,
        ):
            a, b = np.asarray(a), np.asarray(b)
            assert (a.dtype, a.shape) == (b.dtype, b.shape), name
            assert a.tobytes() == b.tobytes(), (name, a, b)


@pytest.mark.parametrize(
    ("make_script", "way"),
    FITS,
    ids=[f"{model.__name__}, {way}" for model, way in FITS],
)
def test_model_trains_as_without_the_monitor(make_script, way):
    theirs, _ = trained(make_script, way, monitored=False)
    ours, monitor = trained(make_script, way, monitored=True)
    assert len(monitor.series) > 0
    assert_same_bits(ours, theirs)
