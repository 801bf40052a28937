"""Checks under a strategy: models that train, and what is refused."""

import keras
import numpy as np

from keras_svag import SVAG, GradientNoiseMonitor, backend
from tests.helpers.distribution.checks import (
    SUB_BATCH,
    fit,
    pairs,
    svag,
    under,
)
from tests.helpers.small_problems import regression


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
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def check_optimizer_created_outside_the_scope_is_refused(strategy):
    outside = svag()
    model = under(strategy, lambda: outside)
    refused(lambda: fit(model, *pairs(), 2 * SUB_BATCH), "strategy.scope()")


def batch_normalized():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.BatchNormalization(momentum=0.5),
            keras.layers.Dense(2, use_bias=False),
        ]
    )


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
    for observed, expected in zip(*states, strict=True):
        np.testing.assert_array_equal(observed, expected)


def check_state_of_every_replica_is_restored(strategy):
    model = under(strategy, lambda: SVAG(0.1, ell=2), batch_normalized)
    fit(model, *pairs(), 2 * SUB_BATCH)
    own = [*model.non_trainable_variables, *model.metrics_variables]
    shared = [*model.trainable_variables, *model.optimizer.variables]
    saved = backend.replica_values(strategy, own)
    saved_shared = [keras.ops.convert_to_numpy(v) for v in shared]
    assert any(np.any(values != values[0]) for values in saved)
    for variable, values in zip(own, saved, strict=True):
        assert values.shape[1:] == tuple(variable.shape)
        assert values.dtype == variable.dtype

    trained = []
    for _ in range(2):
        fit(model, *pairs(), 2 * SUB_BATCH)
        values = backend.replica_values(strategy, own)
        trained.append([*values, *map(keras.ops.convert_to_numpy, shared)])
        backend.assign_replica_values(strategy, own, saved)
        for variable, value in zip(shared, saved_shared, strict=True):
            variable.assign(value)
    restored = backend.replica_values(strategy, own)
    for ours, theirs in (trained, (restored, saved)):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
