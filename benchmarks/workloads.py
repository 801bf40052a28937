"""The networks whose training is measured, with batches of random examples."""

import argparse
import dataclasses
import os
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from keras_svag import applications

CIFAR = (32, 32, 3)
DIGITS = (8, 8, 1)


@dataclasses.dataclass(frozen=True)
class Workload:
    """A network, the simulated batch size B, and the steps of one turn."""

    title: str
    make: Callable[[], keras.Model]
    input_shape: tuple[int, int, int]
    batch_size: int
    steps: int

    def batches(self, rows):
        """The same batch of `rows` examples, for ever."""
        rng = np.random.default_rng(0)
        x = rng.normal(size=(rows, *self.input_shape)).astype("float32")
        y = rng.integers(0, 10, rows).astype("int32")
        return tf.data.Dataset.from_tensors((x, y)).repeat()


def _pre_resnet(normalization, widen_factor=1, depth=32):
    return lambda: applications.PreResNet(
        depth, CIFAR, 10, normalization, widen_factor, seed=0
    )


WORKLOADS = {
    "bn": Workload(
        "PreResNet-32, BN, B = 128", _pre_resnet("batch"), CIFAR, 128, 10
    ),
    "gn": Workload(
        "PreResNet-32, GN, B = 128", _pre_resnet("group"), CIFAR, 128, 10
    ),
    "wide": Workload(
        "PreResNet-32, 4x wide, BN, B = 32",
        _pre_resnet("batch", 4),
        CIFAR,
        32,
        4,
    ),
    "mlp": Workload(
        "digits MLP, B = 16",
        lambda: applications.ScaleInvariantMLP(DIGITS, 10, seed=0),
        DIGITS,
        16,
        500,
    ),
}
PRE_RESNET_8 = Workload(
    "PreResNet-8, GN, B = 64", _pre_resnet("group", depth=8), CIFAR, 64, 4
)


def make_parser(description, default=tuple(WORKLOADS), choices=WORKLOADS):
    """A parser of `--workloads` and `--rounds`."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--workloads", nargs="+", default=list(default), choices=choices
    )
    parser.add_argument("--rounds", type=int, default=5)
    return parser


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class EpochSeconds(keras.callbacks.Callback):
    """The seconds of the last epoch, without what `fit` does before it."""

    def __init__(self, clock=time.perf_counter):
        super().__init__()
        self._clock = clock

    def on_epoch_begin(self, epoch, logs=None):
        self._start = self._clock()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds = self._clock() - self._start


def seconds_per_step(model, batches, steps, callbacks=()):
    """Seconds of a training step of a compiled model, through `fit`."""
    clock = EpochSeconds()
    model.fit(
        batches,
        steps_per_epoch=steps,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks, clock],
    )
    return clock.seconds / steps
