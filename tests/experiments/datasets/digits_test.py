import numpy as np
import pytest
from sklearn.datasets import load_digits

from experiments.datasets.digits import OpticalDigits


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    builder = OpticalDigits(data_dir=str(tmp_path_factory.mktemp("data")))
    builder.download_and_prepare()
    return builder


@pytest.mark.parametrize(
    "split, rows", [("train", slice(0, 1437)), ("test", slice(1437, 1797))]
)
def test_a_split_is_a_run_of_scikit_learns_images_in_order(
    builder, split, rows
):
    examples = list(builder.as_dataset(split=split).as_numpy_iterator())
    images = np.stack([example["image"] for example in examples])
    labels = np.stack([example["label"] for example in examples])
    digits = load_digits()

    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images[..., 0], digits.images[rows])
    np.testing.assert_array_equal(labels, digits.target[rows])


def test_builder_states_shape_and_classes(builder):
    features = builder.info.features
    assert builder.name == "optical_digits"
    assert features["image"].shape == (8, 8, 1)
    assert features["label"].num_classes == 10
