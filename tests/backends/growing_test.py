"""Branches and batches that grow, on the backend that runs the tests."""

import keras
import numpy as np
import pytest

import keras_svag
from tests.helpers.bits import assert_same_bits, bits_of
from tests.helpers.small_problems import regression


def trained(optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, activation="tanh"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(2),
        ]
    )
    model.compile(optimizer, "mse")
    model.fit(*regression(64), batch_size=8, verbose=0, shuffle=False)
    return model


def test_a_branch_test_leaves_no_trace():
    settings = {"batch_size": 8, "verbose": 0, "shuffle": False}
    left = []
    for kappas in ((), (2,)):
        model = trained(keras.optimizers.Adam(0.01))
        for kappa in kappas:
            test = keras_svag.branch_test(
                model,
                regression(64),
                kappa,
                examples=64,
                batch_size=8,
                seeds=2,
                num_batches=4,
                verbose=0,
            )
            assert np.isfinite(test.difference).all()
        history = model.fit(*regression(64), **settings).history
        left.append((bits_of(model), history))
    assert_same_bits(*(kept["model"] for kept, _ in left))
    assert_same_bits(*(kept["optimizer"] for kept, _ in left))
    assert_same_bits(*(history for _, history in left))


def test_batches_grow_within_a_fit():
    model = trained(keras.optimizers.Adam(0.01))
    check = keras_svag.ScalingRuleCheck(every=1, verbose=0)
    history = keras_svag.fit_growing(
        model,
        *regression(64),
        batch_size=4,
        max_batch_size=32,
        epochs=5,
        mode={1: 8, 3: 32},
        check=None,
        callbacks=[check],
        verbose=0,
    ).history
    assert history["batch_size"] == [4, 8, 8, 32, 32]
    assert check.report.verdict.batch_size == 32
    found = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    assert found == pytest.approx(0.01 * 8**0.5)
    done = keras.ops.convert_to_numpy(model.optimizer.iterations)
    assert done == 8 + 16 + 8 + 8 + 2 + 2
