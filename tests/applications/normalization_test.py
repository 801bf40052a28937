import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag.backend.tensorflow.normalization import (
    BatchNormalization,
    GroupNormalization,
)

TOLERANCES = {
    "float32": 2e-5,
    "float64": 1e-12,
    "mixed_float16": 4e-3,
    "mixed_bfloat16": 3e-2,
}


def normal(shape, seed=0, mean=0.0):
    return np.random.default_rng(seed).normal(mean, 1.0, shape)


def value_and_gradients(layer, x, weights, **kwargs):
    """Output, and the gradient of <weights, output> to x and variables."""
    x = tf.constant(x, layer.compute_dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, **kwargs)
        loss = tf.reduce_sum(tf.cast(y, "float64") * weights)
    sources = [x, *(v.value for v in layer.trainable_variables)]
    gradients = tape.gradient(loss, sources)
    return [np.asarray(t, "float64") for t in (y, *gradients)]


def assert_same_layer(layer, reference, x, **kwargs):
    tolerance = TOLERANCES[layer.dtype_policy.name]
    layer.build(x.shape)
    reference.build(x.shape)
    for variable in reference.variables:
        start = normal(variable.shape, seed=len(variable.path), mean=2.0)
        variable.assign(np.abs(start))
    layer.set_weights(reference.get_weights())
    weights = normal(x.shape, seed=9)
    # Twice: the second call sees the first one's moving statistics.
    for _ in range(2):
        actual = value_and_gradients(layer, x, weights, **kwargs)
        expected = value_and_gradients(reference, x, weights, **kwargs)
        for a, e in zip(actual, expected, strict=True):
            np.testing.assert_allclose(
                a, e, rtol=tolerance, atol=tolerance * np.abs(e).max()
            )
        moved = zip(layer.get_weights(), reference.get_weights(), strict=True)
        for a, e in moved:
            np.testing.assert_allclose(a, e, rtol=min(tolerance, 1e-5))


# 8 positions a channel: an unbiased variance would be 8/7 too large.
SMALL = (2, 2, 2, 5)
MASK = np.repeat([True, False], [6, 2]).reshape(SMALL[:3])


@pytest.mark.parametrize(
    ("shape", "arguments", "given"),
    [
        (SMALL, {"momentum": 0.7, "epsilon": 1e-2}, {}),
        (SMALL, {"center": False, "scale": False}, {"training": False}),
        (SMALL, {"scale": False, "dtype": "float64"}, {}),
        (SMALL, {"dtype": "mixed_float16"}, {}),
        (SMALL, {"dtype": "mixed_bfloat16"}, {}),
        # What is left to Keras.
        ((6, 5), {}, {}),
        ((3, 4, 5), {}, {}),
        ((3, 4, 4, 5), {"axis": 1}, {}),
        ((3, 4, 4, 5), {"renorm": True}, {}),
        ((3, 4, 4, 5), {"synchronized": True}, {}),
        (SMALL, {}, {"mask": tf.constant(MASK)}),
        ((1, 1, 1, 5), {}, {}),
    ],
)
def test_batch_normalization_equals_keras(shape, arguments, given):
    layer = BatchNormalization(**arguments)
    reference = keras.layers.BatchNormalization(**arguments)
    given = {"training": True} | given
    assert_same_layer(layer, reference, normal(shape, mean=0.5), **given)


@pytest.mark.parametrize(
    ("policy", "affine", "shape", "groups"),
    [
        ("float32", True, (4, 12), 3),
        ("float64", False, (4, 6, 12), 4),
        ("float32", False, (4, 5, 6, 12), 4),
        ("float64", True, (4, 5, 6, 12), 1),
        ("mixed_float16", True, (4, 5, 6, 12), -1),
        ("mixed_bfloat16", False, (2, 3, 2, 4, 12), 6),
    ],
)
def test_group_normalization_equals_keras(policy, affine, shape, groups):
    arguments = {"center": affine, "scale": affine, "dtype": policy}
    layer = GroupNormalization(groups, epsilon=1e-4, **arguments)
    reference = keras.layers.GroupNormalization(
        groups, epsilon=1e-4, **arguments
    )
    assert_same_layer(layer, reference, normal(shape, mean=0.5))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_batch_normalization_takes_the_kernel_of_its_own_type(dtype):
    policy = dtype if dtype == "float32" else f"mixed_{dtype}"
    layer = BatchNormalization(dtype=policy)
    function = tf.function(lambda x: layer(x, training=True))
    graph = function.get_concrete_function(tf.zeros((4, 3, 5, 2), dtype)).graph
    fused = "FusedBatchNormV3"
    (kernel,) = (op for op in graph.get_operations() if op.type == fused)
    assert kernel.inputs[0].dtype == dtype


@pytest.mark.parametrize("size", [5, None])
def test_group_normalization_is_compiled_where_sizes_are_known(size):
    spec = tf.TensorSpec((None, size, 6, 12), "float32")
    function = tf.function(GroupNormalization(4, epsilon=1e-4))
    concrete = function.get_concrete_function(spec)
    operations = concrete.graph.get_operations()
    compiled = ["_XlaMustCompile" in op.node_def.attr for op in operations]
    assert sum(compiled) == (size is not None)
    x = normal((3, 5, 6, 12)).astype("float32")
    expected = keras.layers.GroupNormalization(4, epsilon=1e-4)(x)
    actual = concrete(tf.constant(x))
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


def test_group_normalization_with_an_offset_large_against_the_spread():
    x = (1e4 + normal((2, 8, 8, 4))).astype("float32")
    y = GroupNormalization(2, epsilon=0.0)(x)
    groups = x.astype("float64").reshape((2, 8, 8, 2, 2))
    mean = groups.mean((1, 2, 4), keepdims=True)
    std = groups.std((1, 2, 4), keepdims=True)
    expected = ((groups - mean) / std).reshape(x.shape)
    # float32 holds 10,000 to 1e-3, but 10,000 ** 2 only to 8: E x^2 - (E x)^2
    # would be no estimate of a variance of 1.
    np.testing.assert_allclose(y, expected, atol=5e-3)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_group_normalization_takes_epsilon_zero(policy):
    x = normal((2, 4, 4, 6))
    x[0] = 0.0
    x[1, ..., :3] = 2.0
    plain = {"center": False, "scale": False, "dtype": policy}
    layer = GroupNormalization(2, epsilon=0.0, **plain)
    y, gradient = value_and_gradients(layer, x, normal(x.shape, seed=1))
    # A group without variance gives nothing and asks for nothing.
    for a in (y, gradient):
        np.testing.assert_array_equal(a[0], 0.0)
        np.testing.assert_array_equal(a[1, ..., :3], 0.0)
        assert np.isfinite(a).all()
    group = x[1, ..., 3:]
    expected = (group - group.mean()) / group.std()
    np.testing.assert_allclose(y[1, ..., 3:], expected, atol=TOLERANCES[policy])


def network():
    inputs = keras.Input((6, 6, 3))
    kernel = keras.initializers.HeNormal(seed=0)
    x = keras.layers.Conv2D(8, 3, kernel_initializer=kernel)(inputs)
    x = BatchNormalization(momentum=0.5)(x)
    x = GroupNormalization(4, epsilon=0.0)(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def trained_weights(by_xla=False):
    model = network()
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=by_xla)
    x, y = normal((8, 6, 6, 3)), normal((8, 8), seed=1)
    model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    return model.get_weights()


def test_layers_train_under_xla_and_mirrored_strategy():
    expected = trained_weights()
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        mirrored = trained_weights()
    for actual in (mirrored, trained_weights(by_xla=True)):
        for a, e in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)
