"""The ordinary post-activation ResNet for small images."""

import keras

from keras_svag.applications.layers import (
    Normalization,
    Sizes,
    image_network,
    residual_blocks,
)


def ResNet(
    depth: int,
    input_shape: Sizes,
    num_classes: int,
    normalization: Normalization = "batch",
    widen_factor: int = 1,
    base_width: int = 16,
    groups: int = 8,
    momentum: float = 0.9,
    seed: int | None = None,
    trainable_head: bool = True,
    name: str | None = None,
) -> keras.Model:
    """Builds an ordinary ResNet, which is not scale-invariant.

    A 3x3 stem, then three stages of n = (depth - 2) / 6 basic blocks with
    strides 1, 2, 2 and widths 1, 2, 4 times `base_width * widen_factor`,
    global average pooling and a linear head with a bias. A block is 3x3
    convolution, norm, ReLU, 3x3 convolution, norm, added to its shortcut,
    ReLU. The shortcut is the identity, or a 1x1 convolution and a norm where
    the shape changes. Normalizations have a trainable scale and offset;
    without them (`"none"`) convolutions have a bias instead, and the last
    convolution of each residual branch is drawn with the 3n-th part of He's
    variance, so that the sum over the blocks stays bounded.

    Args:
        depth: 6n + 2, such as 8, 20 or 32.
        input_shape: (height, width, channels), at least 4 x 4.

    The other arguments are those of every network: see
    `keras_svag.applications`.

    References:
        He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition",
        CVPR 2016, section 4.2.
    """
    blocks = residual_blocks(depth)
    without_norm = normalization == "none"
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
        affine=True,
        bias=without_norm,
    )
    gain = 1.0 / (3 * blocks) if without_norm else 1.0

    inputs = keras.Input(tuple(input_shape))
    x = layers.convolution(inputs, width, 3, "stem")
    x = layers.norm(x, "stem_norm")
    x = layers.relu(x, "stem_relu")
    for stage in range(3):
        for block in range(blocks):
            x = _block(
                layers,
                x,
                filters=width * 2**stage,
                strides=2 if stage > 0 and block == 0 else 1,
                gain=gain,
                name=f"stage{stage + 1}_block{block + 1}",
            )
    outputs = layers.pooled_head(x, trainable_head)
    return keras.Model(inputs, outputs, name=name or f"resnet{depth}")


def _block(layers, x, filters, strides, gain, name):
    shortcut = x
    if strides > 1:
        shortcut = layers.convolution(
            x, filters, 1, f"{name}_shortcut", strides
        )
        shortcut = layers.norm(shortcut, f"{name}_shortcut_norm")
    y = layers.convolution(x, filters, 3, f"{name}_conv1", strides)
    y = layers.norm(y, f"{name}_norm1")
    y = layers.relu(y, f"{name}_relu1")
    y = layers.convolution(y, filters, 3, f"{name}_conv2", gain=gain)
    y = layers.norm(y, f"{name}_norm2")
    x = keras.layers.Add(name=f"{name}_add")([shortcut, y])
    return layers.relu(x, f"{name}_relu2")
