"""Whole training scripts, in the style of Keras's guides, with a check."""

import contextlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_svag import ScalingRuleCheck
from tests.helpers.small_problems import dense_network, regression

pytestmark = pytest.mark.slow


def stopped_early(callbacks, folder):
    """Text classification: TensorBoard, the best weights restored."""
    x = np.random.default_rng(0).integers(1, 30, (203, 12))
    y = (np.median(x, axis=1) < 15).astype("float32")
    model = keras.Sequential(
        [
            layers.Embedding(30, 8),
            layers.GlobalAveragePooling1D(),
            layers.Dense(16, activation="relu"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile("adam", "binary_crossentropy", metrics=["accuracy", "AUC"])
    others = [
        keras.callbacks.EarlyStopping(
            "val_loss", min_delta=1.0, patience=2, restore_best_weights=True
        ),
        keras.callbacks.TensorBoard(folder / "logs", write_graph=False),
        keras.callbacks.ModelCheckpoint(
            folder / "{epoch}.weights.h5", save_weights_only=True
        ),
    ]
    history = model.fit(
        *(x, y, 32),
        epochs=9,
        validation_split=0.2,
        callbacks=[*callbacks, *others],
        verbose=0,
    )
    assert len(history.epoch) == 3
    return model, history.history, x, y


class Preempted(keras.callbacks.Callback):
    """The machine is taken away in the middle of the third epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations == 2 * 4 + 2:
            raise KeyboardInterrupt


def preempted(callbacks, folder):
    """Killed in an epoch, BackupAndRestore goes on where it began."""
    x, y = regression(50)

    def backup():
        return keras.callbacks.BackupAndRestore(folder / "backup")

    for others in ([backup(), Preempted()], [backup()]):
        model = dense_network()
        model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
        with contextlib.suppress(KeyboardInterrupt):
            history = model.fit(
                *(x, y, 16),
                shuffle=False,
                epochs=4,
                callbacks=[*callbacks, *others],
                verbose=0,
            )
    assert history.epoch == [2, 3]
    return model, history.history, x, y


def scalars(folder):
    """The values of TensorBoard's scalars, `{tag: [bytes]}`."""
    values = {}
    for file in sorted(folder.rglob("events*")):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                content = value.tensor.SerializeToString()
                values.setdefault(value.tag, []).append(content)
    return values


def names_of_files(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    # An events file is named after the time and the process.
    return sorted(
        re.sub(r"events\.out\..*", "events", str(path.relative_to(folder)))
        for path in files
    )


@pytest.mark.parametrize("script", [stopped_early, preempted])
def test_script_gives_the_same_with_the_check(script, tmp_path):
    folders = [tmp_path / "plain", tmp_path / "checked"]
    check, left = ScalingRuleCheck(every=2, verbose=0), []
    for folder, callbacks in zip(folders, ([], [check]), strict=True):
        folder.mkdir()
        keras.utils.set_random_seed(0)
        model, history, x, y = script(callbacks, folder)
        variables = [*model.variables, *model.optimizer.variables]
        left.append(
            [
                *map(np.array, variables),
                model.evaluate(x, y, verbose=0),
                model.predict(x, verbose=0),
            ]
        )
        left.append(history)
    theirs, plain, ours, checked = left
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
    assert {key: checked[key] for key in plain} == plain
    added = set(checked) - set(plain)
    assert {"noise_to_signal", "max_batch_size_high"} <= added
    assert check.report.verdict.noise_to_signal != 0
    assert names_of_files(folders[1]) == names_of_files(folders[0])
    theirs, ours = map(scalars, folders)
    assert {tag: ours[tag] for tag in theirs} == theirs
    if theirs:
        assert set(ours) - set(theirs) == {f"epoch_{key}" for key in added}
