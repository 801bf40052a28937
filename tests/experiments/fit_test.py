import json
import math
import os
import re
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from experiments.checkpoint import CheckpointFolder, training_arrays
from experiments.epoch_plan import EpochPlan
from experiments.fit import (
    TrainingInterrupted,
    checkpoint_interval,
    resumable_fit,
)
from experiments.process.logs import HistoryFile, TrainingClock
from keras_svag import SVAG, GradientNoiseMonitor, SVAGModel
from tests.helpers import kill_harness

pytestmark = pytest.mark.slow

STEPS, EPOCHS = 5, 3
PLANS = [EpochPlan(STEPS * 8, 8, pairing=None)] * EPOCHS
# SVAG without a monitor, SVAG with one, SGD with one.
KINDS = ("plain", "pairs", "beside")


class Killed(Exception):
    pass


def kill(*_):
    raise Killed


class Recorder(keras.callbacks.Callback):
    """Notes what it is told; calls `action(step, model)` after some steps."""

    def __init__(self, action=None, after=()):
        super().__init__()
        self.calls = []
        self._action, self._after = action, after

    def on_train_begin(self, logs=None):
        self.calls.append("begin")

    def on_train_end(self, logs=None):
        self.calls.append("end")

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        self.calls.append(("epoch", epoch))

    def on_train_batch_begin(self, batch, logs=None):
        self.calls.append((self._epoch, batch))

    def on_train_batch_end(self, batch, logs=None):
        step = self._epoch * STEPS + batch + 1
        if step in self._after:
            self._action(step, self.model)


def batches(epoch, done=0):
    def batch(index):
        seed = tf.stack([index, 1])
        x = tf.random.stateless_normal([8, 4], seed)
        y = tf.random.stateless_normal([8, 2], seed + 7)
        return x, tf.ensure_shape(y, [8, 2])

    first = epoch * STEPS + done
    return tf.data.Dataset.range(first, 1000).map(batch)


def make_model(kind="plain"):
    # Estimates have the names of layers.
    keras.utils.clear_session()
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, activation="tanh"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(2),
        ]
    )
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 20)
    optimizer = SVAG(schedule, ell=2)
    if kind == "pairs":
        # What halves assume of the loss is looked at.
        optimizer = SVAG(schedule, ell=2, pairing="halves")
        model = SVAGModel(model)
    elif kind == "beside":
        optimizer = keras.optimizers.SGD(0.1)
    model.compile(optimizer, "mse", metrics=["mae"])
    return model


def fit(folder, kind="plain", every="2", recorder=None, verbose=0):
    """Trains in a folder; returns all that it ends with."""
    model = make_model(kind)
    monitor = GradientNoiseMonitor(1, num_examples=None, per_layer=True)
    os.makedirs(folder, exist_ok=True)
    checkpoints = CheckpointFolder(f"{folder}/checkpoints")
    history = HistoryFile(f"{folder}/history.csv")
    callbacks = [TrainingClock(), monitor, history, recorder or Recorder()]
    if kind == "plain":
        callbacks.remove(monitor)
    resumable_fit(
        model,
        batches,
        PLANS,
        callbacks,
        checkpoints,
        checkpoints.newest(),
        epochs=EPOCHS,
        interval=checkpoint_interval(every),
        validation_data=batches(100).take(2),
        verbose=verbose,
    )
    with open(f"{folder}/history.csv") as file:
        history = file.read()
    noise = json.dumps(monitor.estimate().to_dict())
    return {"arrays": training_arrays(model), "files": [history, noise]}


def newest_step(folder):
    found = CheckpointFolder(f"{folder}/checkpoints").newest()
    return found.step if found else 0


@pytest.fixture(scope="module")
def in_peace(tmp_path_factory):
    """`{kind: (end, calls)}`, and where copies are of the folder."""
    root, ends = tmp_path_factory.mktemp("peace"), {}
    for kind in KINDS:
        folder = f"{root}/{kind}"

        def copy(step, _, folder=folder):
            shutil.copytree(folder, f"{folder}-{step}")

        recorder = Recorder(copy, range(1, STEPS * EPOCHS + 1))
        ends[kind] = fit(folder, kind, recorder=recorder), recorder.calls
    return ends, root


