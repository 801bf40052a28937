import keras
import numpy as np
import pytest

from keras_svag.probe.invariance import is_scale_invariant
from tests.helpers.bits import assert_same_bits
from tests.helpers.public_layers import Breaking
from tests.helpers.public_models import adversaries

X = np.random.default_rng(1).normal(size=(16, 6)).astype("float32")


def normalized(*layers, dtype=None, **kwargs):
    """Scale-invariant, but for what `layers` add behind."""
    dense = keras.layers.Dense(8, use_bias=False, dtype=dtype, **kwargs)
    norm = keras.layers.UnitNormalization(dtype=dtype)
    return keras.Sequential([keras.Input((6,)), dense, norm, *layers])


def batch_normalization(epsilon=1e-12, **arguments):
    arguments = {"center": False, "scale": False} | arguments
    return keras.layers.BatchNormalization(epsilon=epsilon, **arguments)


@pytest.mark.parametrize(
    ("layers", "arguments", "expected"),
    [
        ([], {}, True),
        ([keras.layers.Dropout(0.5)], {}, True),
        ([keras.layers.Dense(3, trainable=False)], {}, True),
        # A bias that is zero still counts; so does an epsilon.
        ([batch_normalization(center=True)], {}, False),
        ([], {"kernel_regularizer": "l2"}, False),
        # However small the outputs are.
        ([keras.layers.Dense(3), keras.layers.Rescaling(1e-6)], {}, False),
        *(([], {"dtype": d}, True) for d in ("mixed_float16", "bfloat16")),
        *(
            ([keras.layers.Dense(3, dtype=d)], {"dtype": d}, False)
            for d in ("mixed_float16", "bfloat16", "float64")
        ),
    ],
)
def test_only_what_normalizes_all_that_is_trained_is_invariant(
    layers, arguments, expected
):
    assert is_scale_invariant(normalized(*layers, **arguments), X) == expected


@pytest.mark.parametrize(
    ("epsilon", "rtol", "expected"),
    [(1e-3, None, False), (1e-3, 0.3, True), (1e-12, None, True)],
)
def test_epsilon_counts(epsilon, rtol, expected):
    dense = keras.layers.Dense(8, use_bias=False)
    inner = [keras.Input((6,)), dense, batch_normalization(epsilon)]
    assert is_scale_invariant(keras.Sequential(inner), X, rtol) == expected


def test_model_is_left_as_it_was_to_the_bit():
    breaking = Breaking()
    states = keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)
    model = normalized(*states, breaking)
    before = [v.numpy() for v in model.variables]
    is_scale_invariant(model, X)
    breaking.countdown = 2
    with pytest.raises(KeyboardInterrupt):
        is_scale_invariant(model, X)
    assert_same_bits([v.numpy() for v in model.variables], before)


def test_what_cannot_be_compared_is_refused():
    frozen = normalized()
    frozen.trainable = False
    with pytest.raises(ValueError, match="no trainable weights"):
        is_scale_invariant(frozen, X)
    with pytest.raises(ValueError, match="not finite"):
        is_scale_invariant(normalized(), np.full_like(X, np.nan))
    with pytest.raises(ValueError, match="must have a `call`.*Adversaries"):
        is_scale_invariant(adversaries().model, X)
