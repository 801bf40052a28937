"""Whole training scripts run with SVAGModel as they do without."""

import csv
import pathlib
import re
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag import SVAGModel
from tests.clients import images, loops, series, tables, text
from tests.clients.script import Trained
from tests.helpers.noise_keys import NOISE, noise_keys

SCRIPTS = [
    script
    for module in (text, series, images, tables, loops)
    for script in module.SCRIPTS
]


def as_it_is(model):
    return model


class Runs(NamedTuple):
    script: Callable
    plain: Trained
    wrapped: Trained
    plain_folder: pathlib.Path
    wrapped_folder: pathlib.Path


@pytest.fixture(scope="module", params=SCRIPTS, ids=lambda s: s.__name__)
def runs(request, tmp_path_factory):
    """What a script trains, unwrapped and wrapped, and its two folders."""
    script = request.param
    folders = [tmp_path_factory.mktemp(script.__name__) for _ in range(2)]
    plain = script(as_it_is, folders[0])
    wrapped = script(SVAGModel, folders[1])
    yield Runs(script, plain, wrapped, *folders)
    keras.backend.clear_session()


def keys_of(runs):
    return noise_keys(runs.wrapped.model.optimizer)


def assert_logs_close(ours, theirs):
    for key, values in theirs.items():
        np.testing.assert_allclose(
            ours[key], values, rtol=1e-4, atol=1e-5, err_msg=key
        )


def test_weights_are_those_of_the_unwrapped_model(runs):
    assert isinstance(runs.wrapped.model, SVAGModel)
    for ours, theirs in zip(
        runs.wrapped.model.weights,
        runs.plain.model.weights,
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_history_is_the_same_with_the_noise_added(runs):
    ours, theirs = runs.wrapped.history, runs.plain.history
    assert set(ours) == set(theirs) | keys_of(runs)
    assert_logs_close(ours, theirs)


def test_noise_is_measured(runs):
    history = runs.wrapped.history
    for key in keys_of(runs):
        assert len(history[key]) == len(history["loss"])
    for key in ("noise_trace", "weight_sq_norm"):
        assert 0 < history[key][-1] < np.inf


def test_one_row_says_nothing_of_noise(tmp_path):
    history = loops.loop_of_ones_own(SVAGModel, tmp_path).history
    alone = np.equal(loops.SIZES, 1)
    assert alone.any()
    for key in NOISE - {"weight_sq_norm"}:
        np.testing.assert_array_equal(np.isnan(history[key]), alone)


def test_model_evaluates_as_unwrapped(runs):
    ours, theirs = (
        run.model.evaluate(**run.data, return_dict=True, verbose=0)
        for run in (runs.wrapped, runs.plain)
    )
    assert set(ours) == set(theirs)
    assert_logs_close(ours, theirs)


def test_model_predicts_as_unwrapped(runs):
    ours, theirs = (
        keras.tree.flatten(run.model.predict(run.data["x"], verbose=0))
        for run in (runs.wrapped, runs.plain)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


def parameters(model):
    lines = []
    model.summary(print_fn=lines.append, line_length=120)
    return re.findall(r"rainable params: [\d,]+", "\n".join(lines))


def test_summary_counts_the_same_parameters(runs):
    theirs = parameters(runs.plain.model)
    assert len(theirs) == 2
    assert parameters(runs.wrapped.model) == theirs


def test_saved_models_load_wrapped_and_unwrapped(runs, tmp_path):
    wrapped = runs.wrapped.model
    for model in (wrapped, wrapped.model):
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert type(loaded) is type(model)
        for ours, theirs in zip(loaded.weights, model.weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        if model is wrapped:
            assert loaded.optimizer.iterations == model.optimizer.iterations


def names_of_files(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    # An events file is named after the time and the process.
    return sorted(
        re.sub(r"events\.out\..*", "events", str(path.relative_to(folder)))
        for path in files
    )


def test_files_are_those_of_the_unwrapped_script(runs):
    ours, theirs = runs.wrapped_folder, runs.plain_folder
    assert names_of_files(ours) == names_of_files(theirs)
    for path in theirs.rglob("*.csv"):
        wrapped, plain = (
            list(csv.DictReader((folder / path.name).open()))
            for folder in (ours, theirs)
        )
        assert set(wrapped[0]) == set(plain[0]) | keys_of(runs)
        for row, expected in zip(wrapped, plain, strict=True):
            for key, value in expected.items():
                assert float(row[key]) == pytest.approx(float(value), rel=1e-4)


def scalars(folder):
    """The tags of TensorBoard's scalars."""
    return {
        value.tag
        for file in folder.rglob("events*")
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    }


def test_tensorboard_shows_the_noise(runs):
    theirs = scalars(runs.plain_folder)
    if theirs:
        noise = {f"epoch_{key}" for key in keys_of(runs)}
        assert scalars(runs.wrapped_folder) == theirs | noise


def test_half_precision_errs_as_unwrapped(tmp_path):
    exact = images.half_precision(as_it_is, tmp_path, "float32")
    weights = {
        wrap: images.half_precision(wrap, tmp_path).model.get_weights()
        for wrap in (as_it_is, SVAGModel)
    }
    errors = {
        wrap: np.sqrt(
            sum(
                np.sum((ours - theirs) ** 2)
                for ours, theirs in zip(
                    values, exact.model.get_weights(), strict=True
                )
            )
        )
        for wrap, values in weights.items()
    }
    assert 0 < errors[SVAGModel] < 1.5 * errors[as_it_is]


def test_batch_normalization_warns_and_trains(tmp_path):
    script = images.convnet_with_batch_normalization
    with pytest.warns(UserWarning, match="normalizes the halves .* apart"):
        history = script(SVAGModel, tmp_path).history
    assert set(history) == {"loss", "accuracy"} | NOISE
    assert history["loss"][-1] < history["loss"][0]
