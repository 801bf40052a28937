"""Scripts on tables: several inputs and outputs, weights, preprocessing."""

import keras
import numpy as np
from keras import layers, ops

from tests.clients.script import Trained, random_numbers


def recommender(wrap, folder):
    """Users and movies in a dict, embedded and multiplied; CSVLogger."""
    rng = random_numbers()
    x = {"user": rng.integers(0, 20, 95), "movie": rng.integers(0, 9, 95)}
    y = (x["user"] % 3 == x["movie"] % 3).astype("float32")
    inputs = {name: keras.Input((), name=name, dtype="int32") for name in x}
    vectors = [
        layers.Embedding(size, 4, embeddings_regularizer="l2")(inputs[name])
        for name, size in {"user": 20, "movie": 9}.items()
    ]
    outputs = layers.Activation("sigmoid")(layers.Dot(axes=1)(vectors))
    model = wrap(keras.Model(inputs, outputs))
    model.compile(
        keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["mae"]
    )
    history = model.fit(
        x,
        y,
        batch_size=16,
        epochs=3,
        validation_data=(x, y),
        callbacks=[keras.callbacks.CSVLogger(folder / "log.csv")],
        verbose=0,
    )
    return Trained(model, history.history, {"x": x, "y": y})


def credit_fraud(wrap, folder):
    """Columns normalized within the model, rare positives weighted."""
    rng = random_numbers()
    x = rng.normal(3, 7, (85, 5)).astype("float32")
    y = (x[:, 0] + x[:, 1] > 16).astype("int32")
    normalization = layers.Normalization()
    normalization.adapt(x)
    model = wrap(
        keras.Sequential(
            [
                keras.Input((5,)),
                normalization,
                layers.Dense(8, activation="relu"),
                layers.Dense(1, activation="sigmoid"),
            ]
        )
    )
    model.compile(
        keras.optimizers.Nadam(1e-2),
        "binary_crossentropy",
        metrics=[
            keras.metrics.Precision(name="precision"),
            keras.metrics.Recall(name="recall"),
        ],
        weighted_metrics=["accuracy"],
    )
    history = model.fit(
        x,
        y,
        batch_size=17,
        epochs=3,
        class_weight={0: 1 / np.sum(y == 0), 1: 1 / np.sum(y == 1)},
        verbose=0,
    )
    return Trained(model, history.history, {"x": x, "y": y})


def ticket_triage(wrap, folder):
    """Inputs and outputs by name, a loss for each, loss_weights."""
    rng = random_numbers()
    x = {
        "title": rng.integers(0, 20, (53, 5)),
        "body": rng.normal(size=(53, 6)).astype("float32"),
    }
    y = {
        "priority": rng.random((53, 1)).astype("float32"),
        "department": rng.integers(0, 4, 53),
    }
    title = keras.Input((5,), name="title")
    body = keras.Input((6,), name="body")
    embedded = layers.Flatten()(layers.Embedding(20, 4)(title))
    hidden = layers.concatenate([embedded, body])
    outputs = {
        "priority": layers.Dense(1, "sigmoid", name="priority")(hidden),
        "department": layers.Dense(4, name="department")(hidden),
    }
    model = wrap(keras.Model({"title": title, "body": body}, outputs))
    model.compile(
        keras.optimizers.RMSprop(1e-2),
        loss={
            "priority": "binary_crossentropy",
            "department": keras.losses.SparseCategoricalCrossentropy(
                from_logits=True
            ),
        },
        loss_weights={"priority": 1.0, "department": 0.2},
        metrics={"priority": "mae", "department": ["accuracy"]},
    )
    history = model.fit(x, y, batch_size=16, epochs=2, verbose=0)
    return Trained(model, history.history, {"x": x, "y": y})


