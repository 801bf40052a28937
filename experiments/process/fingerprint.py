"""What two processes have to share to train to the same weights."""

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

_ENVIRONMENT = ("TF_ENABLE_ONEDNN_OPTS", "NVIDIA_TF32_OVERRIDE", "XLA_FLAGS")


def surroundings(model):
    """What the last bits of a training depend on beside its configuration.

    Args:
        model: the `keras.Model` that is trained.

    Returns:
        A dict of values of JSON by their names.
    """
    strategy = model.distribute_strategy
    code = "".join(source_files().values())
    return {
        **versions(),
        "the code of keras_svag and experiments": _checksum(code.encode()),
        "intra-op threads": _threads(
            tf.config.threading.get_intra_op_parallelism_threads(),
            "TF_NUM_INTRAOP_THREADS",
        ),
        "inter-op threads": _threads(
            tf.config.threading.get_inter_op_parallelism_threads(),
            "TF_NUM_INTEROP_THREADS",
        ),
        "devices": _devices(),
        "replicas": strategy.num_replicas_in_sync,
        "training steps in a call": model.steps_per_execution,
        "--deterministic": backend.is_deterministic(),
        **{name: os.environ.get(name, "not set") for name in _ENVIRONMENT},
    }


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


def versions():
    """The versions that a training depends on, by their names."""
    return {
        "the version of keras_svag": __version__,
        "the version of Keras": keras.__version__,
        "the version of TensorFlow": tf.__version__,
    }


def source_files():
    """Checksums of the files of the code, by their names."""
    packages = ("keras_svag", "experiments")
    folders = map(importlib.resources.files, packages)
    return {
        name: checksum
        for folder in folders
        for name, checksum in files_in(pathlib.Path(str(folder))).items()
    }


def files_in(package):
    """Checksums of the Python files in the folder of a package."""
    return {
        path.relative_to(package.parent).as_posix(): _checksum(
            path.read_bytes()
        )
        for path in sorted(package.rglob("*.py"))
    }


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


def settings(config):
    """The configuration, by the names that its keys have in flags."""
    found = {}

    def add(prefix, part):
        for key, value in part.items():
            if isinstance(value, dict):
                add(f"{prefix}.{key}", value)
            else:
                found[f"{prefix}.{key}"] = repr(value)

    add("--config", config.to_dict())
    return found


def _checksum(content):
    return hashlib.sha256(content).hexdigest()[:12]


def _threads(configured, variable):
    """How many threads there are, where 0 and no variable stand for all."""
    given = os.environ.get(variable, "")
    if configured or given.isdecimal():
        return configured or int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _devices():
    gpus = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return ", ".join(gpus) or _processor()


def _processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
