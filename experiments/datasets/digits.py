"""A TFDS builder for the optical digits that scikit-learn ships."""

import numpy as np
import tensorflow_datasets as tfds

NUM_TRAIN_EXAMPLES = 1437


class OpticalDigits(tfds.core.GeneratorBasedBuilder):
    """The 1,797 8×8 images of handwritten digits in scikit-learn.

    They are the test part of the UCI set "Optical Recognition of Handwritten
    Digits" (Alpaydin and Kaynak, 1998), with pixel values 0 … 16. Nothing is
    downloaded.

    The first 1,437 images are the training split, the last 360 the test
    split, with between 33 and 37 images of each digit. The cut is plain
    because the order of the images is not random: neighbours resemble each
    other (a nearest-neighbour classifier is right on 95.6% of the last 360,
    but on 98.8 ± 0.7% after a random split), so that a random or stratified
    split would flatter every model.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    name = "optical_digits"

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="8×8 images of handwritten digits, values 0 to 16.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(
                        shape=(8, 8, 1), dtype=np.uint8
                    ),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
            # Keeps example i of a split at position i in the files.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # The images are part of scikit-learn.
        return {
            "train": self._generate_examples(slice(None, NUM_TRAIN_EXAMPLES)),
            "test": self._generate_examples(slice(NUM_TRAIN_EXAMPLES, None)),
        }

    def _generate_examples(self, rows):
        # A run needs scikit-learn only where the digits are not prepared yet.
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = digits.images[rows].astype(np.uint8)[..., np.newaxis]
        for key, (image, label) in enumerate(
            zip(images, digits.target[rows], strict=True)
        ):
            yield key, {"image": image, "label": int(label)}