def house_prices(wrap, folder):
    """A regression with a sample_weight, some of which are 0."""
    rng = random_numbers()
    x = rng.normal(size=(61, 4)).astype("float32")
    y = np.tanh(x[:, :1]) + 0.1 * rng.normal(size=(61, 1))
    weights = np.maximum(rng.normal(1, 1, 61), 0)
    model = wrap(
        keras.Sequential([layers.Dense(6, activation="tanh"), layers.Dense(1)])
    )
    model.compile(
        keras.optimizers.Adagrad(0.1),
        keras.losses.Huber(),
        metrics=["mse"],
        weighted_metrics=["mae"],
    )
    history = model.fit(
        x,
        y,
        batch_size=8,
        epochs=3,
        sample_weight=weights,
        validation_split=0.25,
        verbose=0,
    )
    data = {"x": x, "y": y, "sample_weight": weights}
    return Trained(model, history.history, data)


@keras.saving.register_keras_serializable("clients")
class LogisticEndpoint(layers.Layer):
    """The loss and a metric as a layer, which is fed the targets."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.loss = keras.losses.BinaryCrossentropy(from_logits=True)
        self.accuracy = keras.metrics.BinaryAccuracy(name="accuracy")

    def call(self, logits, targets=None):
        if targets is not None:
            self.add_loss(self.loss(targets, logits))
            self.accuracy.update_state(targets, ops.sigmoid(logits))
        return ops.sigmoid(logits)


def endpoint_layer(wrap, folder):
    """No loss is compiled: a layer adds its own, others regularize."""
    rng = random_numbers()
    x = rng.normal(size=(45, 3)).astype("float32")
    data = {"inputs": x, "targets": (x[:, :1] > 0).astype("float32")}
    inputs = keras.Input((3,), name="inputs")
    targets = keras.Input((1,), name="targets")
    hidden = layers.Dense(
        6,
        activation="relu",
        kernel_regularizer=keras.regularizers.L2(1e-2),
        activity_regularizer=keras.regularizers.L1(1e-2),
    )(inputs)
    outputs = LogisticEndpoint()(layers.Dense(1)(hidden), targets)
    model = wrap(keras.Model({"inputs": inputs, "targets": targets}, outputs))
    model.compile(keras.optimizers.SGD(0.1))
    history = model.fit(data, batch_size=16, epochs=2, verbose=0)
    return Trained(model, history.history, {"x": data})


@keras.saving.register_keras_serializable("clients")
class Heteroscedastic(keras.Model):
    """Predicts a mean and a variance; the loss is the Gaussian likelihood."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.hidden = layers.Dense(units, activation="tanh")
        self.mean = layers.Dense(1)
        self.log_variance = layers.Dense(1)
        self.error = keras.metrics.MeanAbsoluteError(name="error")

    def call(self, inputs):
        hidden = self.hidden(inputs)
        return ops.concatenate(
            [self.mean(hidden), self.log_variance(hidden)], axis=-1
        )

    def compute_loss(self, x, y, y_pred, sample_weight=None, **kwargs):
        mean, log_variance = ops.split(y_pred, 2, axis=-1)
        self.error.update_state(y, mean)
        scaled = ops.square(y - mean) / ops.exp(log_variance)
        return ops.mean(scaled + log_variance) / 2

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def heteroscedastic(wrap, folder):
    """A subclassed model with a compute_loss and a metric of its own."""
    rng = random_numbers()
    x = rng.normal(size=(39, 2)).astype("float32")
    y = x[:, :1] + np.abs(x[:, 1:]) * rng.normal(size=(39, 1))
    model = wrap(Heteroscedastic(6))
    model.compile(keras.optimizers.SGD(0.05, momentum=0.5))
    history = model.fit(
        x, y, batch_size=8, epochs=2, validation_split=0.2, verbose=0
    )
    return Trained(model, history.history, {"x": x, "y": y})


SCRIPTS = (
    recommender,
    credit_fraud,
    ticket_triage,
    house_prices,
    endpoint_layer,
    heteroscedastic,
)
