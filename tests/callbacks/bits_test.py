"""Law 1: with the monitor a model trains as without it, to the bit."""

import time
import zipfile
from unittest import mock

import keras
import numpy as np
import pytest

from keras_svag import GradientNoiseMonitor, ScalingRuleCheck
from tests.helpers import public_models as models
from tests.helpers.bits import assert_trains_alike, without_noise
from tests.helpers.public_models import BACKEND, BATCH_SIZE

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "torch":
    import torch

# Ways of `fit`: its arguments for a script, and settings of the model


def arrays(script):
    names = "x", "y", "sample_weight"
    data = {name: getattr(script, name) for name in names}
    return {**data, "batch_size": BATCH_SIZE, **script.fit}


def _rows(script, rows):
    return keras.tree.map_structure(lambda a: a[rows], (script.x, script.y))


def one_row_last(script):
    x, y = _rows(script, slice(2 * BATCH_SIZE + 1))
    return arrays(script._replace(x=x, y=y))


def data_set(script):
    """Only the end of an epoch shows how many steps it had."""
    data = tf.data.Dataset.from_tensor_slices((script.x, script.y))
    data = data.filter(lambda x, y: True).shuffle(50, seed=1)
    return {"x": data.batch(BATCH_SIZE).prefetch(2)}


def data_loader(script):
    x, y = map(torch.as_tensor, (script.x, script.y))
    data = torch.utils.data.TensorDataset(x, y)
    return {"x": torch.utils.data.DataLoader(data, BATCH_SIZE, shuffle=True)}


