"""What two processes have to share to train to the same weights."""

import contextlib
import hashlib
import importlib.resources
import os
import pathlib
import platform
import zlib

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
    files = [
        path
        for package in ("keras_svag", "experiments")
        for path in sorted(
            pathlib.Path(str(importlib.resources.files(package))).rglob("*.py")
        )
    ]
    content = b"".join(path.read_bytes() for path in files)
    return {
        "the version of keras_svag": __version__,
        "the version of Keras": keras.__version__,
        "the version of TensorFlow": tf.__version__,
        "the code of keras_svag and experiments": _checksum(content),
    }


def surroundings(model):
    """What the last bits of a training depend on beside its configuration.

    Args:
        model: the `keras.Model` that is trained.

    Returns:
        A dict of values of JSON by their names.
    """
    gpus = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return {
        **code(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "devices": ", ".join(gpus) or _processor(),
        "replicas": model.distribute_strategy.num_replicas_in_sync,
        "training steps in a call": model.steps_per_execution,
        "--deterministic": backend.is_deterministic(),
        **{name: os.environ.get(name, "not set") for name in _ENVIRONMENT},
    }


def _processor():
    with contextlib.suppress(OSError):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def changes(before, now):
    """Names what changed between two `surroundings`.

    Args:
        before: the earlier ones; no dict if they are not known.
        now: the later ones.

    Returns:
        A string; empty if nothing changed.
    """
    if not isinstance(before, dict):
        return "what the last bits depend on was not saved with it"
    return ", ".join(
        f"{name} (was {before.get(name, 'unknown')}, is {value})"
        for name, value in now.items()
        if before.get(name, "unknown") != value
    )


def data(dataset):
    """Sizes and checksums of a `Dataset`, by their names."""
    found = {
        "the number of training examples": len(dataset.train_labels),
        "the number of test examples": len(dataset.test_labels),
    }
    for name in ("train_labels", "test_labels", "train_images", "test_images"):
        content = memoryview(getattr(dataset, name)).cast("B")
        found[f"the checksum of {name}"] = f"{zlib.crc32(content):08x}"
    return found


def _checksum(content):
    return hashlib.sha256(content).hexdigest()[:12]
