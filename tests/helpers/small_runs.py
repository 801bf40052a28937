"""Small runs of train.py in this process, and what runs leave behind."""

import csv
import os

import keras
import numpy as np
import tensorflow as tf

import train
from configs import digits
from experiments.run_folder import WorkDir


def small_config(**overrides):
    """Of an epoch without a check; overrides may be dicts of a section."""
    config = digits.get_config()
    config.epochs = 1
    config.batch_size = 128
    config.learning_rate = 0.5
    config.model.hidden_units = (8,)
    config.lsr.enabled = False
    config.update(overrides)
    return config


def run(folder, config, checkpoint_every="500"):
    """Trains in a folder; returns the results."""
    # Weights are saved by the names of their layers.
    keras.utils.clear_session()
    workdir = WorkDir(str(folder), config.to_dict())
    strategy = tf.distribute.get_strategy()
    return train.train(config, workdir, None, strategy, checkpoint_every)


def weights(folder):
    """All weights of the model that a run has saved, in one array."""
    model = keras.saving.load_model(os.path.join(folder, "model.keras"))
    return np.concatenate([np.ravel(array) for array in model.get_weights()])


def history(folder):
    """`{column: texts}` of the epochs."""
    with open(os.path.join(folder, "history.csv"), newline="") as file:
        header, *rows = csv.reader(file)
    return dict(zip(header, zip(*rows, strict=True), strict=True))


def numbers(folder, column):
    """Those of the epochs in a column of the history."""
    return [float(text) for text in history(folder)[column]]
