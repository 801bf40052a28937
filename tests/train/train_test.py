import csv
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

import train
from configs import digits
from experiments.run_folder import WorkDir
from tests.helpers.paths import ROOT
from tests.helpers.processes import Program, own_lines

pytestmark = pytest.mark.slow


def small_config(**overrides):
    config = digits.get_config()
    config.epochs = 1
    config.batch_size = 128
    config.learning_rate = 0.5
    config.model.hidden_units = (8,)
    config.lsr.enabled = False
    config.update(overrides)
    return config


def run(tmp_path, name="run", **overrides):
    config = small_config(**overrides)
    workdir = WorkDir(str(tmp_path / name), config.to_dict())
    results = train.train(config, workdir, None, tf.distribute.get_strategy())
    return workdir, results


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run that several tests look at."""
    workdirs = {}

    def trained(**overrides):
        key = tuple(sorted(overrides.items()))
        if key not in workdirs:
            path = tmp_path_factory.mktemp("trained")
            workdirs[key], _ = run(path, **overrides)
        return workdirs[key]

    return trained


def weights(workdir):
    model = keras.saving.load_model(workdir.file("model.keras"))
    return np.concatenate([v.numpy().ravel() for v in model.weights])


def history(workdir):
    with open(workdir.file("history.csv"), newline="") as file:
        return list(csv.DictReader(file))


def command(*arguments):
    program = Program("train.py", *arguments)
    output, errors = program.communicate()
    return program.returncode, output, errors


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = str(tmp_path_factory.mktemp("runs") / "digits")
    arguments = [
        f"--workdir={workdir}",
        "--config.epochs=2",
        "--config.batch_size=128",
        "--config.learning_rate=0.5",
        "--config.model.hidden_units=(8,)",
    ]
    environment = dict(os.environ)
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    process = subprocess.run(
        [sys.executable, "train.py", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return workdir, arguments, process


def test_a_run_leaves_its_configuration_history_and_model(finished):
    workdir, _, process = finished
    assert process.returncode == 0, process.stderr
    with open(os.path.join(workdir, "config.json")) as file:
        assert json.load(file)["model"]["hidden_units"] == [8]
    with open(os.path.join(workdir, "history.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert {
        "grad_sq_norm",
        "noise_trace",
        "noise_to_signal",
        "noise_scale",
        "weight_sq_norm",
        "learning_rate",
        "effective_step",
        "continuous_time",
    } <= set(rows[0])
    assert not any(key.startswith("val_noise") for key in rows[0])
    # 1,437 // 128 = 11 steps of SGD, at learning rate 0.5.
    assert [float(row["effective_step"]) for row in rows] == [11, 22]
    assert float(rows[1]["continuous_time"]) == pytest.approx(22 * 0.5)
    model = keras.saving.load_model(os.path.join(workdir, "model.keras"))
    assert model.output_shape == (None, 10)


def test_a_run_writes_nothing_to_stderr(finished):
    assert own_lines(finished[2].stderr) == ""


def test_a_log_has_a_line_an_epoch(finished):
    workdir, _, process = finished
    with open(os.path.join(workdir, "history.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    lines = process.stdout.splitlines()
    for epoch, (row, line) in enumerate(zip(rows, lines, strict=False), 1):
        assert line.startswith(f"epoch {epoch}/2  loss ") and len(line) <= 80
        for name, key, form in (
            ("loss", "loss", ".3g"),
            ("accuracy", "accuracy", ".1%"),
            ("test", "val_accuracy", ".1%"),
            ("N/G", "noise_to_signal", ".3g"),
        ):
            assert f"  {name} {float(row[key]):{form}} " in line
    assert lines[2] == ""


def test_a_run_ends_with_its_table(finished):
    workdir, _, process = finished
    with open(os.path.join(workdir, "results.json")) as file:
        results = json.load(file)
    noise = results["gradient_noise"]
    assert f"{results['accuracy']:.2%}" in process.stdout
    [ratio] = [
        line.split()
        for line in process.stdout.splitlines()
        if line.startswith("N/G") and "±" in line
    ]
    # To the error's two digits.
    assert float(ratio[1]) == pytest.approx(
        noise["noise_to_signal"], abs=0.05 * float(ratio[3])
    )
    assert noise == results["linear_scaling"]["gradient_noise"]
    assert "Tr Σ at batch size 128" in process.stdout
    assert f"tensorboard --logdir={workdir}" in process.stdout


def test_tensorboard_gets_the_logs_of_training(finished):
    workdir, _, _ = finished
    events = event_accumulator.EventAccumulator(os.path.join(workdir, "train"))
    events.Reload()
    assert {
        "epoch_noise_to_signal",
        "epoch_learning_rate",
        "epoch_effective_step",
        "epoch_continuous_time",
    } <= set(events.Tags()["tensors"])


def test_a_finished_run_says_so(finished):
    _, arguments, _ = finished
    code, output, _ = command(*arguments)
    assert code == 0
    assert "is finished already" in output
    assert "N/G" in output


def test_mirrored_run_is_that_of_one_device(finished, tmp_path):
    workdir, arguments, _ = finished
    code, _, errors = command(
        *arguments,
        f"--workdir={tmp_path}",
        "--strategy=mirrored",
        "--virtual_devices=2",
    )
    assert code == 0, errors
    one, two = (
        keras.saving.load_model(os.path.join(directory, "model.keras"))
        for directory in (workdir, str(tmp_path))
    )
    for a, b in zip(one.weights, two.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5)


@pytest.mark.parametrize("sampling", ["with_replacement", "shuffle"])
@pytest.mark.parametrize("pairing", ["independent", "halves"])
def test_plain_model_trains_as_the_measured_one(
    trained, tmp_path, sampling, pairing
):
    common = {"sampling": sampling, "pairing": pairing, "ell": 2}
    measured = trained(**common)
    plain, _ = run(tmp_path, "plain", measure_noise=False, **common)
    np.testing.assert_allclose(weights(plain), weights(measured), atol=1e-6)
    for key in ("effective_step", "continuous_time"):
        assert history(plain)[0][key] == history(measured)[0][key]
    assert "noise_trace" not in history(plain)[0]


def test_non_finite_loss_stops_and_keeps_what_was_written(tmp_path):
    with pytest.raises(FloatingPointError, match="by training step [1-9]"):
        run(tmp_path, learning_rate=1e30, weight_decay=1.0)
    written = set(os.listdir(tmp_path / "run"))
    assert {"config.json", "history.csv"} < written
    assert "results.json" not in written
