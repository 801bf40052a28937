import functools
import json
import os
import re
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from experiments.checkpoint import (
    Checkpoint,
    CheckpointFolder,
    training_arrays,
)
from experiments.epoch_plan import EpochPlan
from experiments.fit import (
    CheckpointInterval,
    FitPlan,
    TrainingInterrupted,
    resumable_fit,
)
from experiments.process.logs import (
    HistoryFile,
    StopAtNonFiniteLoss,
    TrainingClock,
)
from keras_svag import SVAG, GradientNoiseMonitor, SVAGModel
from tests.helpers import kill_harness
from tests.helpers.processes import Program

pytestmark = pytest.mark.slow

STEPS, EPOCHS = 5, 3
PLANS = [EpochPlan(STEPS * 8, 8, pairing=None)] * EPOCHS
# SVAG without a monitor, SVAG with one, SGD with one.
KINDS = ("plain", "pairs", "beside")


class Killed(Exception):
    pass


class Recorder(keras.callbacks.Callback):
    """Notes what it is told, and runs `action` after a step, or after each."""

    def __init__(self, action=None, after=None):
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
        if self._after == "each":
            self._action(step)
        elif self._after == step:
            self._action()


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


def fit(folder, kind="plain", every="2", recorder=None, **kwargs):
    model = make_model(kind)
    monitor = GradientNoiseMonitor(1, num_examples=None, per_layer=True)
    os.makedirs(folder, exist_ok=True)
    checkpoints = CheckpointFolder(os.path.join(folder, "checkpoints"))
    kwargs = {"verbose": 0, **kwargs}
    resumable_fit(
        model,
        batches,
        batches(100).take(2),
        FitPlan(EPOCHS, PLANS, CheckpointInterval.parse(every)),
        checkpoints,
        checkpoints.newest(),
        [
            TrainingClock(),
            StopAtNonFiniteLoss(),
            *([] if kind == "plain" else [monitor]),
            HistoryFile(os.path.join(folder, "history.csv")),
            recorder or Recorder(),
        ],
        **kwargs,
    )
    with open(os.path.join(folder, "noise.json"), "w") as file:
        json.dump(monitor.estimate().to_dict(), file)
    return model


def end_state(model, folder):
    texts = []
    for name in ("history.csv", "noise.json"):
        with open(os.path.join(folder, name)) as file:
            texts.append(file.read())
    return training_arrays(model), texts


def assert_same(ours, theirs):
    for one, other in zip(ours[0], theirs[0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert ours[1] == theirs[1]


@pytest.fixture(scope="module")
def peace(tmp_path_factory):
    return tmp_path_factory.mktemp("peace")


@pytest.fixture(scope="module")
def in_peace(peace):
    states = {}
    for kind in KINDS:
        folder = str(peace / kind)
        keep = functools.partial(keep_as_killed, folder)
        recorder = Recorder(keep, "each")
        model = fit(folder, kind, recorder=recorder)
        states[kind] = end_state(model, folder), recorder.calls
    return states


def keep_as_killed(folder, step):
    shutil.copytree(folder, f"{folder}-{step}")


@pytest.fixture
def killed(in_peace, peace, tmp_path):
    """The folder of a training that was killed after so many steps."""

    def killed(step, kind="plain"):
        shutil.copytree(peace / f"{kind}-{step}", tmp_path / "killed")
        return str(tmp_path / "killed")

    return killed


def kill():
    raise Killed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("killed_after", "repeated_from"),
    [(1, 0), (4, 2), (7, 6), (11, 10), (14, 12)],
)
def test_a_killed_training_goes_on_to_the_bit(
    killed, in_peace, kind, killed_after, repeated_from
):
    folder = killed(killed_after, kind)
    # The checkpoint is written when the callbacks have seen the step.
    found = CheckpointFolder(f"{folder}/checkpoints").newest()
    assert (found.step if found else 0) == repeated_from
    after = Recorder()
    model = fit(folder, kind, recorder=after)
    expected, calls = in_peace[kind]
    assert_same(end_state(model, folder), expected)
    epoch, batch = divmod(repeated_from, STEPS)
    first = calls.index((epoch, batch))
    if batch:
        assert after.calls == ["begin", ("epoch", epoch), *calls[first:]]
    else:
        assert after.calls == ["begin", *calls[first - 1 :]]


def test_twice_killed_in_one_epoch(killed, in_peace):
    folder = killed(3)
    with pytest.raises(Killed):
        fit(folder, recorder=Recorder(kill, 5))
    assert_same(end_state(fit(folder), folder), in_peace["plain"][0])


def test_a_checkpoint_every_so_many_seconds(tmp_path, in_peace):
    folder = str(tmp_path)
    with pytest.raises(Killed):
        fit(folder, every="0.000001s", recorder=Recorder(kill, 8))
    # In the middle of a pair.
    assert CheckpointFolder(f"{folder}/checkpoints").newest().step == 7
    with pytest.raises(Killed):
        fit(folder, every="1000s", recorder=Recorder(kill, 10))
    assert CheckpointFolder(f"{folder}/checkpoints").newest().step == 7
    assert_same(end_state(fit(folder), folder), in_peace["plain"][0])


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGUSR1, 143)]
)
def test_a_signal_saves_the_step_that_it_came_in(
    tmp_path, in_peace, number, code
):
    folder = str(tmp_path)
    recorder = Recorder(lambda: os.kill(os.getpid(), number), 3)
    handler = signal.getsignal(number)
    with pytest.raises(TrainingInterrupted) as error:
        fit(folder, every="1000", recorder=recorder)
    assert error.value.exit_code == code
    assert signal.getsignal(number) is handler
    assert CheckpointFolder(f"{folder}/checkpoints").newest().step == 3
    assert_same(end_state(fit(folder), folder), in_peace["plain"][0])


