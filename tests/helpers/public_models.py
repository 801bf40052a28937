"""Small models in the ways of public scripts, each compiled and with data.

Each is a function that returns a `Script`. 43 rows in batches of 8 are 6 steps
an epoch, the last of 3 rows.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from tests.helpers import public_layers
from tests.helpers.small_problems import dtype_policy, numbers

BACKEND = keras.backend.backend()
tf = None
if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
    from jax.experimental.sparse import BCOO
else:
    import torch

ROWS = 43
BATCH_SIZE = 8


class Script(NamedTuple):
    """A compiled model, its data, and more arguments of `fit` and monitors."""

    model: keras.Model
    x: Any
    y: Any = None
    sample_weight: Any = None
    fit: dict = {}
    monitor: dict = {}


def labels(classes=3):
    return np.random.default_rng(1).integers(0, classes, ROWS)


def tokens(length=3, words=12):
    return np.random.default_rng(2).integers(0, words, (ROWS, length))


def _script(inputs, *inner, x, y, optimizer="sgd", loss="mse", **compilation):
    model = keras.Sequential([inputs, *inner])
    model.compile(optimizer, loss, **compilation)
    return Script(model, x, y)


def _regression(*inner, **compilation):
    """Layers between 6 inputs and a dense output."""
    x, y = numbers(ROWS, 6), numbers(ROWS, 2, seed=1)
    inner = *inner, layers.Dense(2)
    compilation = {"metrics": ["mae"], **compilation}
    return _script(keras.Input((6,)), *inner, x=x, y=y, **compilation)


def _hidden(**arguments):
    return layers.Dense(5, "tanh", **arguments)


def perceptron():
    return _regression(_hidden())


# Images


def _images(*inner):
    head = layers.Flatten(), layers.Dropout(0.3), layers.Dense(3)
    return _script(
        keras.Input((6, 6, 2)),
        *inner,
        *head,
        x=numbers(ROWS, 6, 6, 2),
        y=labels(),
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def convolutions():
    """BatchNormalization and dropout, trained by Adam."""
    return _images(
        layers.Conv2D(3, 3, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
    )


def frozen_batch_normalization():
    """Transfer learning: the backbone with its statistics is frozen."""
    inner = layers.Conv2D(3, 3), layers.BatchNormalization()
    backbone = keras.Sequential([keras.Input((6, 6, 2)), *inner])
    backbone.trainable = False
    return _images(backbone, layers.ReLU())


def augmented_images():
    return _images(
        layers.RandomFlip("horizontal"),
        layers.RandomTranslation(0.2, 0.2),
        layers.Conv2D(3, 3),
    )


def half_precision():
    """mixed_float16: Keras scales the loss by itself."""
    with dtype_policy("mixed_float16"):
        return _images(layers.Conv2D(3, 3))


# Layers with state or randomness of their own


def layers_with_state():
    inner = [layers.SpectralNormalization(_hidden()), public_layers.Codebook()]
    if BACKEND != "jax":  # No branch of it may assign.
        inner += [public_layers.EverySecondMean()]
    if BACKEND == "tensorflow":
        inner += [public_layers.TensorFlowState()]
    return _regression(*inner)


def noise_without_a_seed():
    return _regression(public_layers.UnseededNoise())


def numpy_noise():
    """Eager, so that each step draws anew."""
    return _regression(public_layers.NumPyNoise(), run_eagerly=True)


# Losses that are no mean over examples


def coupled_examples():
    return _regression(
        public_layers.MixtureOfExperts(),
        public_layers.MinibatchDeviation(),
        public_layers.AttentionAcrossExamples(),
        _hidden(kernel_regularizer="l2", activity_regularizer="l1"),
    )


def summed_add_loss():
    return _regression(_hidden(), public_layers.SummedActivity())


def dice_loss():
    """One overlap of a whole batch of masks."""

    def dice(y_true, y_pred):
        y_pred = ops.sigmoid(y_pred)
        union = ops.sum(y_true) + ops.sum(y_pred)
        return 1 - (2 * ops.sum(y_true * y_pred) + 1) / (union + 1)

    script = _regression(_hidden(), loss=dice)
    return script._replace(y=(script.y > 0).astype("float32"))


def in_batch_negatives():
    """Each output has to find its own target among those of the batch."""

    def found(y_true, y_pred):
        logits = ops.matmul(y_pred, ops.transpose(y_true))
        return keras.losses.sparse_categorical_crossentropy(
            ops.arange(ops.shape(logits)[0]), logits, from_logits=True
        )

    return _regression(_hidden(), loss=found)


# Inputs, targets and weights


def _two_outputs(y):
    """Of a list of outputs the second has no loss."""
    x = keras.Input((6,))
    hidden = _hidden()(x)
    heads = layers.Dense(1, name="score"), layers.Dense(3, name="embedding")
    model = keras.Model(x, [head(hidden) for head in heads])
    model.compile("sgd", ["mse", None])
    return Script(model, numbers(ROWS, 6), y)


def named_targets():
    return _two_outputs({"score": numbers(ROWS, 1, seed=1)})


def target_that_is_none():
    return _two_outputs([numbers(ROWS, 1, seed=1), None])


def loss_of_a_layer():
    """No loss is compiled, and `fit` is given no targets."""
    inputs = {name: keras.Input((2,), name=name) for name in ("x", "targets")}
    endpoint, logits = public_layers.LogisticEndpoint(), layers.Dense(2)
    outputs = endpoint(logits(inputs["x"]), inputs["targets"])
    model = keras.Model(inputs, outputs)
    model.compile("sgd")
    targets = (numbers(ROWS, 2) > 0).astype("float32")
    return Script(model, {"x": numbers(ROWS, 2), "targets": targets})


def strings():
    """Words in, looked up within the model."""
    words = ["a", "few", "words", "other"]
    return _script(
        keras.Input((3,), dtype="string"),
        layers.StringLookup(vocabulary=words[:3]),
        layers.Embedding(4, 2),
        layers.Flatten(),
        layers.Dense(2),
        x=tf.gather(words, tokens(3, 4)),
        y=numbers(ROWS, 2),
    )


def masked_lstm():
    """Sentences of several lengths, a tag for each word."""
    return _script(
        keras.Input((3,)),
        layers.Embedding(12, 2, mask_zero=True),
        layers.LSTM(2, return_sequences=True),
        layers.Dense(3, "softmax"),
        x=np.where(np.arange(3) < 1 + labels()[:, None], tokens(), 0),
        y=tokens() % 3,
        optimizer=keras.optimizers.SGD(0.5),
        loss="sparse_categorical_crossentropy",
        weighted_metrics=["accuracy"],
    )


def class_weights():
    script = _images(layers.ReLU())
    return script._replace(fit={"class_weight": {0: 0.5, 1: 1.0, 2: 4.0}})


def sample_weights():
    weights = np.maximum(numbers(ROWS) + 1, 0)
    script = _regression(_hidden(), weighted_metrics=["mse"])
    return script._replace(sample_weight=weights)


def embeddings():
    """A recommender: dict inputs, gradients of few rows."""
    inputs = {
        name: keras.Input((), name=name, dtype="int32")
        for name in ("user", "movie")
    }
    vectors = [layers.Embedding(20, 3)(x) for x in inputs.values()]
    model = keras.Model(inputs, layers.Dot(axes=1)(vectors))
    model.compile(keras.optimizers.Adagrad(0.1), "mse", metrics=["mae"])
    user, movie = tokens(2, 20).T
    return Script(model, {"user": user, "movie": movie}, numbers(ROWS, 1))


def sparse_input():
    """A bag of words, as TensorFlow and JAX have sparse matrices."""
    words = np.maximum(numbers(ROWS, 20) - 0.5, 0)
    sparse = tf.sparse.from_dense if tf else BCOO.fromdense
    return _script(
        keras.Input((20,), sparse=True),
        layers.Dense(2),
        x=sparse(words),
        y=numbers(ROWS, 2),
    )


def ragged_input():
    """Sentences as a `tf.RaggedTensor`."""
    return _script(
        keras.Input((None,), dtype="int64", ragged=True),
        layers.Embedding(12, 3),
        layers.GlobalAveragePooling1D(),
        layers.Dense(2),
        x=tf.RaggedTensor.from_tensor(tokens(), lengths=1 + labels()),
        y=numbers(ROWS, 2),
    )


# Models with methods of their own


class OwnComputations(keras.Model):
    """A subclass that builds itself at its first call."""

    def __init__(self):
        super().__init__()
        self.hidden, self.out = _hidden(), layers.Dense(2)
        self.error = keras.metrics.MeanAbsoluteError(name="error")

    def call(self, inputs):
        return self.out(self.hidden(inputs))

    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
        self.error.update_state(y, y_pred)
        return ops.mean(ops.square(y - y_pred)) + 1e-3 * ops.mean(x**2)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        return {**logs, "bias": ops.mean(y_pred - y)}


def own_computations():
    model = OwnComputations()
    model.compile("adam")
    return Script(model, numbers(ROWS, 6), numbers(ROWS, 2, seed=1))


class OwnTrainStep(keras.Model):
    """Minimizes `errors(x, y)` by a `train_step` as in the guides."""

    def __init__(self, *names):
        super().__init__()
        self.trackers = {n: keras.metrics.Mean(name=n) for n in names}

    @property
    def metrics(self):
        return list(self.trackers.values())

    def tracked(self, errors):
        for name, value in errors.items():
            self.trackers[name].update_state(value)
        return {name: t.result() for name, t in self.trackers.items()}

    if BACKEND == "tensorflow":

        def train_step(self, data):
            with tf.GradientTape() as tape:
                errors = self.errors(*data)
                loss = sum(errors.values())
            gradients = tape.gradient(loss, self.trainable_weights)
            self.optimizer.apply(gradients, self.trainable_weights)
            return self.tracked(errors)

    elif BACKEND == "torch":

        def train_step(self, data):
            self.zero_grad()
            errors = self.errors(*data)
            sum(errors.values()).backward()
            gradients = [w.value.grad for w in self.trainable_weights]
            with torch.no_grad():
                self.optimizer.apply(gradients, self.trainable_weights)
            return self.tracked(errors)

    else:

        def train_step(self, state, data):
            weights, others, of_optimizer, of_metrics = state
            kept = self.non_trainable_variables, self.metrics_variables

            def computed(weights):
                variables = [*self.trainable_variables, *kept[0], *kept[1]]
                values = [*weights, *others, *of_metrics]
                mapping = zip(variables, values, strict=True)
                with keras.StatelessScope(mapping) as scope:
                    errors = self.errors(*data)
                    logs = self.tracked(errors)
                after = keras.tree.map_structure(scope.get_current_value, kept)
                return sum(errors.values()), (logs, *after)

            gradients, (logs, others, of_metrics) = jax.grad(
                computed, has_aux=True
            )(weights)
            weights, of_optimizer = self.optimizer.stateless_apply(
                of_optimizer, gradients, weights
            )
            return logs, (weights, others, of_optimizer, of_metrics)


class Autoencoder(OwnTrainStep):
    """A VAE as in Keras's examples, which computes its losses by itself."""

    def __init__(self):
        super().__init__("reconstruction", "divergence")
        self.encoder, self.decoder = layers.Dense(4), layers.Dense(6)
        self.seed = keras.random.SeedGenerator(3)

    def encode(self, x):
        """The mean of a code, the logarithm of its variance, and a draw."""
        mean, log_variance = ops.split(self.encoder(x), 2, -1)
        noise = keras.random.normal(ops.shape(mean), seed=self.seed)
        return mean, log_variance, mean + ops.exp(log_variance / 2) * noise

    def call(self, x):
        return self.decoder(self.encode(x)[-1])

    def errors(self, x, y):
        mean, log_variance, code = self.encode(x)
        return {
            "reconstruction": ops.mean((self.decoder(code) - y) ** 2),
            "divergence": ops.mean(
                mean**2 + ops.exp(log_variance) - 1 - log_variance
            ),
        }


