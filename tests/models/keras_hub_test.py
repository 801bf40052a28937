"""KerasHub's models train on raw strings as they do unwrapped."""

import importlib.util

import keras
import numpy as np
import pytest

from keras_svag import SVAGModel
from tests.helpers.small_problems import largest_difference

HAS_HUB = importlib.util.find_spec("keras_hub") is not None
if HAS_HUB:
    import keras_hub as hub

# Each test, not the module: pytest calls a file without tests failed.
pytestmark = pytest.mark.skipif(not HAS_HUB, reason="keras_hub is missing")

WORDS = ["the", "quick", "brown", "fox", "lazy", "dog", "good", "bad"]
SIZES = {
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 16,
    "max_sequence_length": 6,
    "dropout": 0.0,
}


def classifier():
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    return hub.models.BertTextClassifier(
        hub.models.BertBackbone(vocabulary_size=len(vocabulary), **SIZES),
        num_classes=2,
        preprocessor=hub.models.BertTextClassifierPreprocessor(
            hub.models.BertTokenizer(vocabulary), sequence_length=6
        ),
        dropout=0.0,
    )


def causal_lm():
    tokens = ["<|endoftext|>", *"abcdefghiklnoqrtuwxyz", "Ġ", "th", "the"]
    return hub.models.GPT2CausalLM(
        hub.models.GPT2Backbone(vocabulary_size=len(tokens), **SIZES),
        preprocessor=hub.models.GPT2CausalLMPreprocessor(
            hub.models.GPT2Tokenizer(
                {token: index for index, token in enumerate(tokens)},
                merges=["t h", "th e"],
            ),
            sequence_length=6,
        ),
    )


def sentences(rows):
    """Sentences of one to three words, many of them padded."""
    rng = np.random.default_rng(0)
    return np.array(
        [" ".join(rng.choice(WORDS, 1 + row % 3)) for row in range(rows)]
    )


TEXT = sentences(20)
DATA = {classifier: (TEXT, np.arange(20) % 2), causal_lm: (TEXT,)}


def tuned(make_model, wrap, optimizer=None, lora=True):
    """A compiled model of which LoRA is trained, and what is beside it."""
    keras.utils.set_random_seed(0)
    model = make_model()
    for variable in model.trainable_variables:
        # At its own small initial weights a network is almost a constant.
        variable.assign(5 * variable)
    if lora:
        model.backbone.enable_lora(2)
    model = wrap(model)
    model.compile(
        optimizer or keras.optimizers.AdamW(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    return model


def plain(model):
    return model


@pytest.fixture(scope="module", params=[classifier, causal_lm])
def trained(request):
    """A model trained plain and wrapped, with the logs, and its data."""
    models, logs = [], []
    for wrap in (plain, lambda model: SVAGModel(model, per_layer=True)):
        model = tuned(request.param, wrap)
        # 16 rows and 4: batches of 5, 5, 5, and 1.
        history = model.fit(
            *DATA[request.param],
            batch_size=5,
            epochs=2,
            validation_split=0.2,
            verbose=0,
        )
        models.append(model)
        logs.append(history.history)
    return models, logs, DATA[request.param]


def test_trains_as_unwrapped(trained):
    models, (plain_logs, wrapped_logs), _ = trained
    assert largest_difference(*models) < 1e-5
    for key, values in plain_logs.items():
        np.testing.assert_allclose(wrapped_logs[key], values, rtol=1e-5)
    assert "val_loss" in plain_logs
    assert all(noise > 0 for noise in wrapped_logs["noise_trace"])


def test_noise_is_that_of_what_lora_trains(trained, request):
    (model, wrapped), _, _ = trained
    paths = [variable.path for variable in model.trainable_variables]
    assert sum("lora" in path for path in paths) == 4
    assert list(wrapped.gradient_noise.estimate().per_layer) == paths
    assert len(wrapped.optimizer.variables) == 2 * len(paths) + 2


def test_predicts_and_evaluates_raw_strings(trained):
    models, _, data = trained
    for model in models:
        model.reset_metrics()
    found, expected = (
        [
            model.evaluate(*data, batch_size=5, verbose=0),
            model.test_on_batch(list(data[0]), *data[1:]),
            model.predict(data[0], batch_size=5, verbose=0),
            model.predict_on_batch(list(data[0])),
        ]
        for model in models
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_saved_model_predicts_the_same(trained, tmp_path):
    (_, wrapped), _, data = trained
    wrapped.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(data[0], verbose=0),
        wrapped.predict(data[0], verbose=0),
        rtol=1e-4,
        atol=1e-5,
    )
