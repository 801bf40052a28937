"""What two processes have to share to train to the same weights."""

import contextlib
import hashlib
import os
import pathlib
import platform

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


def code():
    """Versions and the checksum of the code, by their names."""
    experiments = pathlib.Path(__file__).parents[1]
    library = pathlib.Path(backend.__file__).parents[1]
    files = [*sorted(library.rglob("*.py")), *sorted(experiments.rglob("*.py"))]
    return {
        "the version of keras_svag": __version__,
        "the version of Keras": keras.__version__,
        "the version of TensorFlow": tf.__version__,
        "the code of keras_svag and experiments": _checksum(
            b"".join(path.read_bytes() for path in files)
        ),
    }


def data(dataset):
    """Checksums of a `Dataset`, by their names."""
    return {
        f"the {name} of the data": _checksum(getattr(dataset, name))
        for name in (
            "train_images",
            "train_labels",
            "test_images",
            "test_labels",
        )
    }


def surroundings(model):
    """What the last bits depend on beside the configuration, by its names."""
    gpus = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    # Not every system can bind a process to some of its cores.
    bound = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count()))
    return {
        **code(),
        "cores": len(bound(0)),
        "devices": ", ".join(gpus) or _processor(),
        "replicas": model.distribute_strategy.num_replicas_in_sync,
        "training steps in a call": model.steps_per_execution,
        "--deterministic": backend.is_deterministic(),
        **{name: os.environ.get(name, "not set") for name in _ENVIRONMENT},
    }


def changes(before, now):
    """Names what changed between two `surroundings`; "" if nothing did."""
    return ", ".join(
        f"{name} (was {before.get(name, 'unknown')}, is {value})"
        for name, value in now.items()
        if before.get(name, "unknown") != value
    )


def _processor():
    with contextlib.suppress(OSError, IndexError):
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return text.split("model name\t: ")[1].splitlines()[0]
    return platform.processor() or platform.machine()


def _checksum(content):
    return hashlib.sha256(content).hexdigest()[:12]
