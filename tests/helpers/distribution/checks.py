"""Checks under a strategy: what one device computes is computed."""

import contextlib
import functools
import os
import tempfile

import keras
import numpy as np
import tensorflow as tf

from keras_svag import (
    SVAG,
    NGDModel,
    SVAGAdam,
    SVAGModel,
    SVAGRMSprop,
)
from keras_svag.models.internals import has_several_workers
from keras_svag.models.wrapper import ModelWrapper
from tests.helpers.small_problems import (
    dense_network,
    interleaved,
    largest_difference,
    linear_model,
    regression,
)

# Pairs of it divide by 2, 3 and 4 replicas.
SUB_BATCH = 12
NUM_STEPS = 6


def fit(model, x, y, batch_size, **kwargs):
    kwargs = {"verbose": 0, "shuffle": False, **kwargs}
    return model.fit(x, y, batch_size=batch_size, **kwargs).history


def optimizer(pairing="independent"):
    schedule = keras.optimizers.schedules.CosineDecay(0.5, 4)
    return SVAG(schedule, ell=3, pairing=pairing, weight_decay=0.1)


def consecutive():
    return regression(NUM_STEPS * 2 * SUB_BATCH)


def pairs():
    return [interleaved(rows, SUB_BATCH) for rows in consecutive()]


@functools.cache
def one_device(pairing="independent"):
    model = SVAGModel(dense_network())
    model.compile(optimizer(pairing), "mse")
    fit(model, *pairs(), 2 * SUB_BATCH)
    return model


def mirrored(
    strategy, wrapped, build_model=dense_network, make_optimizer=optimizer
):
    with strategy.scope():
        model = build_model()
        if wrapped:
            model = SVAGModel(model)
        elif has_several_workers(strategy):
            # There Keras cannot fit a model that nothing wraps.
            model = ModelWrapper(model)
        model.compile(make_optimizer(), "mse")
    return model


def check_svag_model_equals_one_device(strategy):
    for pairing in ("independent", "halves"):
        model = mirrored(
            strategy, True, dense_network, lambda p=pairing: optimizer(p)
        )
        fit(model, *pairs(), 2 * SUB_BATCH)
        expected = one_device(pairing)
        difference = largest_difference(model, expected)
        assert difference < 1e-6, (pairing, difference)
        times = [
            keras.ops.convert_to_numpy(m.optimizer.continuous_time)
            for m in (model, expected)
        ]
        np.testing.assert_allclose(*times, rtol=1e-9)
        assert model.optimizer.effective_iterations == NUM_STEPS / 3


def check_plain_model_equals_one_device(strategy):
    model = mirrored(strategy, False)
    fit(model, *consecutive(), SUB_BATCH)
    assert largest_difference(model, one_device()) < 1e-6
    assert model.optimizer.effective_iterations == NUM_STEPS / 3


def check_adaptive_svag_trains_as_unreplicated(strategy):
    for kind, wrapped in ((SVAGAdam, False), (SVAGRMSprop, True)):

        def make(kind=kind):
            return kind(0.02, ell=3, epsilon=1e-3, weight_decay=0.1)

        expected = SVAGModel(dense_network(), measure_noise=False)
        expected.compile(make(), "mse")
        fit(expected, *pairs(), 2 * SUB_BATCH)
        model = mirrored(strategy, wrapped, make_optimizer=make)
        if wrapped:
            fit(model, *pairs(), 2 * SUB_BATCH)
        else:
            fit(model, *consecutive(), SUB_BATCH)
        assert largest_difference(model, expected) < 1e-6


def check_reload_in_mid_pair(strategy):
    x, y = consecutive()
    done = 3 * SUB_BATCH
    model = mirrored(strategy, False)
    fit(model, x[:done], y[:done], SUB_BATCH)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        model.save(path)
        with strategy.scope():
            loaded = keras.saving.load_model(path)
    fit(loaded, x[done:], y[done:], SUB_BATCH)
    assert largest_difference(loaded, one_device()) < 1e-6


def check_reload_of_svag_model(strategy):
    x, y = pairs()
    done = 2 * 2 * SUB_BATCH
    model = mirrored(strategy, True)
    fit(model, x[:done], y[:done], 2 * SUB_BATCH)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        model.save(path)
        with strategy.scope():
            loaded = keras.saving.load_model(path)
    fit(loaded, x[done:], y[done:], 2 * SUB_BATCH)
    assert largest_difference(loaded, one_device()) < 1e-6


def check_ordinary_optimizer_equals_plain_model_on_one_device(strategy):
    plain = dense_network()
    plain.compile("adam", "mse", metrics=["mae"])
    expected = fit(plain, *pairs(), 2 * SUB_BATCH)
    with strategy.scope():
        model = SVAGModel(dense_network())
        model.compile("adam", "mse", metrics=["mae"])
    history = fit(model, *pairs(), 2 * SUB_BATCH)
    assert largest_difference(model, plain) < 1e-5
    for key, values in expected.items():
        np.testing.assert_allclose(history[key], values, rtol=1e-5)


def check_embedding_trains_as_in_a_plain_model(strategy):
    words = np.random.default_rng(0).integers(0, 5, (16, 3))
    targets = words.sum(1, keepdims=True).astype("float32")

    def embedding():
        keras.utils.set_random_seed(0)
        return keras.Sequential(
            [
                keras.Input((3,), dtype="int32"),
                keras.layers.Embedding(5, 2),
                keras.layers.Flatten(),
                keras.layers.Dense(1),
            ]
        )

    plain = embedding()
    plain.compile("rmsprop", "mse")
    fit(plain, words, targets, 16)
    with strategy.scope():
        model = SVAGModel(embedding())
        model.compile("rmsprop", "mse")
    fit(model, words, targets, 16)
    assert largest_difference(model, plain) < 1e-5


