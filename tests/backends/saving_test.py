"""A model that TensorFlow has saved in the middle of training, on any backend.

`helpers/saved_on_tensorflow.keras` is an `SVAGModel` of two dense layers, 4
inputs, with `SVAGAdam(0.01, ell=2, weight_decay=0.01)` after two epochs of
`regression(32)` in batches of 8; the numbers are what TensorFlow went on to.
"""

import keras
import numpy as np
import pytest

import keras_svag
from tests.helpers.paths import ROOT
from tests.helpers.small_problems import regression

SAVED = [[-0.14153391, 0.14553817], [-0.31499502, 0.7856968]]
TRAINED_ON = [[-0.1111363, 0.17101137], [-0.28285494, 0.81041276]]


def test_a_file_of_tensorflow_is_loaded_and_trained_on(tmp_path):
    path = ROOT / "tests" / "helpers" / "saved_on_tensorflow.keras"
    model = keras.models.load_model(path)
    x, y = regression(32)
    assert isinstance(model, keras_svag.SVAGModel)
    assert model.optimizer.ell == 2
    assert model.predict(x[:2], verbose=0) == pytest.approx(
        np.array(SAVED), abs=1e-5
    )
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    expected = pytest.approx(np.array(TRAINED_ON), abs=1e-5)
    assert model.predict(x[:2], verbose=0) == expected
    assert float(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 12
    # And what this backend saves is loaded again.
    model.save(tmp_path / "again.keras")
    again = keras.models.load_model(tmp_path / "again.keras")
    assert again.predict(x[:2], verbose=0) == expected
