"""Checks under a strategy of replicas in one process."""

import keras
import numpy as np

from keras_svag import SVAG, GradientNoiseMonitor, backend
from keras_svag import measure_gradient_noise as measure
from tests.helpers.bits import assert_same_bits, bits_of, without_noise
from tests.helpers.distribution.checks import (
    SUB_BATCH,
    batch_normalized,
    fit,
    halves_gradients,
    pairs,
    svag,
    under,
)
from tests.helpers.pairs import observation
from tests.helpers.public_models import convolutions
from tests.helpers.small_problems import (
    classification,
    linear_model,
    regression,
)

BATCH_SIZE = 8


def refused(action, *parts):
    try:
        action()
    except (TypeError, ValueError) as error:
        for part in parts:
            assert part in str(error), (part, str(error))
    else:
        raise AssertionError(f"not refused with {parts}")


def check_batch_that_replicas_cannot_pair_is_refused(strategy):
    replicas = strategy.num_replicas_in_sync
    model = under(strategy)
    before = model.get_weights()
    for size, sentence in (
        (replicas, ("at least 2 rows on each replica", "got 1")),
        (
            2 * replicas + 1,
            ("drop_remainder=True", f"multiple of {2 * replicas}"),
        ),
    ):
        data = regression(4 * size)
        refused(lambda d=data, n=size: fit(model, *d, n), *sentence)
    assert_same_bits(model.get_weights(), before)


def check_batches_need_a_static_size(strategy):
    model = under(strategy)
    data = regression(2 * BATCH_SIZE + 3)
    refused(lambda: fit(model, *data, BATCH_SIZE), "drop_remainder=True")
    before = model.get_weights()
    model.train_on_batch(*(rows[:BATCH_SIZE] for rows in data))
    assert not np.array_equal(model.get_weights()[0], before[0])


def check_optimizer_created_outside_the_scope_is_refused(strategy):
    outside = svag()
    model = under(strategy, lambda: outside)
    refused(lambda: fit(model, *pairs(), 2 * SUB_BATCH), "strategy.scope()")


def check_batch_normalization_is_of_each_half_on_each_replica(strategy):
    replicas = strategy.num_replicas_in_sync
    model = under(strategy, lambda: SVAG(0.0, ell=2), batch_normalized)
    x, y = regression(2 * SUB_BATCH)
    logs = fit(model, x, y, len(x))
    layer, dense = model.model.layers
    kernel = np.asarray(dense.kernel)
    rows = len(x) // replicas
    losses, moving_means = [], []
    for start in range(0, len(x), rows):
        moving_mean = np.zeros(4)
        for half in (slice(start + i, start + rows, 2) for i in (0, 1)):
            mean, variance = x[half].mean(0), x[half].var(0)
            normalized = (x[half] - mean) / np.sqrt(variance + layer.epsilon)
            losses.append(np.mean((normalized @ kernel - y[half]) ** 2))
            moving_mean = 0.5 * moving_mean + 0.5 * mean
        moving_means.append(moving_mean)
    np.testing.assert_allclose(logs["loss"][0], np.mean(losses), rtol=1e-5)
    # Keras keeps each replica's running average apart.
    ours = strategy.experimental_local_results(layer.moving_mean.value)
    np.testing.assert_allclose(ours, moving_means, atol=1e-6)


def check_observing_at_ell_1_leaves_the_state_of_every_replica(strategy):
    states = []
    for callbacks in ([], [GradientNoiseMonitor()]):
        model = under(strategy, lambda: SVAG(0.1), batch_normalized)
        fit(model, *pairs(), 2 * SUB_BATCH, callbacks=callbacks)
        states.append(backend.replica_values(strategy, model.variables))
    assert_same_bits(*states)


# Beside training


def replicated(strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        return convolutions().model


def bits_of_every_replica(strategy, model):
    variables = [
        *model.variables,
        *model.optimizer.variables,
        *model.metrics_variables,
    ]
    return [
        [part.numpy() for part in strategy.experimental_local_results(v.value)]
        for v in variables
    ]


def check_training_keeps_its_bits(strategy):
    for rows in (43, 46):
        data = classification(rows, (6, 6, 2))
        left = []
        for monitors in ([], [GradientNoiseMonitor(every=2)]):
            model = replicated(strategy)
            logs = [
                fit(model, *data, BATCH_SIZE, callbacks=monitors, epochs=2)
                for _ in range(2)
            ]
            of_replicas = bits_of_every_replica(strategy, model)
            logs = [*map(without_noise, logs)]
            left.append((logs, bits_of(model), of_replicas))
        assert_same_bits(*left)
        assert len(monitors[0].series) > 0


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
            parts = [*zip(*(np.array_split(a, 2) for a in batch), strict=True)]
            if len(parts[1][0]) > 1:
                rows.append(len(batch[0]))
                of_replicas = (
                    observation(halves_gradients(*part, kernel), len(part[0]))
                    for part in parts
                )
                expected.append(np.mean([*of_replicas], 0))
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
