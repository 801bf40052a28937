import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag.applications import (
    VGG,
    PreResNet,
    ResNet,
    ScaleInvariantMLP,
)
from keras_svag.backend.tensorflow.normalization import (
    BatchNormalization,
    GroupNormalization,
)
from tests.helpers.small_problems import dtype_policy

IMAGE = (8, 8, 3)


def preresnet(**kwargs):
    return PreResNet(8, IMAGE, 10, **{"seed": 0, **kwargs})


def resnet(**kwargs):
    return ResNet(8, IMAGE, 10, **{"seed": 0, **kwargs})


def vgg(**kwargs):
    return VGG(11, (32, 32, 3), 10, **{"seed": 0, "base_width": 8, **kwargs})


def mlp(**kwargs):
    return ScaleInvariantMLP(IMAGE, 10, **{"seed": 0, **kwargs})


def images(model, count=6, seed=0):
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(seed).normal(size=shape)


def gradients(model, x):
    labels = np.arange(len(x)) % 10
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        value = loss(labels, model(x, training=True))
    return map(np.asarray, tape.gradient(value, model.trainable_variables))


VGG_LAYERS = {11: "11222", 13: "22222", 16: "22333", 19: "22444"}


@pytest.mark.parametrize(
    ("build", "depth", "normalization", "widen_factor"),
    [
        (ResNet, 8, "batch", 2),
        (ResNet, 14, "none", 1),
        (VGG, 11, "batch", 2),
        (VGG, 13, "group", 1),
        (VGG, 16, "none", 1),
        (VGG, 19, "batch", 1),
    ],
)
def test_networks_have_the_papers_layers(
    build, depth, normalization, widen_factor
):
    options = {"normalization": normalization, "widen_factor": widen_factor}
    model = build(depth, (32, 32, 3), 10, base_width=16, **options)
    kinds = [type(layer).__name__ for layer in model.layers]
    width = 16 * widen_factor
    # Convolutions in each stage with their width, and 1 x 1 shortcuts.
    if build is VGG:
        stages = zip(VGG_LAYERS[depth], (1, 2, 4, 8, 8), strict=True)
        shortcuts = []
        # Its three dense layers are one here, and that is frozen.
        assert kinds[-2:] == ["GlobalAveragePooling2D", "Dense"]
        assert kinds.count("AveragePooling2D") == 5
        each, head = 1, 0
    else:
        count = (depth - 2) // 3
        stages = (1, 1), (count, 1), (count, 2), (count, 4)
        shortcuts = [(1, 1, n * width, 2 * n * width) for n in (1, 2)]
        each, head = 3, 2
    widths = [n * width for count, n in stages for _ in range(int(count))]
    shapes = [(3, 3, *ends) for ends in itertools.pairwise([3, *widths])]
    shapes = sorted([*shapes, *shortcuts])
    convolutions = [x for x in model.layers if type(x).__name__ == "Conv2D"]
    assert sorted(tuple(x.kernel.shape) for x in convolutions) == shapes
    # Besides a kernel there are a scale and an offset, none of VGG's, or else
    # a bias.
    if normalization == "none":
        each = 2
    assert len(model.trainable_variables) == each * len(shapes) + head


@pytest.mark.parametrize(
    ("network", "arguments", "is_invariant"),
    [
        (preresnet, {"normalization": "batch"}, True),
        (preresnet, {"normalization": "group"}, True),
        (vgg, {"normalization": "batch"}, True),
        (vgg, {"normalization": "group"}, True),
        (mlp, {"normalization": "layer"}, True),
        (mlp, {"normalization": "group"}, True),
        (mlp, {"normalization": "batch"}, True),
        (preresnet, {"normalization": "none"}, False),
        (preresnet, {"trainable_head": True}, False),
        (vgg, {"normalization": "none"}, False),
        (vgg, {"trainable_head": True}, False),
        (resnet, {"normalization": "group"}, False),
    ],
)
def test_scale_of_the_weights_changes_the_logits_of_ordinary_networks_only(
    network, arguments, is_invariant
):
    with dtype_policy("float64"):
        model = network(**arguments)
    x = images(model)

    def change(expected, actual):
        return np.abs(expected - actual).max() / np.abs(expected).max()

    logits = np.asarray(model(x, training=True))
    assert logits.std() > 0.05
    # Batch normalization alone makes the images depend on one another.
    of_two = change(logits[:2], np.asarray(model(x[:2], training=True)))
    is_batch = arguments.get("normalization", "batch") == "batch"
    assert of_two > 1e-3 if is_batch else of_two < 1e-10
    # An epsilon shows where the weights are small.
    for variable in model.trainable_variables:
        variable.assign(variable * 0.1)
    of_scale = change(logits, np.asarray(model(x, training=True)))
    assert of_scale < 1e-10 if is_invariant else of_scale > 0.5


