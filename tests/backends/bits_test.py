"""Law 1 on every backend: with the monitor a model trains as without it."""

import keras
import numpy as np
import pytest

import keras_svag
from tests.helpers import public_models as models
from tests.helpers.bits import assert_same_bits, bits_of, without_noise

pytestmark = pytest.mark.slow
BACKEND = keras.backend.backend()
MODELS = [
    models.perceptron,
    models.convolutions,
    models.frozen_batch_normalization,
    models.augmented_images,
    models.half_precision,
    models.layers_with_state,
    models.coupled_examples,
    models.summed_add_loss,
    models.dice_loss,
    models.named_targets,
    models.target_that_is_none,
    models.masked_lstm,
    models.class_weights,
    models.sample_weights,
    models.embeddings,
    models.own_computations,
    models.averaged_and_decayed,
    models.accumulated_and_clipped,
]
if BACKEND != "jax":  # There Keras fails of a metric in a layer.
    MODELS.append(models.loss_of_a_layer)
WAYS = {
    "one by one": {},
    "eager": {"run_eagerly": True},
    "four steps at once": {"steps_per_execution": 4},
}
# Keras refuses several steps at once on PyTorch.
FITS = [(make_script, "one by one") for make_script in MODELS] + [
    (models.convolutions, way)
    for way in list(WAYS)[1:]
    if (BACKEND, way) != ("torch", "four steps at once")
]


def trained(make_script, way, monitors):
    """All that training leaves behind."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    script = make_script(**WAYS[way])
    history = script.model.fit(
        script.x,
        script.y,
        batch_size=models.BATCH_SIZE,
        sample_weight=script.sample_weight,
        callbacks=monitors(script),
        verbose=0,
        **{"epochs": 2, **script.fit},
    ).history
    return {"logs": without_noise(history), **bits_of(script.model)}


@pytest.mark.parametrize(
    ("make_script", "way"),
    FITS,
    ids=lambda value: getattr(value, "__name__", value),
)
def test_model_trains_as_without_monitors(make_script, way):
    seen = []

    def monitors(script):
        seen.append(keras_svag.GradientNoiseMonitor(2, **script.monitor))
        check = keras_svag.ScalingRuleCheck(every=3, verbose=0)
        return [seen[-1], check]

    theirs = trained(make_script, way, lambda _: [])
    ours = trained(make_script, way, monitors)
    assert len(seen[0].series) > 0
    assert_same_bits(ours, theirs)


@pytest.mark.parametrize("fails_at", [1, 4])
def test_nothing_is_left_after_an_interruption(fails_at):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == fails_at:
                raise KeyboardInterrupt

    script = models.convolutions()
    monitor = keras_svag.GradientNoiseMonitor(every=1)
    for callbacks in ([monitor, Stop()], []):
        with pytest.raises(KeyboardInterrupt) if callbacks else _nothing():
            script.model.fit(
                script.x, script.y, 8, verbose=0, callbacks=callbacks
            )
    seen = len(monitor.series)
    script.model.fit(script.x, script.y, verbose=0)
    assert len(monitor.series) == seen


def _nothing():
    return np.errstate()
