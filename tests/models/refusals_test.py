"""What SVAG and SVAGModel refuse, in one sentence each."""

import keras
import pytest

from keras_svag import SVAG, SVAGModel
from tests.helpers import public_models
from tests.helpers.pairs import fit, svag_model
from tests.helpers.refusals import check_sentence
from tests.helpers.small_problems import dense_network, regression

X, Y = regression(16)


def test_another_optimizer_is_refused_and_the_callback_named():
    adam = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())
    with pytest.raises(ValueError) as error:
        svag_model(dense_network(), adam)
    check_sentence(
        str(error.value),
        "`optimizer` must be SVAG, SVAGAdam or SVAGRMSprop",
        "keras_svag.GradientNoiseMonitor",
    )


def own_train_step():
    return public_models.own_train_step().model


def another_svag_model():
    return SVAGModel(dense_network())


@pytest.mark.parametrize("make", [own_train_step, another_svag_model])
def test_a_train_step_of_the_models_own_is_refused(make):
    model = make()
    with pytest.raises(ValueError) as error:
        SVAGModel(model)
    check_sentence(
        str(error.value),
        f"got {type(model).__name__}",
        "`train_step`",
        "compile the model itself with keras_svag.SVAG",
    )


def test_an_optimizer_trains_one_model_in_one_way():
    plain = dense_network()
    plain.compile(SVAG(0.1, ell=3), "mse")
    plain.optimizer.build(plain.trainable_variables)
    sentence = "give each model its own SVAG"
    for refused_call in (
        lambda: SVAGModel(plain),
        lambda: svag_model(dense_network(), plain.optimizer),
    ):
        with pytest.raises(ValueError, match=sentence) as error:
            refused_call()
        check_sentence(str(error.value), "already trains a plain model")
    wrapped = svag_model(dense_network(), SVAG(0.1, ell=3))
    fit(wrapped, X, Y)
    with pytest.raises(ValueError, match=f"belongs to an SVAG.*{sentence}"):
        fit(wrapped.model, X, Y)