@pytest.mark.parametrize("network", [preresnet, mlp], ids=lambda n: n.__name__)
def test_head_is_frozen_normal_with_zero_bias(network):
    model = network()
    head = model.layers[-1]
    # Nothing but kernels is trained: no bias, no scale.
    assert all("kernel" in v.path for v in model.trainable_variables)
    assert not head.trainable
    kernel, bias = head.get_weights()
    np.testing.assert_array_equal(bias, 0.0)
    # The variance of m normal draws has a standard error of sqrt(2/m).
    error = kernel.var() / (2 / kernel.shape[0]) - 1
    assert abs(error) < 4 * math.sqrt(2 / kernel.size)


def test_seed_fixes_the_weights():
    weights = [resnet(seed=seed).get_weights() for seed in (0, 0, 1)]
    for one, same, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, same)
        assert np.ptp(one) == 0 or np.abs(one - other).max() > 0


@pytest.mark.parametrize(
    ("network", "policy", "tolerance"),
    [(preresnet, "mixed_float16", 0.03), (mlp, "mixed_bfloat16", 0.2)],
)
def test_mixed_precision(network, policy, tolerance):
    full = network()
    with dtype_policy(policy):
        mixed = network()
    mixed.set_weights(full.get_weights())
    x = images(full)
    logits, expected = mixed(x, training=True), full(x, training=True)
    assert logits.dtype == "float32"
    error = np.abs(logits - expected).max() / np.abs(expected).max()
    assert error < tolerance
    # In full precision those of blank images are finite too.
    for model, given in ((mixed, x), (full, 0 * x)):
        assert all(np.isfinite(g).all() for g in gradients(model, given))


@pytest.mark.parametrize(
    ("network", "normalization"),
    [(preresnet, "batch"), (resnet, "group"), (mlp, "layer")],
)
@pytest.mark.slow
def test_networks_survive_saving(network, normalization, tmp_path):
    model = network(normalization=normalization)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = images(model)
    np.testing.assert_array_equal(loaded(x), model(x))
    paths = [[v.path for v in m.trainable_variables] for m in (loaded, model)]
    assert paths[0] == paths[1]


def reference_preresnet(model, x, normalization, blocks):
    """The architecture once more, with nothing but convolutions borrowed."""
    weights = {v.path: np.asarray(v, "float64") for v in model.variables}

    def convolve(x, name, strides=1):
        kernel = weights[f"{name}/kernel"]
        return tf.nn.conv2d(x, kernel, strides, "SAME").numpy()

    def norm(x):
        axes = (0, 1, 2) if normalization == "batch" else (1, 2, 4)
        shape = x.shape
        if normalization == "group":
            x = x.reshape(*shape[:3], 8, -1)
        x = x - x.mean(axes, keepdims=True)
        std = np.sqrt((x**2).mean(axes, keepdims=True))
        return (x / std).reshape(shape)

    def relu(x):
        return np.maximum(x, 0)

    x = convolve(x, "stem")
    for stage in range(1, 4):
        for block in range(1, blocks + 1):
            name = f"stage{stage}_block{block}"
            strides = 2 if stage > 1 and block == 1 else 1
            shortcut = x
            if block == 1:
                shortcut = convolve(norm(x), f"{name}_shortcut", strides)
            y = convolve(relu(norm(x)), f"{name}_conv1", strides)
            x = shortcut + convolve(relu(norm(y)), f"{name}_conv2")
    x = norm(x).mean((1, 2))
    return x @ weights["head/kernel"] + weights["head/bias"]


@pytest.mark.parametrize(
    ("normalization", "depth"), [("group", 8), ("batch", 14)]
)
def test_preresnet_is_the_papers(normalization, depth):
    with dtype_policy("float64"):
        model = PreResNet(depth, IMAGE, 10, normalization=normalization, seed=0)
    x = images(model).astype("float32")
    expected = reference_preresnet(
        model, x.astype("float64"), normalization, blocks=(depth - 2) // 6
    )
    actual = model(x, training=True)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("network", "normalization", "kind", "arguments"),
    [
        (preresnet, "batch", BatchNormalization, {"momentum": 0.5}),
        (preresnet, "group", GroupNormalization, {"groups": 4}),
        (mlp, "group", GroupNormalization, {"groups": 4}),
        (mlp, "layer", GroupNormalization, {"groups": 1}),
    ],
)
def test_arguments_reach_the_fast_normalizations(
    network, normalization, kind, arguments
):
    given = {} if normalization == "layer" else arguments
    model = network(normalization=normalization, **given)
    norms = [layer for layer in model.layers if isinstance(layer, kind)]
    # Two a block and the final one; shortcuts share their block's first.
    assert len(norms) == (2 if network is mlp else 2 * 3 + 1)
    for name, value in arguments.items():
        assert {getattr(norm, name) for norm in norms} == {value}
