"""Scripts on text: a batch is token numbers."""

import keras
import numpy as np
from keras import layers

from tests.clients.script import Trained, random_numbers

WORDS = 30


def _sentences(rows, length=12):
    """Token numbers, and whether there are many small ones."""
    x = random_numbers().integers(1, WORDS, (rows, length))
    return x, (np.median(x, axis=1) < WORDS / 2).astype("float32")


def bag_of_embeddings(callbacks, folder):
    """Text classification: validation_split, the best weights restored."""
    x, y = _sentences(203)
    model = keras.Sequential(
        [
            layers.Embedding(WORDS, 8),
            layers.GlobalAveragePooling1D(),
            layers.Dense(16, activation="relu"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile("adam", "binary_crossentropy", metrics=["accuracy", "AUC"])
    stopping = keras.callbacks.EarlyStopping(
        "val_loss", min_delta=1.0, patience=2, restore_best_weights=True
    )
    history = model.fit(
        x,
        y,
        batch_size=32,
        epochs=9,
        validation_split=0.2,
        callbacks=[*callbacks, stopping],
        verbose=0,
    )
    assert len(history.epoch) == 3
    return Trained(model, history.history, {"x": x, "y": y})


@keras.saving.register_keras_serializable("clients")
class TransformerBlock(layers.Layer):
    """Attention and two dense layers, each added and normalized."""

    def __init__(self, width, heads, **kwargs):
        super().__init__(**kwargs)
        self.width, self.heads = width, heads
        self.attention = layers.MultiHeadAttention(heads, width // heads)
        self.feed_forward = keras.Sequential(
            [layers.Dense(2 * width, activation="gelu"), layers.Dense(width)]
        )
        self.norms = [layers.LayerNormalization() for _ in range(2)]

    def call(self, x):
        x = self.norms[0](x + self.attention(x, x))
        return self.norms[1](x + self.feed_forward(x))

    def get_config(self):
        sizes = {"width": self.width, "heads": self.heads}
        return {**super().get_config(), **sizes}


def transformer(callbacks, folder):
    """A Transformer classifier: ModelCheckpoint, a schedule, clipping."""
    x, y = _sentences(75)
    inputs = keras.Input((12,))
    hidden = TransformerBlock(8, heads=2)(layers.Embedding(WORDS, 8)(inputs))
    hidden = layers.GlobalAveragePooling1D()(hidden)
    outputs = layers.Dense(2, activation="softmax")(hidden)
    model = keras.Model(inputs, outputs)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, 12, warmup_target=1e-2, warmup_steps=3
    )
    model.compile(
        keras.optimizers.SGD(schedule, momentum=0.9, global_clipnorm=0.5),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    checkpoint = keras.callbacks.ModelCheckpoint(
        str(folder / "best.keras"), monitor="val_loss", save_best_only=True
    )
    history = model.fit(
        x[:50],
        y[:50],
        batch_size=16,
        epochs=3,
        validation_data=(x[50:], y[50:]),
        callbacks=[*callbacks, checkpoint],
        verbose=0,
    )
    best = keras.models.load_model(folder / "best.keras")
    return Trained(best, history.history, {"x": x[50:], "y": y[50:]})


SCRIPTS = (bag_of_embeddings, transformer)
