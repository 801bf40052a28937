"""VGG for small images, scale-invariant by default."""

import keras

from keras_svag import arguments
from keras_svag.applications.layers import Normalization, Sizes, image_network

CONVOLUTIONS_PER_STAGE = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
WIDTH_MULTIPLIERS = (1, 2, 4, 8, 8)


def VGG(
    depth: int,
    input_shape: Sizes,
    num_classes: int,
    normalization: Normalization = "batch",
    widen_factor: int = 1,
    base_width: int = 64,
    groups: int = 8,
    momentum: float = 0.9,
    seed: int | None = None,
    trainable_head: bool = False,
    name: str | None = None,
) -> keras.Model:
    """Builds a VGG network with one linear layer for a head.

    Five stages of 3x3 convolution, norm, ReLU, each ended by 2x2 average
    pooling, with widths 1, 2, 4, 8, 8 times `base_width * widen_factor`;
    then global average pooling and a frozen linear head. Normalizations have
    no scale, no offset and an epsilon of 0 (1e-15 with `"batch"`), and
    convolutions no bias, so the logits do not change when all trainable
    weights are scaled together ([L21], section 5): with `"batch"` in training
    mode, with `"group"` in both modes. With `"none"`, where convolutions have
    a bias, or with `trainable_head=True` the network is not scale-invariant.

    Args:
        depth: 11, 13, 16 or 19; as usual it counts three fully connected
            layers, of which only the head is here.
        input_shape: (height, width, channels), at least 32 x 32.

    The other arguments are those of every network: see
    `keras_svag.applications`.

    References:
        Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale
        Image Recognition", ICLR 2015, table 1, A, B, D and E.
        [L21] Li, Malladi, Arora, "On the Validity of Modeling SGD with
        Stochastic Differential Equations (SDEs)", NeurIPS 2021.
    """
    if arguments.integer("depth", depth) not in CONVOLUTIONS_PER_STAGE:
        known = ", ".join(map(str, CONVOLUTIONS_PER_STAGE))
        raise ValueError(arguments.refusal("depth", f"one of {known}", depth))
    layers, width = image_network(
        input_shape,
        halvings=len(WIDTH_MULTIPLIERS),
        normalization=normalization,
        widen_factor=widen_factor,
        base_width=base_width,
        groups=groups,
        num_classes=num_classes,
        momentum=momentum,
        seed=seed,
        bias=normalization == "none",
    )
    stages = zip(CONVOLUTIONS_PER_STAGE[depth], WIDTH_MULTIPLIERS, strict=True)

    x = inputs = keras.Input(tuple(input_shape))
    for stage, (convolutions, multiplier) in enumerate(stages, start=1):
        filters = width * multiplier
        for index in range(1, convolutions + 1):
            name_of = f"stage{stage}_{{}}{index}".format
            x = layers.convolution(x, filters, 3, name_of("conv"))
            x = layers.norm(x, name_of("norm"))
            x = layers.relu(x, name_of("relu"))
        x = keras.layers.AveragePooling2D(
            2, data_format="channels_last", name=f"stage{stage}_pool"
        )(x)
    outputs = layers.pooled_head(x, trainable_head)
    return keras.Model(inputs, outputs, name=name or f"vgg{depth}")
