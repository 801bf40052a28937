"""Scripts on tables: inputs by name, a loss as a layer."""

import keras
from keras import layers, ops

from tests.clients.script import Trained, random_numbers


def recommender(callbacks, folder):
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
    model = keras.Model(inputs, outputs)
    model.compile(
        keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["mae"]
    )
    history = model.fit(
        x,
        y,
        batch_size=16,
        epochs=3,
        validation_data=(x, y),
        callbacks=[*callbacks, keras.callbacks.CSVLogger(folder / "log.csv")],
        verbose=0,
    )
    return Trained(model, history.history, {"x": x, "y": y})


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


def endpoint_layer(callbacks, folder):
    """No loss is compiled: a layer adds its own, another one regularizes."""
    rng = random_numbers()
    x = rng.normal(size=(45, 3)).astype("float32")
    data = {"inputs": x, "targets": (x[:, :1] > 0).astype("float32")}
    inputs = keras.Input((3,), name="inputs")
    targets = keras.Input((1,), name="targets")
    hidden = layers.Dense(
        6, activation="relu", kernel_regularizer=keras.regularizers.L2(1e-2)
    )(inputs)
    outputs = LogisticEndpoint()(layers.Dense(1)(hidden), targets)
    model = keras.Model({"inputs": inputs, "targets": targets}, outputs)
    model.compile(keras.optimizers.SGD(0.1))
    history = model.fit(
        data, batch_size=16, epochs=2, callbacks=callbacks, verbose=0
    )
    return Trained(model, history.history, {"x": data})


SCRIPTS = (recommender, endpoint_layer)