def autoencoder_without_a_loss(*loss):
    model = Autoencoder()
    model.compile("adam", *loss)
    x = numbers(ROWS, 6)
    return Script(model, x, x)


def own_train_step():
    """Its loss is compiled, too: what the monitor measures."""
    return autoencoder_without_a_loss("mse")


def variational_autoencoder():
    """Compiled without a loss: the monitor is given one."""
    script = autoencoder_without_a_loss()
    return script._replace(monitor={"loss": "mse"})


class Adversaries(keras.Model):
    """A GAN as in Keras's examples has no `call`."""


def adversaries():
    model = Adversaries()
    model.compile("adam")
    return Script(model, numbers(ROWS, 6))


def stateful_lstm():
    rows = 3 * BATCH_SIZE
    return _script(
        keras.Input((5, 2), batch_size=BATCH_SIZE),
        layers.LSTM(3, stateful=True),
        layers.Dense(1),
        x=numbers(rows, 5, 2),
        y=numbers(rows, 1),
    )


# Fine-tuning and quantization


def _quantized(mode):
    script = perceptron()
    script.model.quantize(mode)
    if mode == "int8":
        script.model.layers[0].enable_lora(2)
    script.model.compile("adam", "mse")
    return script


def int8():
    """Integers are frozen; low-rank matrices beside them train."""
    return _quantized("int8")


def float8():
    """Scales are trainable variables that their gradients overwrite."""
    return _quantized("float8")


# Optimizers


def averaged_and_decayed():
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, 12)
    optimizer = keras.optimizers.AdamW(
        schedule, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=4
    )
    return _regression(optimizer=optimizer)


def accumulated_and_clipped():
    optimizer = keras.optimizers.RMSprop(
        gradient_accumulation_steps=4, global_clipnorm=0.1, centered=True
    )
    return _regression(optimizer=optimizer)
