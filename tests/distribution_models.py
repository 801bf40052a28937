"""Checks under MirroredStrategy: models that train, and what is refused."""

import keras
import numpy as np
from distribution_checks import SUB_BATCH, fit, mirrored, optimizer, pairs
from small_problems import dense_network, regression

from keras_svag import SVAG, SVAGModel


def refused(action, *parts):
    try:
        action()
    except ValueError as error:
        for part in parts:
            assert part in str(error), (part, str(error))
    else:
        raise AssertionError(f"no ValueError with {parts}")


def check_batch_that_replicas_cannot_pair_is_refused(strategy):
    replicas = strategy.num_replicas_in_sync
    for size in (replicas, 3 * replicas, 2 * replicas + 1):
        model = mirrored(strategy, True)
        before = model.get_weights()
        refused(
            lambda model=model, size=size: fit(
                model, *regression(4 * size), size
            ),
            "drop_remainder=True",
            f"multiple of {2 * replicas}",
        )
        for ours, theirs in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def check_several_steps_per_execution_are_refused(strategy):
    def compile_model():
        with strategy.scope():
            model = SVAGModel(dense_network())
            model.compile(optimizer(), "mse", steps_per_execution=2)

    refused(compile_model, "`steps_per_execution` must be 1", "got 2")


def check_optimizer_created_outside_the_scope_is_refused(strategy):
    outside = optimizer()
    for wrapped in (False, True):
        model = mirrored(strategy, wrapped, make_optimizer=lambda: outside)
        refused(
            lambda model=model: fit(model, *pairs(), 2 * SUB_BATCH),
            "strategy.scope()",
        )


def check_batch_normalization_trains(strategy):
    def build_model():
        return keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.BatchNormalization(momentum=0.5),
                keras.layers.Dense(2),
            ]
        )

    for ell in (1, 2):
        model = mirrored(
            strategy, True, build_model, lambda ell=ell: SVAG(0.1, ell=ell)
        )
        logs = fit(model, *pairs(), 2 * SUB_BATCH, epochs=2)
        assert np.all(np.isfinite(list(logs.values())))
        assert logs["loss"][-1] < logs["loss"][0]
        moving_mean = np.asarray(model.model.layers[0].moving_mean)
        assert np.any(moving_mean != 0)


def check_model_that_is_not_built_trains(strategy):
    def build_model():
        keras.utils.set_random_seed(0)
        return keras.Sequential([keras.layers.Dense(5), keras.layers.Dense(2)])

    with strategy.scope():
        model = SVAGModel(build_model(), per_layer=True)
        model.compile(optimizer(), "mse")
    logs = fit(model, *pairs(), 2 * SUB_BATCH)
    assert np.all(np.isfinite(list(logs.values())))
    assert len(model.gradient_noise.estimate().per_layer) == 4
