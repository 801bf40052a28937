"""The scale-invariant pre-activation ResNet for small images."""

import keras

from keras_svag.applications.layers import (
    Normalization,
    Sizes,
    image_network,
    residual_blocks,
)


def PreResNet(
    depth: int,
    input_shape: Sizes,
    num_classes: int,
    normalization: Normalization = "batch",
    widen_factor: int = 1,
    base_width: int = 16,
    groups: int = 8,
    momentum: float = 0.9,
    seed: int | None = None,
    trainable_head: bool = False,
    name: str | None = None,
) -> keras.Model:
    """Builds a pre-activation ResNet, scale-invariant in its weights.

    A 3x3 stem, then three stages of n = (depth - 2) / 6 basic blocks with
    strides 1, 2, 2 and widths 1, 2, 4 times `base_width * widen_factor`, a
    final normalization, global average pooling and a frozen linear head.
    A block is norm, ReLU, 3x3 convolution, twice, added to its shortcut. The
    first block of every stage has a norm and a 1x1 convolution for a
    shortcut, the other blocks the identity: so everything that is added up
    is homogeneous of degree 1 in the weights, and the final normalization
    makes the logits of degree 0 ([L21], section 5). Between that
    normalization and the pooling there is no ReLU.

    Convolutions of stride 2 are padded as TensorFlow does: an image of even
    size by 0 at its beginning and 1 at its end. PyTorch's usual padding is 1
    on both sides, so that the same weights are another function there.

    Normalizations have no scale, no offset and an epsilon of 0 (1e-15 with
    `"batch"`); convolutions have no bias. With `"batch"` the network is
    scale-invariant in training mode, which normalizes by the batch; with
    `"group"` in both modes; with `"none"`, or with `trainable_head=True`, it
    is not.

    With `"none"` the last convolution of each residual branch is drawn with
    the 3n-th part of He's variance: otherwise the variance of the residual
    stream would double with every block.

    Args:
        depth: 6n + 2, such as 8, 20 or 32.
        input_shape: (height, width, channels), at least 4 x 4.

    The other arguments are those of every network: see
    `keras_svag.applications`.

    References:
        [L21] Li, Malladi, Arora, "On the Validity of Modeling SGD with
        Stochastic Differential Equations (SDEs)", NeurIPS 2021.
    """
    blocks = residual_blocks(depth)
    layers, width = image_network(
        input_shape,
        halvings=2,
        normalization=normalization,
        widen_factor=widen_factor,
        base_width=base_width,
        groups=groups,
        num_classes=num_classes,
        momentum=momentum,
        seed=seed,
    )
    gain = 1.0 / (3 * blocks) if normalization == "none" else 1.0

    inputs = keras.Input(tuple(input_shape))
    x = layers.convolution(inputs, width, 3, "stem")
    for stage in range(3):
        for block in range(blocks):
            x = _block(
                layers,
                x,
                filters=width * 2**stage,
                strides=2 if stage > 0 and block == 0 else 1,
                project=block == 0,
                gain=gain,
                name=f"stage{stage + 1}_block{block + 1}",
            )
    x = layers.norm(x, "final_norm")
    outputs = layers.pooled_head(x, trainable_head)
    return keras.Model(inputs, outputs, name=name or f"preresnet{depth}")


def _block(layers, x, filters, strides, project, gain, name):
    normed = layers.norm(x, f"{name}_norm1")
    shortcut = x
    if project:
        shortcut = layers.convolution(
            normed, filters, 1, f"{name}_shortcut", strides
        )
    y = layers.relu(normed, f"{name}_relu1")
    y = layers.convolution(y, filters, 3, f"{name}_conv1", strides)
    y = layers.norm(y, f"{name}_norm2")
    y = layers.relu(y, f"{name}_relu2")
    y = layers.convolution(y, filters, 3, f"{name}_conv2", gain=gain)
    return keras.layers.Add(name=f"{name}_add")([shortcut, y])
