"""Layers in the ways of public scripts: with state, losses and couplings."""

import keras
import numpy as np
from keras import layers, ops

try:
    import tensorflow as tf
except ImportError:
    tf = None  # Other backends go without it.


class Codebook(layers.Layer):
    """Vector quantization; moving averages of the inputs are the codes."""

    codes = 4

    def build(self, shape):
        def weight(*shape, start="ones"):
            return self.add_weight(shape, start, trainable=False)

        self.table = weight(self.codes, shape[-1], start="random_normal")
        self.sums = weight(self.codes, shape[-1])
        self.counts = weight(self.codes)

    def call(self, x, training=False):
        distances = ops.sum((x[:, None] - self.table) ** 2, -1)
        nearest = ops.one_hot(ops.argmin(distances, 1), self.codes)
        quantized = ops.matmul(nearest, self.table)
        if training:
            sums = ops.matmul(ops.transpose(nearest), x)
            self.sums.assign(0.9 * self.sums + 0.1 * sums)
            counts = ops.sum(nearest, 0)
            self.counts.assign(0.9 * self.counts + 0.1 * counts)
            self.table.assign(self.sums / (self.counts[:, None] + 1e-3))
        self.add_loss(0.25 * ops.mean((ops.stop_gradient(quantized) - x) ** 2))
        return x + ops.stop_gradient(quantized - x)


class MixtureOfExperts(layers.Layer):
    """Experts and a gate, with a loss that is least if all work alike."""

    def __init__(self, experts=3, units=4, **kwargs):
        super().__init__(**kwargs)
        self.gate = layers.Dense(experts, "softmax")
        self.experts = [layers.Dense(units, "relu") for _ in range(experts)]

    def call(self, x):
        gate = self.gate(x)
        outputs = ops.stack([expert(x) for expert in self.experts], 1)
        load = ops.mean(gate, 0)
        self.add_loss(0.1 * len(self.experts) * ops.sum(load**2))
        return ops.sum(gate[..., None] * outputs, 1)


class SummedActivity(layers.Layer):
    """Adds a loss that is a sum over the examples of the batch."""

    def call(self, x):
        self.add_loss(1e-2 * ops.sum(x**2))
        return x


class MinibatchDeviation(layers.Layer):
    """The standard deviation over the batch as one more feature (StyleGAN)."""

    def call(self, x):
        deviation = ops.mean(ops.std(x, 0))
        return ops.concatenate([x, 0 * x[:, :1] + deviation], -1)


class AttentionAcrossExamples(layers.Layer):
    """Every example of a batch attends to the others."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, 3)

    def call(self, x):
        return x + self.attention(x[None], x[None])[0]


class EverySecondMean(layers.Layer):
    """Follows the mean of its inputs in every second call in training."""

    def build(self, shape):
        self.mean = self.add_weight(shape[1:], "zeros", trainable=False)
        self.count = self.add_weight((), "zeros", trainable=False)

    def call(self, x, training=False):
        if training:
            self.count.assign_add(1)
            ops.cond(
                ops.equal(self.count % 2, 0),
                lambda: self.mean.assign(ops.mean(x, 0)),
                lambda: self.mean.assign(self.mean),
            )
        return x - self.mean


class TensorFlowState(layers.Layer):
    """Variables that Keras does not know, assigned in a function."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = tf.random.Generator.from_seed(1)
        self.scale = tf.Variable(1.0, trainable=False)
        self.noise = tf.function(self.draw)

    def draw(self, x):
        self.scale.assign(0.9 * self.scale)
        return self.scale * self.generator.normal(tf.shape(x))

    def call(self, x, training=False):
        return x + self.noise(x) if training else x


class LogisticEndpoint(layers.Layer):
    """The loss and a metric as a layer, which is fed the targets."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.loss = keras.losses.BinaryCrossentropy(from_logits=True)
        self.accuracy = keras.metrics.BinaryAccuracy(name="accuracy")

    def call(self, logits, targets):
        self.add_loss(self.loss(targets, logits))
        self.accuracy.update_state(targets, ops.sigmoid(logits))
        return ops.sigmoid(logits)


class UnseededNoise(layers.Layer):
    """Draws from Keras's global generator."""

    def call(self, x, training=False):
        if training:
            x += 0.1 * keras.random.normal(ops.shape(x))
        return x


class NumPyNoise(layers.Layer):
    """Draws from NumPy's global generator at each eager call."""

    def call(self, x, training=False):
        if training:
            x += np.random.normal(0, 0.1, x.shape[-1]).astype("float32")
        return x


class Breaking(layers.Layer):
    """Interrupts one of its next calls on a batch, where `countdown` is set."""

    countdown = 0

    def call(self, x):
        if x.shape[0] is not None and self.countdown:
            self.countdown -= 1
            if not self.countdown:
                raise KeyboardInterrupt
        return x
