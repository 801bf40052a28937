"""Image classification sets, read into memory in a fixed order."""

import dataclasses
import os

import numpy as np
import tensorflow_datasets as tfds

from keras_svag import arguments


@dataclasses.dataclass(frozen=True)
class KnownDataset:
    """What has to be known of a data set before it is loaded.

    The `moments` are mean and standard deviation of every channel, in units of
    `max_value`, a pixel's largest; None for those of the training images.
    """

    num_train_examples: int
    num_classes: int
    max_value: int
    may_be_mirrored: bool
    moments: tuple | None = None


# As in [L21] and most code for it.
_CIFAR10_MOMENTS = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)

DATASETS = {
    "digits": KnownDataset(1437, 10, 16, False),
    "cifar10": KnownDataset(50_000, 10, 255, True, _CIFAR10_MOMENTS),
    "cifar100": KnownDataset(50_000, 100, 255, True),
    "svhn_cropped": KnownDataset(73_257, 10, 255, False),
    "mnist": KnownDataset(60_000, 10, 255, False),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A labelled image set in memory.

    Images are uint8 arrays of shape `(n, height, width, channels)`, labels
    int32 arrays; `mean` and `std` have a number a channel, in units of
    `kind.max_value`.
    """

    kind: KnownDataset
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load(name, data_dir=None):
    """The `Dataset` with a name: digits, or one that TFDS has prepared.

    The default `data_dir` is `$TFDS_DATA_DIR` or `~/tensorflow_datasets`.
    """
    kind = DATASETS[arguments.choice("dataset", name, DATASETS)]
    splits = (
        _load_digits() if name == "digits" else _load_prepared(name, data_dir)
    )
    (images, labels), (test_images, test_labels) = splits
    return Dataset(
        kind,
        images,
        labels.astype(np.int32),
        test_images,
        test_labels.astype(np.int32),
        *(kind.moments or _channel_moments(images, kind.max_value)),
    )


def _load_digits():
    """The optical digits that scikit-learn ships, so that no network is needed.

    They are 1,797 8×8 images, the test part of the UCI set "Optical Recognition
    of Handwritten Digits" (Alpaydin and Kaynak, 1998). The last 360 are the
    test split, with between 33 and 37 images of each digit. The cut is plain
    because the order of the images is not random: neighbours resemble each
    other (a nearest-neighbour classifier is right on 95.6% of the last 360,
    but on 98.8 ± 0.7% after a random split), so that a random or stratified
    split would flatter every model.
    """
    # Other data sets do not need it.
    from sklearn.datasets import load_digits

    digits, count = load_digits(), DATASETS["digits"].num_train_examples
    images = digits.images.astype(np.uint8)[..., np.newaxis]
    return [
        (images[part], digits.target[part])
        for part in (slice(count), slice(count, None))
    ]


def _load_prepared(name, data_dir):
    root = os.path.expanduser(
        data_dir
        or os.environ.get("TFDS_DATA_DIR")
        or os.path.join("~", "tensorflow_datasets")
    )
    try:
        # The newest version there; `tfds.builder` would try the network for
        # minutes.
        builder = tfds.core.read_only_builder.builder_from_files(
            name, data_dir=root
        )
        return [_read_split(builder, split) for split in ("train", "test")]
    except tfds.core.registered.DatasetNotFoundError as error:
        raise ValueError(
            f"The data set {name!r} is not prepared: there is no "
            f"{os.path.join(root, name, '<version>', 'dataset_info.json')}; "
            f"prepare it on a machine with a network by `tfds build {name} "
            f"--data_dir={root}`, or pass the `data_dir` that holds it."
        ) from error
    # Of a damaged set TFDS passes on whatever its parsers raise.
    except Exception as error:
        raise ValueError(
            f"The data set in {os.path.join(root, name)} cannot be read "
            f"({str(error).splitlines()[0].rstrip('.')}); delete that "
            "directory and prepare it again."
        ) from error


def _read_split(builder, split):
    examples = builder.as_dataset(
        split=split,
        batch_size=-1,
        # One file after the other: with interleaving, the order would depend
        # on how many files are read at a time.
        read_config=tfds.ReadConfig(
            interleave_cycle_length=1, try_autocache=False
        ),
        decoders=tfds.decode.PartialDecoding({"image": True, "label": True}),
    )
    return examples["image"].numpy(), examples["label"].numpy()


def _channel_moments(images, max_value):
    axes = tuple(range(images.ndim - 1))
    squares = np.square(images, dtype=np.uint16)
    mean = images.mean(axes, np.float64) / max_value
    variance = squares.mean(axes, np.float64) / max_value**2 - mean**2
    return tuple(mean.tolist()), tuple(np.sqrt(variance).tolist())
