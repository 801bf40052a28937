"""Branches and batches that grow, on the backend that runs the tests."""

import keras
import numpy as np
import pytest

import keras_svag
from tests.helpers.bits import assert_same_bits, bits_of
from tests.helpers.small_problems import (
    compiled,
    network_with_state,
    regression,
)


def trained():
    model = compiled(network_with_state(), keras.optimizers.Adam(0.01))
    model.fit(*regression(64), batch_size=8, verbose=0, shuffle=False)
    return model


def test_a_branch_test_leaves_no_trace():
    settings = {"batch_size": 8, "verbose": 0, "shuffle": False}
    options = {"examples": 64, "seeds": 2, "num_batches": 4}
    left = []
    for is_tested in (False, True):
        model = trained()
        if is_tested:
            data = regression(64)
            test = keras_svag.branch_test(
                model, data, 2, batch_size=8, verbose=0, **options
            )
            assert np.isfinite(test.difference).all()
        history = model.fit(*regression(64), **settings).history
        bits = bits_of(model)
        left.append((bits["model"], bits["optimizer"], history))
    assert_same_bits(*left)


class Seen(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.calls = []

    def on_train_begin(self, logs=None):
        self.calls.append("train")

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append((epoch, self.params["steps"]))

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(logs["batch_size"])


def test_batches_grow_within_one_fit():
    model, data, seen = trained(), regression(64), Seen()
    check = keras_svag.ScalingRuleCheck(every=1, verbose=0)
    history = keras_svag.fit_growing(
        model,
        *data,
        batch_size=4,
        max_batch_size=32,
        epochs=4,
        mode={1: 8, 3: 32},
        callbacks=[check, seen],
        validation_data=data,
        verbose=0,
    )
    calls = ["train", (0, 16), 4, (1, 8), 8, (2, 8), 8, (3, 2), 32]
    assert seen.calls == calls
    assert history is model.history
    assert history.history["batch_size"] == [4, 8, 8, 32]
    assert {"loss", "val_loss", "noise_to_signal"} <= {*history.history}
    assert check.report.verdict.batch_size == 32
    found = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    assert found == pytest.approx(0.01 * 8**0.5)
    done = keras.ops.convert_to_numpy(model.optimizer.iterations)
    assert done == 8 + 16 + 8 + 8 + 2