def numpy_observation(x, y, kernel):
    """G and N, at the size of a half, of one replica's rows."""
    g1, g2 = (
        2 * x[i::2].T @ (x[i::2] @ kernel - y[i::2]) / len(x[i::2])
        for i in (0, 1)
    )
    return np.sum(g1 * g2), np.sum((g1 - g2) ** 2) / 2


def check_noise_has_one_observation_of_each_step_and_replica(strategy):
    replicas = strategy.num_replicas_in_sync
    batch_size, steps = 2 * SUB_BATCH, 3
    x, y = regression(steps * batch_size, num_outputs=1)
    for pairing, simulated in (
        ("independent", SUB_BATCH),
        ("halves", 2 * SUB_BATCH),
    ):
        model = mirrored(
            strategy,
            True,
            lambda: linear_model(4),
            lambda p=pairing: SVAG(0.0, ell=2, pairing=p),
        )
        kernel = model.get_weights()[0]
        logs = fit(model, x, y, batch_size)
        rows = batch_size // replicas
        observations = np.array(
            [
                numpy_observation(x[i : i + rows], y[i : i + rows], kernel)
                for i in range(0, len(x), rows)
            ]
        )
        observations[:, 1] *= rows / 2 / simulated
        estimate = model.gradient_noise.estimate()
        assert estimate.count == steps * replicas
        assert estimate.batch_size == simulated
        ours = estimate.grad_sq_norm, estimate.noise_trace
        np.testing.assert_allclose(ours, observations.mean(0), rtol=1e-4)
        errors = observations.std(0, ddof=1) / len(observations) ** 0.5
        ours = estimate.grad_sq_norm_se, estimate.noise_trace_se
        np.testing.assert_allclose(ours, errors, rtol=1e-4)
        np.testing.assert_allclose(logs["grad_sq_norm"], estimate.grad_sq_norm)
        np.testing.assert_allclose(
            logs["weight_sq_norm"], np.sum(kernel**2), rtol=1e-5
        )
        losses = np.mean((x @ kernel - y) ** 2)
        np.testing.assert_allclose(logs["loss"], losses, rtol=1e-5)


def collectives(strategy, model):
    """Numbers of elements that each all-reduce of a training step carries."""
    x, y = (tf.constant(rows[: 2 * SUB_BATCH]) for rows in pairs())
    data = tf.data.Dataset.from_tensors((x, y)).unbatch()
    data = data.batch(2 * SUB_BATCH, drop_remainder=True).repeat()
    batch = next(iter(strategy.experimental_distribute_dataset(data)))

    with strategy.scope():
        model.optimizer.build(model.trainable_variables)

    @tf.function
    def step(batch):
        return strategy.run(model.train_step, args=(batch,))

    graph = step.get_concrete_function(batch).graph
    graphs = [graph, *(f.graph for f in graph._functions.values())]
    return sorted(
        operation.inputs[0].shape.num_elements()
        for g in graphs
        for operation in g.get_operations()
        if operation.type.startswith("CollectiveReduce")
    )


def check_no_more_gradients_are_reduced_than_by_sgd(strategy):
    plain = mirrored(strategy, False, dense_network, lambda: "sgd")
    expected = collectives(strategy, plain)
    total = sum(np.prod(v.shape) for v in plain.trainable_variables)
    assert sum(expected) >= total, "the all-reduces of SGD were not found"
    for wrapped in (False, True):
        model = mirrored(strategy, wrapped)
        assert collectives(strategy, model) == expected
    assert expected == collectives(
        strategy, mirrored(strategy, True, dense_network, lambda: "sgd")
    )


def check_evaluate_and_predict(strategy):
    model = mirrored(strategy, True)
    fit(model, *pairs(), 2 * SUB_BATCH)
    expected = one_device()
    # Batches that split evenly; unevenly, from the first one on; and a last
    # one that is too small to split.
    for rows, batch_size in ((24, 12), (31, 11), (25, 12)):
        x, y = regression(rows)
        logs = model.evaluate(
            x, y, batch_size=batch_size, verbose=0, return_dict=True
        )
        assert set(logs) == {"loss"}
        loss = expected.evaluate(x, y, batch_size=batch_size, verbose=0)
        np.testing.assert_allclose(logs["loss"], loss, rtol=1e-5)
        predictions = [
            m.predict(x, batch_size=batch_size, verbose=0)
            for m in (model, expected)
        ]
        np.testing.assert_allclose(*predictions, atol=1e-5)


def check_noisy_gradient_descent_equals_one_device(strategy):
    x, y = regression(48)
    models = []
    for scope in (strategy.scope(), contextlib.nullcontext()):
        with scope:
            model = NGDModel(dense_network(), 8, 18, seed=1)
            model.compile(keras.optimizers.SGD(0.5), "mse", metrics=["mae"])
        logs = fit(model, x, y, len(x), epochs=3)
        models.append((model, logs))
    (model, logs), (expected, expected_logs) = models
    assert largest_difference(model, expected) < 1e-6
    for key, values in expected_logs.items():
        np.testing.assert_allclose(logs[key], values, rtol=1e-5)


def check_plain_model_in_a_wrapper_equals_one_device(strategy):
    with strategy.scope():
        model = ModelWrapper(dense_network())
        model.compile(optimizer(), "mse")
    x, y = consecutive()
    odd = 3 * SUB_BATCH
    fit(model, x[:odd], y[:odd], SUB_BATCH)
    fit(model, x[odd:], y[odd:], SUB_BATCH)
    assert largest_difference(model, one_device()) < 1e-6
