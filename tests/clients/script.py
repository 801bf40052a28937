"""What every training script of this folder is given and gives back.

A script is a function `(wrap, folder)` in the style of Keras's guides: it
makes data and a model, compiles, fits, and writes its files into `folder`.
`wrap` is `keras_svag.SVAGModel` or nothing: the only line that differs.
"""

import dataclasses

import keras
import numpy as np


@dataclasses.dataclass
class Trained:
    """A trained model, the logs of its training, and data to try it on.

    Args:
        model: what `wrap` gave.
        history: `{key: values}`, one an epoch, or one a call.
        data: the arguments of `model.evaluate`, of which `"x"` is that of
            `model.predict`.
    """

    model: keras.Model
    history: dict
    data: dict


def random_numbers():
    """The script's random numbers; Keras's begin anew too."""
    keras.utils.set_random_seed(0)
    return np.random.default_rng(0)
