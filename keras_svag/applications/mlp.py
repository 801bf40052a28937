"""A small scale-invariant network of fully connected layers."""

import math
from typing import Literal

import keras

from keras_svag import arguments
from keras_svag.applications.layers import NetworkLayers, Sizes, check_sizes

NORMALIZATIONS = ("layer", "group", "batch")


def ScaleInvariantMLP(
    input_shape: Sizes,
    num_classes: int,
    hidden_units: Sizes = (64, 64),
    normalization: Literal["layer", "group", "batch"] = "layer",
    groups: int = 8,
    momentum: float = 0.9,
    seed: int | None = None,
    name: str | None = None,
) -> keras.Model:
    """Builds a multilayer perceptron that is scale-invariant in its weights.

    Each hidden layer is a fully connected layer without bias, a normalization
    without scale and offset, and a ReLU; a frozen linear head gives the
    logits. Scaling any one layer's weights leaves the logits unchanged, and
    so does scaling all trainable weights together.

    With `"layer"` and `"group"` every example is normalized by itself; with
    `"batch"` over the batch, which makes the network scale-invariant in
    training mode only.

    Args:
        input_shape: shape of one example; it is flattened.
        num_classes: number of logits.
        hidden_units: width of each hidden layer.
        normalization: `"layer"` (over all units of a layer), `"group"` (over
            groups of units) or `"batch"`.

    The other arguments are those of every network: see
    `keras_svag.applications`.
    """
    check_sizes("input_shape", input_shape, "the sizes of one example")
    arguments.choice("normalization", normalization, NORMALIZATIONS)
    layers = NetworkLayers(
        num_classes=num_classes,
        normalization="batch" if normalization == "batch" else "group",
        groups=1 if normalization == "layer" else groups,
        momentum=momentum,
        seed=seed,
    )
    check_sizes("hidden_units", hidden_units, "the width of each hidden layer")
    for index, units in enumerate(hidden_units):
        is_grouped = units % layers.groups == 0 and units > layers.groups
        if layers.normalization == "group" and not is_grouped:
            raise ValueError(
                f"`hidden_units[{index}]` must be a multiple of groups = "
                f"{layers.groups} and above it, got {units}."
            )

    inputs = keras.Input(tuple(input_shape))
    x = keras.layers.Reshape((math.prod(input_shape),), name="flatten")(inputs)
    for index, units in enumerate(hidden_units, start=1):
        x = keras.layers.Dense(
            units,
            use_bias=False,
            kernel_initializer=layers.he_normal(f"dense{index}"),
            name=f"dense{index}",
        )(x)
        x = layers.norm(x, f"norm{index}")
        x = layers.relu(x, f"relu{index}")
    outputs = layers.head(x, trainable=False)
    return keras.Model(inputs, outputs, name=name or "scale_invariant_mlp")
