"""SVAGRMSprop and SVAGAdam train plain models as they do an SVAGModel."""

import keras
import numpy as np
import pytest

from keras_svag import SVAGAdam, SVAGModel, SVAGRMSprop
from tests.helpers.small_problems import (
    dense_network,
    interleaved,
    largest_difference,
    regression,
)

BATCH = 6

both = pytest.mark.parametrize("kind", [SVAGAdam, SVAGRMSprop])


def optimizer_of(kind):
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [0, 1], [0.04, 0.02, 0.01]
    )
    return kind(schedule, ell=2, epsilon=1e-3, weight_decay=0.1)


def fit(model, x, y, batch_size=BATCH):
    return model.fit(x, y, batch_size=batch_size, shuffle=False, verbose=0)


def fit_pairs(model, x, y):
    x, y = interleaved(x, BATCH), interleaved(y, BATCH)
    return fit(model, x, y, 2 * BATCH)


def moments(model):
    optimizer = model.optimizer
    pairs = [
        (v.name.rpartition("_")[2], v.numpy()) for v in optimizer.variables
    ]
    return [v for name, v in pairs if name in ("momentum", "velocity")]


def wrapped_model(model, kind):
    wrapped = SVAGModel(model, measure_noise=False)
    wrapped.compile(optimizer_of(kind), "mse")
    return wrapped


@both
def test_reload_in_mid_pair_is_the_uninterrupted_run_of_svag_model(
    tmp_path, kind
):
    x, y = regression(8 * BATCH)
    model = dense_network()
    model.compile(optimizer_of(kind), "mse")
    fit(model, x[: 3 * BATCH], y[: 3 * BATCH])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    fit(loaded, x[3 * BATCH :], y[3 * BATCH :])
    wrapped = wrapped_model(dense_network(), kind)
    fit_pairs(wrapped, x, y)
    assert largest_difference(loaded, wrapped) == 0
    assert len(moments(loaded)) == (8 if kind is SVAGAdam else 4)
    for ours, theirs in zip(moments(loaded), moments(wrapped), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # Two steps at the first of the schedule's rates, two at the second.
    assert wrapped.optimizer.effective_iterations == 2
    for trained in (loaded, wrapped):
        time = float(trained.optimizer.continuous_time)
        assert time == pytest.approx(0.04**2 + 0.02**2, rel=1e-6)


def test_xla_trains_as_a_graph():
    x, y = regression(4 * BATCH)
    compiled, model = dense_network(), dense_network()
    compiled.compile(optimizer_of(SVAGAdam), "mse", jit_compile=True)
    fit(compiled, x, y)
    fit_pairs(wrapped_model(model, SVAGAdam), x, y)
    assert largest_difference(compiled, model) < 1e-6


@both
def test_embedding_of_a_plain_model_is_that_of_a_wrapped_one(kind):
    rng = np.random.default_rng(0)
    # The last words are in no batch, and the first ones not in all.
    x = np.sort(rng.integers(0, 6, (8 * BATCH, 3)), axis=0)
    y = rng.normal(size=(len(x), 1)).astype("float32")

    def words():
        keras.utils.set_random_seed(0)
        return keras.Sequential(
            [
                keras.Input((3,), dtype="int32"),
                keras.layers.Embedding(8, 2),
                keras.layers.Flatten(),
                keras.layers.Dense(1),
            ]
        )

    plain = words()
    plain.compile(optimizer_of(kind), "mse")
    fit(plain, x, y)
    wrapped = wrapped_model(words(), kind)
    fit_pairs(wrapped, x, y)
    assert largest_difference(wrapped, plain) == 0
    for ours, theirs in zip(moments(wrapped), moments(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("kind", "is_wrapped"), [(SVAGAdam, False), (SVAGRMSprop, True)]
)
def test_float16_with_a_loss_scale_trains_near_float32(kind, is_wrapped):
    x, y = regression(64)
    losses = []
    for policy in ("mixed_float16", "float32"):
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            model = dense_network()
        finally:
            keras.config.set_dtype_policy(before)
        if is_wrapped:
            model = SVAGModel(model, measure_noise=False)
        model.compile(kind(0.02, ell=2, epsilon=1e-3), "mse")
        assert (policy == "float32") == isinstance(model.optimizer, kind)
        logs = model.fit(
            x, y, batch_size=16, epochs=4, shuffle=False, verbose=0
        )
        losses.append(logs.history["loss"])
    np.testing.assert_allclose(*losses, rtol=0.02)
    assert losses[0][-1] < losses[0][0]


@both
def test_optimizer_serves_one_model(kind):
    optimizer, model = optimizer_of(kind), dense_network()
    optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match=f"its own {kind.__name__}"):
        SVAGModel(model).compile(optimizer, "mse")
