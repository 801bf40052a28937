"""Scripts on tables: inputs by name."""

import keras
from keras import layers

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


SCRIPTS = (recommender,)
