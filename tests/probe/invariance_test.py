import keras
import numpy as np
import pytest

from keras_svag.probe.invariance import is_scale_invariant


def normalized(*layers, **kwargs):
    """Scale-invariant, but for what `layers` add behind."""
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, use_bias=False, **kwargs),
            keras.layers.LayerNormalization(
                center=False, scale=False, epsilon=1e-15
            ),
            *layers,
        ]
    )


X = np.random.default_rng(1).normal(size=(16, 6)).astype("float32")


def test_biases_that_are_zero_still_count():
    head = keras.layers.Dense(3, trainable=False)
    assert is_scale_invariant(normalized(head), X)
    bias = keras.layers.BatchNormalization(scale=False, epsilon=1e-15)
    assert not is_scale_invariant(normalized(bias), X)


def test_dropout_draws_the_same_every_time():
    assert is_scale_invariant(normalized(keras.layers.Dropout(0.5)), X)


def test_regularizer_is_not_scale_invariant():
    assert not is_scale_invariant(normalized(kernel_regularizer="l2"), X)


@pytest.mark.parametrize("dtype", ["mixed_float16", "bfloat16", "float64"])
def test_tolerance_fits_the_dtype(dtype):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, use_bias=False, dtype=dtype),
            keras.layers.UnitNormalization(dtype=dtype),
        ]
    )
    assert is_scale_invariant(model, X)
    tail = keras.layers.Dense(3, dtype=dtype)
    assert not is_scale_invariant(keras.Sequential([*model.layers, tail]), X)


def test_epsilon_counts():
    def model(epsilon):
        return keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(8, use_bias=False),
                keras.layers.BatchNormalization(
                    center=False, scale=False, epsilon=epsilon
                ),
            ]
        )

    assert not is_scale_invariant(model(1e-3), X)
    assert is_scale_invariant(model(1e-3), X, rtol=0.3)
    assert is_scale_invariant(model(1e-12), X)


def state(model):
    return [keras.ops.convert_to_numpy(v) for v in model.variables]


class Failing(keras.layers.Layer):
    countdown = -1

    def call(self, inputs):
        self.countdown -= 1
        if self.countdown == 0:
            raise KeyboardInterrupt
        return inputs


def test_model_is_left_as_it_was_to_the_bit():
    failing = Failing()
    model = normalized(
        keras.layers.BatchNormalization(), keras.layers.Dropout(0.5), failing
    )
    before = state(model)
    is_scale_invariant(model, X)
    failing.countdown = 2
    with pytest.raises(KeyboardInterrupt):
        is_scale_invariant(model, X)
    for one, other in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_cannot_be_compared_is_refused():
    frozen = normalized()
    frozen.trainable = False
    with pytest.raises(ValueError, match="no trainable weights"):
        is_scale_invariant(frozen, X)
    with pytest.raises(ValueError, match="not finite"):
        is_scale_invariant(normalized(), np.full_like(X, np.nan))
