"""Checks under a strategy of replicas in one process."""

import keras
import numpy as np
import pytest

from keras_svag import SVAG, GradientNoiseMonitor, backend
from keras_svag import measure_gradient_noise as measure
from tests.helpers.bits import (
    assert_same_bits,
    assert_trains_alike,
    without_noise,
)
from tests.helpers.distribution.checks import (
    SUB_BATCH,
    batch_normalized,
    fit,
    mean_observation,
    pairs,
    svag,
    under,
)
from tests.helpers.public_models import convolutions
from tests.helpers.small_problems import (
    classification,
    linear_model,
    regression,
)

BATCH_SIZE = 8


def check_batch_that_replicas_cannot_pair_is_refused(strategy):
    pair = 2 * strategy.num_replicas_in_sync
    model = under(strategy)
    before = model.get_weights()
    for size, sentence in (
        (pair // 2, "at least 2 rows on each replica.*got 1"),
        (pair + 1, f"drop_remainder=True.*multiple of {pair}"),
    ):
        with pytest.raises(ValueError, match=sentence):
            fit(model, *regression(4 * size), size)
    assert_same_bits(model.get_weights(), before)


def check_batches_need_a_static_size(strategy):
    model = under(strategy)
    data = regression(2 * BATCH_SIZE + 3)
    with pytest.raises(ValueError, match="drop_remainder=True"):
        fit(model, *data, BATCH_SIZE)
    before = model.get_weights()
    model.train_on_batch(*(rows[:BATCH_SIZE] for rows in data))
    assert not np.array_equal(model.get_weights()[0], before[0])


def check_optimizer_created_outside_the_scope_is_refused(strategy):
    outside = svag()
    model = under(strategy, lambda: outside)
    with pytest.raises((TypeError, ValueError), match=r"strategy\.scope\(\)"):
        fit(model, *pairs(), 2 * SUB_BATCH)


def check_batch_normalization_is_of_each_half_on_each_replica(strategy):
    replicas = strategy.num_replicas_in_sync
    model = under(strategy, lambda: SVAG(0.0, ell=2), batch_normalized)
    data = regression(2 * SUB_BATCH)
    logs = fit(model, *data, len(data[0]))
    layer, dense = model.model.layers
    kernel = np.asarray(dense.kernel)
    losses, moving_means = [], []
    parts = (np.split(rows, replicas) for rows in data)
    for x, y in zip(*parts, strict=True):
        moving_mean = np.zeros(4)
        for half in (0, 1):
            own = x[half::2]
            normalized = own - own.mean(0)
            normalized /= np.sqrt(own.var(0) + layer.epsilon)
            losses.append(np.mean((normalized @ kernel - y[half::2]) ** 2))
            moving_mean = 0.5 * moving_mean + 0.5 * own.mean(0)
        moving_means.append(moving_mean)
    np.testing.assert_allclose(logs["loss"][0], np.mean(losses), rtol=1e-5)
    # Keras keeps each replica's running average apart.
    [ours] = backend.replica_values(strategy, [layer.moving_mean])
    np.testing.assert_allclose(ours, moving_means, atol=1e-6)


def check_observing_at_ell_1_leaves_the_state_of_every_replica(strategy):
    def life(model, monitors):
        fit(model, *pairs(), 2 * SUB_BATCH, callbacks=monitors)
        return backend.replica_values(strategy, model.variables)

    def build_model():
        return under(strategy, lambda: SVAG(0.1), batch_normalized)

    assert_trains_alike(build_model, life, [GradientNoiseMonitor()])


# Beside training


def replicated(strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        return convolutions().model


def bits_of_every_replica(strategy, model):
    variables = model.variables, model.optimizer.variables
    variables = [*variables[0], *variables[1], *model.metrics_variables]
    return backend.replica_values(strategy, variables)


def check_training_keeps_its_bits(strategy, rows=43):
    data = classification(rows, (6, 6, 2))

    def life(model, monitors):
        way = {"callbacks": monitors, "epochs": 2}
        logs = [fit(model, *data, BATCH_SIZE, **way) for _ in range(2)]
        of_replicas = bits_of_every_replica(strategy, model)
        return [*map(without_noise, logs)], of_replicas

    assert_trains_alike(lambda: replicated(strategy), life)


def check_training_keeps_its_bits_where_no_replica_has_one_row(strategy):
    check_training_keeps_its_bits(strategy, rows=46)


def check_observation_is_the_mean_of_those_of_the_replicas(strategy):
    # The last batch: of 5 rows, which are 3 and 2; of 3, which are 2 and 1.
    for last in (0, 5, 3):
        x, y = regression(5 * BATCH_SIZE + last, num_outputs=1)
        with strategy.scope():
            model = linear_model(4)
            model.compile(keras.optimizers.SGD(0.0), "mse")
        kernel = model.get_weights()[0].astype("float64")
        monitor = GradientNoiseMonitor(every=1)
        fit(model, x, y, BATCH_SIZE, callbacks=[monitor], epochs=2)
        rows, expected = [], []
        for start in range(0, len(x), BATCH_SIZE):
            batch = [a[start : start + BATCH_SIZE] for a in (x, y)]
            # Else one of the replicas has a single row.
            if len(batch[0]) > 3:
                rows.append(len(batch[0]))
                expected.append(mean_observation(2, *batch, kernel))
        # The very first step of training is not measured.
        expected, rows = ((2 * values)[1:] for values in (expected, rows))
        series = monitor.series
        np.testing.assert_array_equal(series["rows"], rows)
        found = [series["grad_sq_norm"], series["example_noise"]]
        np.testing.assert_allclose(np.transpose(found), expected, 1e-4, 1e-6)


def check_probe_measures_what_one_device_does(strategy):
    data = classification(96, (6, 6, 2))

    def measured(model):
        noise = measure(model, data, 24, 6, seed=1, verbose=0)
        return noise.grad_sq_norm, noise.example_noise, *noise.interval()

    ours = replicated(strategy)
    keras.utils.set_random_seed(0)
    single = convolutions().model
    assert measured(ours) == measured(single)

    fit(ours, *data, BATCH_SIZE)
    before = bits_of_every_replica(strategy, ours)
    outside = measured(ours)
    with strategy.scope():
        inside = measured(ours)
    assert_same_bits(bits_of_every_replica(strategy, ours), before)
    for v, w in zip(single.variables, ours.variables, strict=True):
        v.assign(w.value)
    for found in (outside, inside):
        np.testing.assert_allclose(found, measured(single), rtol=1e-4)
