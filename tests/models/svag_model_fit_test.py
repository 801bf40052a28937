"""SVAGModel in Keras's loops: fit, evaluate, save, load, train_on_batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag import SVAG, SVAGModel
from tests.helpers.small_problems import (
    dense_network,
    interleaved,
    largest_difference,
    regression,
)
from tests.models.svag_model_networks_test import BATCH, OwnLoss, fit


def test_validation_within_fit_keeps_the_noise_and_has_no_twins():
    x, y = regression(32)
    logs = []
    for validation in (None, regression(16, seed=1)):
        wrapped = SVAGModel(dense_network())
        wrapped.compile(SVAG(0.1, ell=2), "mse", metrics=["mae"])
        logs.append(fit(wrapped, x, y, epochs=2, validation_data=validation))
    without, with_validation = logs
    validated = {key for key in with_validation if key.startswith("val_")}
    assert validated == {"val_loss", "val_mae"}
    for key, values in without.items():
        assert with_validation[key] == values, key


def test_evaluation_has_no_noise_metrics():
    x, y = regression(16)
    wrapped = SVAGModel(dense_network())
    wrapped.compile(SVAG(0.1, ell=2), "mse", metrics=["mae"])
    fit(wrapped, x, y)
    for logs in (
        wrapped.evaluate(x, y, verbose=0, return_dict=True),
        wrapped.test_on_batch(x, y, return_dict=True),
    ):
        assert set(logs) == {"loss", "mae"}
    assert "noise_trace" in wrapped.get_metrics_result()


def test_train_on_batch_is_fit():
    x, y = regression(32)
    by_fit, by_batch = (SVAGModel(dense_network()) for _ in range(2))
    for wrapped in (by_fit, by_batch):
        wrapped.compile(SVAG(0.1, ell=2), "mse")
    history = fit(by_fit, x, y)
    noise_traces = []
    for start in range(0, 32, BATCH):
        rows = slice(start, start + BATCH)
        # Before 3.15 Keras's logs are of all the batches so far.
        by_batch.reset_metrics()
        logs = by_batch.train_on_batch(x[rows], y[rows], return_dict=True)
        noise_traces.append(logs["noise_trace"])
    assert largest_difference(by_fit, by_batch) == 0
    assert history["noise_trace"] == pytest.approx([np.mean(noise_traces)])
    # Another size must not make the number of rows unknown.
    by_batch.train_on_batch(x[:4], y[:4])
    by_batch.train_on_batch(x[:12], y[:12])


def test_several_steps_per_execution():
    x, y = regression(64)
    runs = []
    for steps in (1, 4):
        wrapped = SVAGModel(dense_network())
        wrapped.compile(SVAG(0.1, ell=2), "mse", steps_per_execution=steps)
        runs.append((wrapped, fit(wrapped, x, y)))
    (one, one_logs), (four, four_logs) = runs
    assert largest_difference(one, four) < 1e-6
    assert four_logs["noise_trace"] == pytest.approx(one_logs["noise_trace"])


def test_another_batch_size_in_a_later_fit():
    x, y = regression(48)
    wrapped = SVAGModel(dense_network())
    wrapped.compile(SVAG(0.1, ell=2), "mse")
    for batch_size in (8, 16, 12, 8):
        fit(wrapped, x, y, batch_size=batch_size)
        size = wrapped.gradient_noise.estimate().batch_size
        assert size == batch_size // 2
    for batch_size in (8, 24):
        data = tf.data.Dataset.from_tensor_slices((x, y))
        wrapped.fit(data.batch(batch_size, drop_remainder=True), verbose=0)


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("kind", ["sequential", "subclassed"])
def test_loaded_model_trains_on_exactly(tmp_path, kind, per_layer):
    x, y = regression(64)
    keras.utils.set_random_seed(0)
    model = dense_network() if kind == "sequential" else OwnLoss()
    wrapped = SVAGModel(model, per_layer=per_layer, num_examples=64)
    optimizer = SVAG(
        keras.optimizers.schedules.CosineDecay(0.5, 10),
        ell=2,
        weight_decay=0.1,
    )
    wrapped.compile(optimizer, "mse", metrics=["mae"])
    fit(wrapped, x[:32], y[:32])
    wrapped.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for argument in ("measure_noise", "per_layer", "num_examples", "sampling"):
        assert getattr(loaded, argument) == getattr(wrapped, argument)
    np.testing.assert_array_equal(loaded(x), wrapped(x))
    histories = [fit(m, x[32:], y[32:]) for m in (wrapped, loaded)]
    assert histories[0] == histories[1]
    assert largest_difference(wrapped, loaded) == 0
    assert loaded.optimizer.effective_iterations == 8 / 2
    inner = tmp_path / "inner.keras"
    loaded.model.save(inner)
    np.testing.assert_array_equal(keras.saving.load_model(inner)(x), loaded(x))


def test_pairs_of_a_shuffled_data_set_are_split_by_parity():
    # The halves are rows 0, 2, 4, … and 1, 3, 5, … of a batch.
    x, y = regression(16)
    plain = dense_network()
    plain.compile(SVAG(0.1, ell=4), "mse")
    fit(plain, x, y)
    wrapped = SVAGModel(dense_network())
    wrapped.compile(SVAG(0.1, ell=4), "mse")
    data = tf.data.Dataset.from_tensor_slices(
        (interleaved(x, 8), interleaved(y, 8))
    )
    wrapped.fit(data.batch(16, drop_remainder=True), verbose=0)
    assert largest_difference(plain, wrapped) == 0