def test_a_signal_in_the_last_step_lets_training_end(tmp_path, in_peace):
    recorder = Recorder(lambda: signal.raise_signal(15), STEPS * EPOCHS)
    model = fit(str(tmp_path), recorder=recorder)
    assert_same(end_state(model, str(tmp_path)), in_peace["plain"][0])


def test_a_damaged_checkpoint_repeats_more(killed, tmp_path, in_peace):
    folder = killed(9)
    (tmp_path / "killed/checkpoints/step-8.run.npz").write_bytes(b"PK")
    with pytest.warns(UserWarning, match="step-8.run.npz' is damaged"):
        model = fit(folder)
    assert_same(end_state(model, folder), in_peace["plain"][0])


def test_a_checkpoint_beyond_the_end_is_refused(tmp_path):
    model = make_model()
    plan = FitPlan(EPOCHS, PLANS, CheckpointInterval(2))
    beyond = Checkpoint(EPOCHS * STEPS + 1, [], {}, {}, "step-16.npz")
    with pytest.raises(ValueError, match="step-16.npz lies .* has 15 training"):
        resumable_fit(model, batches, None, plan, None, beyond, [])


def test_a_training_that_stopped_itself_is_not_continued(killed):
    folder = killed(8)
    recorder = Recorder()
    recorder._after = 9
    recorder._action = lambda: setattr(recorder.model, "stop_training", True)
    fit(folder, recorder=recorder)
    assert recorder.calls[-2:] == [(1, 3), "end"]


def test_only_one_worker_writes(tmp_path, capsys):
    fit(str(tmp_path), writes=False)
    assert not (tmp_path / "checkpoints").exists()
    assert capsys.readouterr().out == ""


def test_a_log_has_a_line_an_epoch(killed, capsys):
    fit(killed(8), verbose=2)
    number = r"\d\.?\d*(e-\d+)? +"
    for epoch, line in enumerate(capsys.readouterr().out.splitlines(), 2):
        assert re.fullmatch(
            rf"epoch {epoch}/3  loss {number}\d\d:\d\d left", line
        ), line
    assert epoch == 3


def test_a_terminal_has_one_bar_over_all_epochs(killed, capsys):
    fit(killed(8), verbose=1)
    *drawn, last = capsys.readouterr().out.split("\r")
    assert "\n" not in "".join(drawn)
    # It begins where the training goes on, of which no time is known yet.
    assert re.fullmatch(r"epoch 2/3 .* \? left", drawn[1])
    assert re.fullmatch(r"epoch 3/3  loss .*  in \d\d:\d\d *\n", last)


def test_what_is_said_of_an_interruption_comes_below_the_bar(killed, capsys):
    recorder = Recorder(lambda: signal.raise_signal(signal.SIGINT), 9)
    with pytest.raises(TrainingInterrupted):
        fit(killed(8), recorder=recorder, verbose=1)
    assert re.search(r" left *\n$", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("500", CheckpointInterval(steps=500)),
        ("60s", CheckpointInterval(seconds=60)),
        (" 0.5s ", CheckpointInterval(seconds=0.5)),
    ],
)
def test_intervals_are_read(text, interval):
    assert CheckpointInterval.parse(text) == interval


@pytest.mark.parametrize(
    "text", ["", "0", "0s", "-5", "1.5", "60 s", "1m", "nan", "infs", "s"]
)
def test_no_interval_is_refused(text):
    with pytest.raises(ValueError, match="`checkpoint_every` must be") as error:
        CheckpointInterval.parse(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize("kind", kill_harness.KINDS)
def test_a_run_of_the_script_outlives_kills(kind):
    output, errors = Program(
        "tests.helpers.kill_harness",
        f"--kind={kind}",
        "--kills=3",
        "--epochs=4",
        "--longest=2",
    ).communicate()
    assert output.endswith("3 kills, differing: nothing\n"), (
        output + errors[-2000:]
    )
