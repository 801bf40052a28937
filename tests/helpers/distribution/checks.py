"""Checks under a strategy: what one device computes is computed."""

import contextlib
import functools
import os
import tempfile

import keras
import numpy as np
import tensorflow as tf

from experiments.ngd_model import NGDModel
from keras_svag import SVAG, GradientNoiseMonitor, SVAGAdam, SVAGModel, backend
from tests.helpers.bits import assert_same_bits
from tests.helpers.pairs import observation
from tests.helpers.small_problems import (
    dense_network,
    interleaved,
    largest_difference,
    linear_model,
    regression,
)

# Pairs of it divide by 2 and 4 replicas.
SUB_BATCH = 12
NUM_STEPS = 4
ELL = 3


class Replicated(backend.MultiWorkerModel):
    """A model as it is, whose `fit` works over several workers too."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def call(self, inputs):
        return self.model(inputs)


def fit(model, x, y, batch_size, **kwargs):
    kwargs = {"verbose": 0, "shuffle": False, **kwargs}
    return model.fit(x, y, batch_size=batch_size, **kwargs).history


def svag():
    schedule = keras.optimizers.schedules.CosineDecay(0.5, 4)
    return SVAG(schedule, ell=ELL, weight_decay=0.1)


def adam():
    # An epsilon that is not small: forgetting it is seen.
    return SVAGAdam(
        0.02, epsilon=0.03, ell=ELL, pairing="halves", weight_decay=0.1
    )


def consecutive(num_outputs=2):
    return regression(NUM_STEPS * 2 * SUB_BATCH, num_outputs=num_outputs)


def pairs(num_outputs=2):
    return [interleaved(rows, SUB_BATCH) for rows in consecutive(num_outputs)]


def compiled(build_model, optimizer, scope=None, wrap=SVAGModel, **kwargs):
    with scope or contextlib.nullcontext():
        model = wrap(build_model())
        model.compile(optimizer, "mse", **kwargs)
    return model


@functools.cache
def one_device(make_optimizer=svag):
    model = compiled(dense_network, make_optimizer())
    fit(model, *pairs(), 2 * SUB_BATCH)
    return model


def under(strategy, make_optimizer=svag, build_model=dense_network, **kwargs):
    with strategy.scope():
        optimizer = make_optimizer()
    return compiled(build_model, optimizer, strategy.scope(), **kwargs)


def mean_observation(replicas, x, y, kernel, scales=(1.0,)):
    """The replicas' mean (G, S) of a linear model's mse, for each scale."""
    found = []
    parts = (np.array_split(rows, replicas) for rows in (x, y))
    for x, y in zip(*parts, strict=True):
        pair = [
            2 * x[i::2].T @ (x[i::2] @ kernel - y[i::2]) / len(x[i::2])
            for i in (0, 1)
        ]
        found.append([observation(pair, len(x), scale) for scale in scales])
    return np.mean(found, 0).ravel()


def observed_on_one_device(make_optimizer, replicas):
    """A trained linear model, and the replicas' mean observation of a step."""
    model = compiled(lambda: linear_model(4), make_optimizer())
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)
    observations = []
    batches = (np.split(rows, NUM_STEPS) for rows in pairs(num_outputs=1))
    for batch in zip(*batches, strict=True):
        kernel, scale = model.get_weights()[0], np.nan
        if isinstance(optimizer, SVAGAdam):
            v = optimizer._velocities[0].numpy()
            scale = (v > 0) / (np.sqrt(v) + optimizer.epsilon * ELL**0.5)
        seen = mean_observation(replicas, *batch, kernel, (1.0, scale))
        observations.append(seen)
        model.train_on_batch(*batch)
    return model, np.array(observations)


def check_svag_model_and_its_noise_are_those_of_one_device(strategy):
    """The weights; and G and S, the mean over the replicas, by NumPy."""
    for make_optimizer in (svag, adam):
        expected, observations = observed_on_one_device(
            make_optimizer, strategy.num_replicas_in_sync
        )
        model = under(strategy, make_optimizer, lambda: linear_model(4))
        monitor = GradientNoiseMonitor()
        data = pairs(num_outputs=1)
        logs = fit(model, *data, 2 * SUB_BATCH, callbacks=[monitor])
        assert largest_difference(model, expected) < 1e-6
        assert model.optimizer.effective_iterations == NUM_STEPS / ELL
        times = [m.optimizer.continuous_time for m in (model, expected)]
        times = map(keras.ops.convert_to_numpy, times)
        np.testing.assert_allclose(*times, rtol=1e-9)
        series = monitor.series
        found = np.array([series[name] for name in series.COLUMNS[6:10]]).T
        np.testing.assert_allclose(found, observations, rtol=1e-4, atol=1e-6)
        assert series["rows"].tolist() == NUM_STEPS * [2 * SUB_BATCH]
        assert series["iteration"].tolist() == [*range(NUM_STEPS)]
        norm = np.sum(linear_model(4).get_weights()[0] ** 2)
        np.testing.assert_allclose(series["weight_sq_norm"][0], norm, 1e-5)
        halves = adam is make_optimizer
        assert monitor.batch_size == (2 if halves else 1) * SUB_BATCH
        assert ("preconditioned_noise_to_signal" in logs) == halves