class Batches(keras.utils.PyDataset):
    def __init__(self, script):
        super().__init__()
        self.script = script

    def __len__(self):
        return -(-models.ROWS // BATCH_SIZE)

    def __getitem__(self, index):
        start = index * BATCH_SIZE
        return _rows(self.script, slice(start, start + BATCH_SIZE))


def py_data_set(script):
    return {"x": Batches(script)}


def drawn(script):
    """Drawn by NumPy's global generator, in the thread that prefetches."""
    for _ in range(12):
        # Too late for the next step, so that both run at once.
        time.sleep(0.01)
        size = np.random.choice([3, 8])
        yield _rows(script, np.random.choice(models.ROWS, size))


def generator(script):
    return {"x": drawn(script), "steps_per_epoch": 6}


def generator_of_tensorflow(script):
    parts = (script.x, script.y)
    data = tf.data.Dataset.from_generator(
        lambda: drawn(script),
        output_signature=keras.tree.map_structure(
            lambda a: tf.TensorSpec((None, *a.shape[1:]), a.dtype), parts
        ),
    )
    # One call of it within the graph of another data set.
    data = tf.data.Dataset.range(1).interleave(lambda _: data).prefetch(2)
    return {"x": data, "steps_per_epoch": 6}


WAYS = {
    "arrays": (arrays, {}),
    "several fits": (arrays, {}),
    "one row last": (one_row_last, {}),
    "PyDataset": (py_data_set, {}),
    "generator": (generator, {}),
}
if BACKEND != "jax":  # Minutes there; `numpy_noise` is eager, too.
    WAYS["eager"] = arrays, {"run_eagerly": True}
if BACKEND == "tensorflow":
    WAYS |= {
        "tf.data": (data_set, {}),
        "from_generator": (generator_of_tensorflow, {}),
        "XLA": (arrays, {"jit_compile": True}),
    }
if BACKEND == "torch":
    WAYS["DataLoader"] = data_loader, {}
else:  # Keras refuses it.
    WAYS["four steps at once"] = arrays, {"steps_per_execution": 4}

ALL_MODELS = [
    models.convolutions,
    models.frozen_batch_normalization,
    models.augmented_images,
    models.half_precision,
    models.layers_with_state,
    models.noise_without_a_seed,
    models.numpy_noise,
    models.coupled_examples,
    models.dice_loss,
    models.in_batch_negatives,
    models.named_targets,
    models.target_that_is_none,
    models.loss_of_a_layer,
    models.strings,
    models.masked_lstm,
    models.class_weights,
    models.sample_weights,
    models.embeddings,
    models.sparse_input,
    models.ragged_input,
    models.own_computations,
    models.own_train_step,
    models.variational_autoencoder,
    models.int8,
    models.float8,
    models.averaged_and_decayed,
    models.accumulated_and_clipped,
]
QUICK = [
    (models.layers_with_state, "arrays"),
    (models.noise_without_a_seed, "arrays"),
    (models.numpy_noise, "arrays"),
    (models.accumulated_and_clipped, "arrays"),
    (models.own_train_step, "arrays"),
    (models.embeddings, "four steps at once"),
    (models.convolutions, "one row last"),
    (models.convolutions, "generator"),
    (models.convolutions, "eager"),
]
FITS = [
    *QUICK,
    *((model, "arrays") for model in ALL_MODELS),
    *((models.convolutions, way) for way in WAYS),
    *((models.summed_add_loss, way) for way in ("XLA", "PyDataset")),
    *((models.own_train_step, way) for way in ("tf.data", "XLA")),
    (models.masked_lstm, "eager"),
]
# What a backend's own `fit` cannot do: docs/backends.md.
IMPOSSIBLE = {
    "tensorflow": (),
    "jax": (
        models.loss_of_a_layer,
        models.noise_without_a_seed,
        models.ragged_input,
        models.strings,
    ),
    "torch": (models.ragged_input, models.sparse_input, models.strings),
}[BACKEND]
FITS = [
    pytest.param(*fit, marks=() if fit in QUICK else pytest.mark.slow)
    for fit in dict.fromkeys(FITS)
    if fit[0] not in IMPOSSIBLE and fit[1] in WAYS
]


class StepLogs(keras.callbacks.Callback):
    """The logs of every training step, as other callbacks see them."""

    def __init__(self):
        super().__init__()
        self.logs = []

    def on_train_batch_end(self, batch, logs=None):
        self.logs.append((batch, {k: float(v) for k, v in logs.items()}))


@pytest.mark.parametrize(
    ("make_script", "way"),
    FITS,
    ids=lambda value: getattr(value, "__name__", value),
)
def test_model_trains_as_without_the_monitor(make_script, way):
    arguments_of, settings = WAYS[way]
    scripts = [make_script()]

    def build_model():
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        scripts.append(make_script())
        model = scripts[-1].model
        for name, value in settings.items():
            setattr(model, name, value)
        # Called once a trace, or once a step where `fit` is eager.
        model.train_step = mock.Mock(wraps=model.train_step)
        return model

    def life(model, monitors):
        script, steps, logs = scripts[-1], StepLogs(), []
        for _ in range(3 if way == "several fits" else 1):
            arguments = {"epochs": 2, "verbose": 0, **arguments_of(script)}
            history = model.fit(**arguments, callbacks=[steps, *monitors])
            logs.append(without_noise(history.history))
        predictions = keras.tree.map_structure(
            keras.ops.convert_to_numpy, model(script.x)
        )
        return logs, steps.logs, model.train_step.call_count, predictions

    own = scripts[0].monitor
    check = ScalingRuleCheck(every=3, verbose=0, **own)
    monitors = [GradientNoiseMonitor(every=2, **own), check]
    assert_trains_alike(build_model, life, monitors)


FILES = (".keras", ".weights.h5", ".h5")


@pytest.mark.slow
def test_checkpoints_are_those_of_a_fit_without_the_monitor(tmp_path):
    """So they load where keras_svag is not imported, too."""
    written = []
    for callbacks in ([], [GradientNoiseMonitor(every=2)]):
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        paths = [tmp_path / f"model{end}" for end in FILES]
        callbacks += [
            keras.callbacks.ModelCheckpoint(path, save_weights_only=index == 1)
            for index, path in enumerate(paths)
        ]
        script = models.convolutions()
        script.model.fit(**arrays(script), verbose=0, callbacks=callbacks)
        with zipfile.ZipFile(paths[0]) as file:
            assert b"keras_svag" not in file.read("config.json")
            weights = file.read("model.weights.h5")
        written.append([weights, *(path.read_bytes() for path in paths[1:])])
    assert written[0] == written[1]