@pytest.fixture
def killed(in_peace, tmp_path):
    """The folder of a training that was killed after so many steps."""

    def killed(step, kind="plain"):
        folder = tmp_path / "killed"
        return str(shutil.copytree(in_peace[1] / f"{kind}-{step}", folder))

    return killed


@pytest.fixture
def check_end(in_peace):
    def check(end, kind="plain"):
        np.testing.assert_equal(end, in_peace[0][kind][0])

    return check


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("killed_after", "repeated_from"),
    [(1, 0), (4, 2), (7, 6), (11, 10), (14, 12)],
)
def test_a_killed_training_goes_on_to_the_bit(
    killed, in_peace, check_end, kind, killed_after, repeated_from
):
    folder = killed(killed_after, kind)
    # The checkpoint is written when the callbacks have seen the step.
    assert newest_step(folder) == repeated_from
    after = Recorder()
    check_end(fit(folder, kind, recorder=after), kind)
    _, calls = in_peace[0][kind]
    epoch, batch = divmod(repeated_from, STEPS)
    rest = calls[calls.index((epoch, batch)) :]
    assert after.calls == ["begin", ("epoch", epoch), *rest]


def test_a_checkpoint_every_so_many_seconds(tmp_path, check_end):
    for every, step in (("0.000001s", 8), ("1000s", 10)):
        with pytest.raises(Killed):
            fit(tmp_path, every=every, recorder=Recorder(kill, [step]))
        # In the middle of a pair.
        assert newest_step(tmp_path) == 7
    check_end(fit(tmp_path))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGUSR1, 143)]
)
def test_a_signal_saves_the_step_that_it_came_in(
    tmp_path, check_end, capsys, number, code
):
    recorder = Recorder(lambda *_: signal.raise_signal(number), [3])
    handler = signal.getsignal(number)
    with pytest.raises(TrainingInterrupted) as error:
        fit(tmp_path, every="1000", recorder=recorder, verbose=1)
    assert error.value.exit_code == code
    assert signal.getsignal(number) is handler
    assert newest_step(tmp_path) == 3
    # What is said of it comes below the bar.
    assert re.search(r" left *\n$", capsys.readouterr().out)
    check_end(fit(tmp_path))


def test_a_signal_in_the_last_step_lets_training_end(tmp_path, check_end):
    recorder = Recorder(lambda *_: signal.raise_signal(15), [STEPS * EPOCHS])
    check_end(fit(tmp_path, recorder=recorder))


def test_a_training_that_stopped_itself_is_not_continued(killed):
    def stop(_, model):
        model.stop_training = True

    recorder = Recorder(stop, [9])
    fit(killed(8), recorder=recorder)
    assert recorder.calls[-2:] == [(1, 3), "end"]


def test_a_terminal_has_one_bar_over_all_epochs(killed, capsys):
    fit(killed(8), verbose=1)
    *drawn, last = capsys.readouterr().out.split("\r")
    assert "\n" not in "".join(drawn)
    # It begins where the training goes on, of which no time is known yet.
    assert re.fullmatch(r"epoch 2/3 .* \? left", drawn[1])
    assert re.fullmatch(r"epoch 3/3  loss .*  in \d\d:\d\d *\n", last)


def test_intervals_are_read():
    # Two training steps take as long as one of SGD.
    assert checkpoint_interval("500", 2) == (1000, math.inf)
    assert checkpoint_interval(" 0.5s ", 2) == (math.inf, 0.5)
    for text in ("", "0", "0s", "-5", "1.5", "60 s", "1m", "nan", "s"):
        with pytest.raises(ValueError, match=f"`checkpoint_every` .*{text!r}"):
            checkpoint_interval(text)


@pytest.mark.parametrize("kind", kill_harness.KINDS)
def test_a_run_of_the_script_outlives_kills(tmp_path, kind):
    assert not kill_harness.run_with_kills(
        kind, tmp_path, kills=3, epochs=8, longest=1
    )
