"""The data of a run, from the run's configuration."""

import dataclasses
import functools

from keras_svag import datasets

_EVALUATION_BATCH_SIZE = 500


def load_data(config, data_dir):
    """The data set, with the first `num_examples` of its training images.

    Raises:
        ValueError: if it is unknown or not prepared, or has fewer examples.
    """
    dataset = datasets.load(config.dataset, data_dir)
    count = config.get("num_examples")
    if count is None:
        return dataset
    if not 1 <= count <= len(dataset.train_images):
        raise ValueError(
            f"`num_examples` must be between 1 and the "
            f"{len(dataset.train_images)} training examples of "
            f"{config.dataset}, got {count}."
        )
    return dataclasses.replace(
        dataset,
        train_images=dataset.train_images[:count],
        train_labels=dataset.train_labels[:count],
    )


def training_data(config, dataset, simulation, start_step=0):
    """Endless batches from a training step on, a `tf.data.Dataset`."""
    images, labels = dataset.train_images, dataset.train_labels
    standardize = _standardization(dataset)
    if config.optimizer == "ngd":
        # Every step takes the same batch.
        return datasets.full_batches(images, labels, standardize)
    return datasets.training_batches(
        images,
        labels,
        sub_batch_size=simulation.sub_batch_size,
        sub_batches_per_step=simulation.sub_batches_per_step,
        sub_batches_per_epoch=simulation.sub_batches_per_shuffled_epoch,
        sampling=config.sampling,
        seed=config.seed,
        start_step=start_step,
        augmentation=_augmentation(config),
        preprocess=standardize,
    )


def evaluation_data(dataset):
    """The test images once, in batches."""
    return datasets.evaluation_batches(
        dataset.test_images,
        dataset.test_labels,
        _EVALUATION_BATCH_SIZE,
        _standardization(dataset),
    )


def probe_data(dataset):
    """The training images once, one by one, as a probe takes them."""
    return datasets.single_examples(
        dataset.train_images, dataset.train_labels, _standardization(dataset)
    )


def _standardization(dataset):
    return datasets.standardization(
        dataset.mean, dataset.std, dataset.max_value
    )


def _augmentation(config):
    if not config.augmentation:
        return None
    # Mirrored, a digit is another one or none.
    flip = config.dataset in ("cifar10", "cifar100")
    return functools.partial(datasets.augment, flip=flip)
