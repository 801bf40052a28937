import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from experiments.datasets.loading import load


def prepare(
    data_dir, name="mnist", shape=(28, 28, 1), train=3, version="3.0.2"
):
    """Prepares a small set of random images in TFDS's own format."""
    rng = np.random.default_rng(7)
    image = tfds.features.Image(shape=shape, encoding_format="png")
    label = tfds.features.ClassLabel(num_classes=10)
    arrays, examples = {}, {}
    for split, size in (("train", train), ("test", 2)):
        images = rng.integers(0, 256, (size, *shape), dtype=np.uint8)
        arrays[split] = images, rng.integers(0, 10, size)
        examples[split] = [
            (i, {"image": image, "label": label})
            for i, (image, label) in enumerate(zip(*arrays[split], strict=True))
        ]
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version=version,
        features=tfds.features.FeaturesDict({"image": image, "label": label}),
        split_datasets=examples,
        data_dir=str(data_dir),
        # More than one file a split, as large sets have.
        download_config=tfds.download.DownloadConfig(num_shards=2),
        disable_shuffling=True,
    )
    return arrays


def test_digits_hold_scikit_learns_images_and_their_moments():
    dataset = load("digits")
    source = load_digits()
    train = source.images[:1437] / 16
    images = [dataset.train_images, dataset.test_images]
    labels = [dataset.train_labels, dataset.test_labels]
    np.testing.assert_array_equal(np.concatenate(images)[..., 0], source.images)
    np.testing.assert_array_equal(np.concatenate(labels), source.target)
    assert dataset.train_images.shape == (1437, 8, 8, 1)
    assert (images[0].dtype, labels[0].dtype) == (np.uint8, np.int32)
    assert (dataset.kind.max_value, dataset.kind.num_classes) == (16, 10)
    np.testing.assert_allclose(dataset.mean, [train.mean()], rtol=1e-12)
    np.testing.assert_allclose(dataset.std, [train.std()], rtol=1e-12)


# Those of the whole set, as most code has them.
CIFAR10 = [(0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)]


@pytest.mark.parametrize(
    "name, shape, num_classes, moments",
    [
        ("cifar10", (32, 32, 3), 10, CIFAR10),
        ("cifar100", (32, 32, 3), 100, None),
        ("mnist", (28, 28, 1), 10, None),
    ],
)
def test_prepared_sets_are_read_in_order(
    tmp_path, name, shape, num_classes, moments
):
    arrays = prepare(tmp_path, name, shape, train=40)
    dataset = load(name, data_dir=tmp_path)
    found = {
        "train": (dataset.train_images, dataset.train_labels),
        "test": (dataset.test_images, dataset.test_labels),
    }
    np.testing.assert_equal(found, arrays)
    assert dataset.kind.num_classes == num_classes
    assert dataset.kind.max_value == 255
    pixels = arrays["train"][0].reshape(-1, shape[-1]) / 255
    moments = moments or [pixels.mean(0), pixels.std(0)]
    found = [dataset.mean, dataset.std]
    np.testing.assert_allclose(found, moments, rtol=1e-12)


def test_the_newest_version_in_the_default_directory_is_read(
    tmp_path, monkeypatch
):
    for version, size in (("3.0.9", 3), ("3.0.10", 5)):
        prepare(tmp_path, train=size, version=version)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert len(load("mnist").train_images) == 5


def test_a_set_that_is_not_prepared_is_refused_with_the_command(tmp_path):
    command = f"{tmp_path}/cifar10.*tfds build cifar10 --data_dir={tmp_path}"
    with pytest.raises(ValueError, match=command):
        load("cifar10", data_dir=tmp_path)


def test_a_damaged_set_is_refused_and_kept(tmp_path):
    prepare(tmp_path)
    for pattern, content in (("mnist-test*", b""), ("dataset_info*", b"{")):
        for file in tmp_path.glob(f"mnist/*/{pattern}"):
            file.write_bytes(content)
        with pytest.raises(ValueError, match=f"{tmp_path}.* prepare it again"):
            load("mnist", data_dir=tmp_path)
        assert file.read_bytes() == content
