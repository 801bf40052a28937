"""Image classification sets, read into memory in a fixed order."""

import contextlib
import dataclasses
import io
import os
import re
import shutil
import tempfile

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from experiments.datasets.digits import NUM_TRAIN_EXAMPLES, OpticalDigits
from keras_svag import arguments


@dataclasses.dataclass(frozen=True)
class KnownDataset:
    """What has to be known of a data set before it is loaded.

    Attributes:
        num_train_examples: size of its training split.
        max_value: the largest value that a pixel can have.
        may_be_mirrored: whether a mirrored image is still one of its class.
        moments: mean and standard deviation of every channel, in units of
            `max_value`; None for those of the training images.
    """

    num_train_examples: int
    max_value: int
    may_be_mirrored: bool
    moments: tuple | None = None


# As in [L21] and most code for it.
_CIFAR10_MOMENTS = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)

DATASETS = {
    "digits": KnownDataset(NUM_TRAIN_EXAMPLES, 16, False),
    "cifar10": KnownDataset(50_000, 255, True, _CIFAR10_MOMENTS),
    "cifar100": KnownDataset(50_000, 255, True),
    "svhn_cropped": KnownDataset(73_257, 255, False),
    "mnist": KnownDataset(60_000, 255, False),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A labelled image set in memory.

    Attributes:
        name: the name it was loaded by.
        train_images: uint8 array of shape `(n, height, width, channels)`.
        train_labels: int32 array of shape `(n,)`.
        test_images: uint8 array, likewise.
        test_labels: int32 array, likewise.
        num_classes: number of classes.
        mean: mean of every channel, in units of `max_value`.
        std: standard deviation of every channel, in units of `max_value`.
        max_value: the largest value that a pixel can have.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    max_value: int


def load(name, data_dir=None):
    """Loads a data set by name.

    Image i of a split is the same image in every call.

    Args:
        name: one of `DATASETS`: `"digits"`, the optical digits of
            scikit-learn, or one that TensorFlow Datasets has prepared.
        data_dir: directory of prepared sets. Default: that of TensorFlow
            Datasets, `$TFDS_DATA_DIR` or `~/tensorflow_datasets`; for the
            digits a cache of the user, or a temporary directory if that is
            not writable.

    Returns:
        A `Dataset`.

    Raises:
        ValueError: if the name is unknown, the set is not prepared, or
            `data_dir` cannot be used.
    """
    arguments.choice("dataset", name, DATASETS)
    if name == "digits":
        return _load_digits(data_dir)
    return _read(name, _prepared_by_tfds(name, data_dir))


def _prepared_by_tfds(name, data_dir):
    root = os.path.expanduser(
        data_dir
        or os.environ.get("TFDS_DATA_DIR")
        or os.path.join("~", "tensorflow_datasets")
    )
    # TFDS would try the network for minutes before it gave up.
    directory = _newest_version(os.path.join(root, name))
    if directory is None:
        raise ValueError(
            f"The data set {name!r} is not prepared: there is no "
            f"{os.path.join(root, name, '<version>', 'dataset_info.json')}; "
            f"prepare it on a machine with a network by `tfds build {name} "
            f"--data_dir={root}`, or pass the `data_dir` that holds it."
        )
    return directory


def _newest_version(directory):
    pattern = os.path.join(directory, "*", "dataset_info.json")
    found = {}
    for path in tf.io.gfile.glob(pattern):
        version_directory = os.path.dirname(path)
        version = os.path.basename(version_directory)
        if re.fullmatch(r"\d+\.\d+\.\d+", version):
            key = tuple(int(part) for part in version.split("."))
            found[key] = version_directory
    return found[max(found)] if found else None


def _load_digits(data_dir):
    if data_dir is not None:
        return _read("digits", _prepare_digits(os.path.expanduser(data_dir)))
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    try:
        directory = _prepare_digits(os.path.join(cache, "keras_svag"))
    except ValueError:
        with tempfile.TemporaryDirectory() as scratch:
            return _read("digits", _prepare_digits(scratch))
    return _read("digits", directory)


def _prepare_digits(root):
    target = os.path.join(root, OpticalDigits.name, str(OpticalDigits.VERSION))
    if os.path.exists(os.path.join(target, "dataset_info.json")):
        return target
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        scratch = tempfile.mkdtemp(prefix="incomplete_", dir=root)
    except OSError as error:
        raise ValueError(
            "`data_dir` must be a directory that holds the prepared digits or "
            f"can be written to, got {root!r} ({error.strerror})."
        ) from error
    # A process that prepares at the same time, or is killed, must not leave
    # half a data set: whoever renames first wins, and both made the same.
    try:
        builder = OpticalDigits(data_dir=scratch)
        # TFDS would report a download, to a directory that is about to go.
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            builder.download_and_prepare()
        try:
            os.rename(str(builder.data_path), target)
        except OSError:
            if not os.path.exists(os.path.join(target, "dataset_info.json")):
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _read(name, directory):
    try:
        builder = tfds.builder_from_directory(directory)
    # Of a damaged description TFDS passes on whatever its parser raises.
    except Exception as error:
        raise ValueError(
            f"The data set in {directory} cannot be read "
            f"({str(error).splitlines()[0].rstrip('.')}); delete that "
            "directory and prepare it again."
        ) from error
    train_images, train_labels = _read_split(builder, "train")
    test_images, test_labels = _read_split(builder, "test")
    known = DATASETS[name]
    mean, std = known.moments or _channel_moments(train_images, known.max_value)
    return Dataset(
        name=name,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        num_classes=builder.info.features["label"].num_classes,
        mean=mean,
        std=std,
        max_value=known.max_value,
    )


def _read_split(builder, split):
    # One file after the other: with interleaving, the order would depend on
    # how many files are read at a time.
    read_config = tfds.ReadConfig(
        interleave_cycle_length=1, try_autocache=False
    )
    try:
        examples = builder.as_dataset(
            split=split,
            shuffle_files=False,
            read_config=read_config,
            decoders=tfds.decode.PartialDecoding(
                {"image": True, "label": True}
            ),
        )
        batches = list(examples.batch(1024).as_numpy_iterator())
    except (ValueError, OSError, tf.errors.OpError) as error:
        raise ValueError(
            f"The split {split!r} of the data set in {builder.data_path} "
            "cannot be read; delete that directory and prepare it again."
        ) from error
    images = np.concatenate([batch["image"] for batch in batches])
    labels = np.concatenate([batch["label"] for batch in batches])
    return images, labels.astype(np.int32)


def _channel_moments(images, max_value):
    axes = tuple(range(images.ndim - 1))
    squares = np.square(images, dtype=np.uint16)
    mean = images.mean(axes, np.float64) / max_value
    variance = squares.mean(axes, np.float64) / max_value**2 - mean**2
    return tuple(mean.tolist()), tuple(np.sqrt(variance).tolist())
