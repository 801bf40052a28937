"""What every training script of this folder is given and gives back.

A script is a function `(callbacks, folder)` in the style of Keras's guides: it
makes data and a model, compiles, fits, and writes its files into `folder`.
`callbacks` has a callback of keras_svag in it, or none: nothing else differs.
"""

import dataclasses

import keras
import numpy as np


@dataclasses.dataclass
class Trained:
    """A trained model, the logs of its training, and data to try it on.

    Args:
        model: A compiled `keras.Model`.
        history: `{key: values}`, one an epoch, or one a call.
        data: The arguments of `model.evaluate`, of which `"x"` is that of
            `model.predict`.
    """

    model: keras.Model
    history: dict
    data: dict


def random_numbers():
    """The script's random numbers; Keras's begin anew too."""
    keras.utils.set_random_seed(0)
    return np.random.default_rng(0)