def check_plain_model_equals_one_device(strategy):
    """Its pairs are batches; saved and loaded between the two of a pair."""
    x, y = consecutive()
    done = 3 * SUB_BATCH
    plain = backend.has_several_workers(strategy) and Replicated
    model = under(strategy, adam, wrap=plain or (lambda model: model))
    fit(model, x[:done], y[:done], SUB_BATCH)
    if not plain:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.keras")
            model.save(path)
            with strategy.scope():
                model = keras.saving.load_model(path)
    fit(model, x[done:], y[done:], SUB_BATCH)
    assert largest_difference(model, one_device(adam)) < 1e-6
    assert model.optimizer.effective_iterations == NUM_STEPS / ELL


def collectives(strategy, model):
    """Numbers of elements that each all-reduce of a training step carries."""
    data = tf.data.Dataset.from_tensor_slices(tuple(pairs())).repeat()
    data = data.batch(2 * SUB_BATCH, drop_remainder=True)
    batch = next(iter(strategy.experimental_distribute_dataset(data)))
    with strategy.scope():
        model.optimizer.build(model.trainable_variables)

    @tf.function
    def step(batch):
        return strategy.run(model.train_step, args=(batch,))

    graph = step.get_concrete_function(batch).graph
    return sorted(
        operation.inputs[0].shape.num_elements()
        for g in (graph, *(f.graph for f in graph._functions.values()))
        for operation in g.get_operations()
        if operation.type.startswith("CollectiveReduce")
    )


def check_no_more_gradients_are_reduced_than_by_sgd(strategy):
    plain = under(strategy, lambda: keras.optimizers.SGD(0.1), wrap=Replicated)
    expected = collectives(strategy, plain)
    total = sum(np.prod(v.shape) for v in plain.trainable_variables)
    assert sum(expected) >= total, "the all-reduces of SGD were not found"
    for wrap in (Replicated, SVAGModel):
        assert collectives(strategy, under(strategy, wrap=wrap)) == expected


def check_evaluate_and_predict(strategy):
    model = under(strategy)
    expected = compiled(dense_network, svag())
    # Batches that split unevenly, from the first one on; and a last one that
    # is too small to split.
    for rows, batch_size in ((31, 11), (25, 12)):
        x, y = regression(rows)
        way = {"batch_size": batch_size, "verbose": 0}
        logs = model.evaluate(x, y, return_dict=True, **way)
        assert set(logs) == {"loss"}
        loss = expected.evaluate(x, y, **way)
        np.testing.assert_allclose(logs["loss"], loss, rtol=1e-5)
        predictions = [m.predict(x, **way) for m in (model, expected)]
        np.testing.assert_allclose(*predictions, atol=1e-5)


def batch_normalized():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.BatchNormalization(momentum=0.5),
            keras.layers.Dense(2, use_bias=False),
        ]
    )


def check_state_of_every_replica_is_restored(strategy):
    model = under(strategy, lambda: SVAG(0.1, ell=2), batch_normalized)
    fit(model, *pairs(), 2 * SUB_BATCH)
    own = [*model.non_trainable_variables, *model.metrics_variables]
    shared = [*model.trainable_variables, *model.optimizer.variables]
    saved = backend.replica_values(strategy, own)
    saved_shared = [*map(keras.ops.convert_to_numpy, shared)]
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
    assert_same_bits(*trained)
    assert_same_bits(backend.replica_values(strategy, own), saved)


def check_noisy_gradient_descent_equals_one_device(strategy):
    x, y = regression(48)
    models, logs = [], []
    for scope in (strategy.scope(), contextlib.nullcontext()):
        with scope:
            models.append(NGDModel(dense_network(), 8, 18, seed=1))
            optimizer = keras.optimizers.SGD(0.5)
            models[-1].compile(optimizer, "mse", metrics=["mae"])
        logs.append(fit(models[-1], x, y, len(x), epochs=3))
    assert largest_difference(*models) < 1e-6
    for key, values in logs[1].items():
        np.testing.assert_allclose(logs[0][key], values, rtol=1e-5)
