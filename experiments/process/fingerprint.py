"""What two processes have to share to train to the same weights."""

import functools
import hashlib
import os
import pathlib
import platform
import re
import warnings

import keras
import tensorflow as tf

from keras_svag import backend
from keras_svag.version import __version__

_ENVIRONMENT = (
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "TF_ENABLE_ONEDNN_OPTS",
    "NVIDIA_TF32_OVERRIDE",
    "XLA_FLAGS",
)


@functools.cache
def code():
    """Versions and the checksum of the code, by their names."""
    root = pathlib.Path(__file__).parents[2]
    files = [*sorted((root / "keras_svag").rglob("*.py"))]
    files += sorted((root / "experiments").rglob("*.py"))
    return {
        "the version of keras_svag": __version__,
        "the version of Keras": keras.__version__,
        "the version of TensorFlow": tf.__version__,
        "the code of keras_svag and experiments": _checksum(
            b"".join(path.read_bytes() for path in files)
        ),
    }


def data(dataset):
    """The checksum of a `Dataset`, by its name."""
    arrays = dataset.train_images, dataset.train_labels
    arrays += dataset.test_images, dataset.test_labels
    return {"the data": _checksum(b"".join(a.tobytes() for a in arrays))}


class Surroundings(keras.callbacks.Callback):
    """Says if what the last bits depend on is not as at the checkpoint."""

    def state_dict(self):
        gpus = [
            tf.config.experimental.get_device_details(gpu).get("device_name")
            for gpu in tf.config.list_physical_devices("GPU")
        ]
        # Not every system can bind a process to some of its cores.
        cores = getattr(
            os, "sched_getaffinity", lambda _: range(os.cpu_count())
        )
        return {
            **code(),
            "cores": len(cores(0)),
            "devices": ", ".join(map(str, gpus)) or _processor(),
            "replicas": self.model.distribute_strategy.num_replicas_in_sync,
            "training steps in a call": self.model.steps_per_execution,
            "--deterministic": backend.is_deterministic(),
            **{name: os.environ.get(name, "not set") for name in _ENVIRONMENT},
        }

    def load_state_dict(self, before):
        changes = ", ".join(
            f"{name} (was {before.get(name, 'unknown')}, is {value})"
            for name, value in self.state_dict().items()
            if before.get(name, "unknown") != value
        )
        if changes:
            warnings.warn(
                f"Training goes on, but not to the bit: {changes}.",
                stacklevel=2,
            )


def _processor():
    info = pathlib.Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    names = re.findall("model name\t: (.*)", text)
    return names[0] if names else platform.processor()


def _checksum(content):
    return hashlib.sha256(content).hexdigest()[:12]
