"""Checks over several workers, every one of which runs them all."""

import glob
import os
import signal
import tempfile
import time
import zlib

import keras
import numpy as np
import tensorflow as tf

from experiments.run_folder import WorkDir
from experiments.strategies import LOST_WORKER, agree, begin_together
from keras_svag import GradientNoiseMonitor, ScalingRuleCheck, SVAGModel
from keras_svag.backend import is_chief
from tests.helpers.distribution.checks import (
    SUB_BATCH,
    Replicated,
    adam,
    fit,
    pairs,
    under,
)
from tests.helpers.small_problems import regression

LONGEST_WAIT = 60  # seconds, until a worker notices that another is gone


def assert_workers_agree(strategy, values):
    values = np.concatenate([np.ravel(v).astype("float64") for v in values])
    rows = strategy.gather(tf.constant(values)[None], axis=0).numpy()
    assert len(rows) == strategy.num_replicas_in_sync
    for row in rows:
        np.testing.assert_array_equal(row, values)


class Logs(keras.callbacks.Callback):
    """Keeps the last logs of a step and of an epoch."""

    def on_train_batch_end(self, batch, logs=None):
        self.of_step = dict(logs)

    def on_epoch_end(self, epoch, logs=None):
        self.of_epoch = dict(logs)


def check_workers_agree_and_logs_are_scalars(strategy):
    """All of them have one series, of an SVAGModel and beside a model."""
    for wrap in (SVAGModel, Replicated):
        logs, monitor = Logs(), GradientNoiseMonitor(every=1, per_layer=True)
        model = under(strategy, adam, wrap=wrap, metrics=["mae"])
        history = fit(
            model,
            *pairs(),
            2 * SUB_BATCH,
            epochs=2,
            validation_data=regression(31),
            callbacks=[monitor, logs],
        )
        assert {"loss", "mae", "val_loss", "val_mae"} <= set(history)
        assert {"noise_to_signal", "preconditioned_noise_to_signal"} <= set(
            history
        )
        series = monitor.series
        assert len(series) == (8 if wrap is SVAGModel else 7)
        columns = [series[name] for name in series.COLUMNS]
        layers = [series.layer(name) for name in series.layers]
        assert_workers_agree(
            strategy,
            [*history.values(), *model.get_weights(), *columns, *layers],
        )
        for values in (logs.of_step, logs.of_epoch):
            assert all(np.ndim(value) == 0 for value in values.values())
        assert set(logs.of_step) <= set(logs.of_epoch)


def check_chief_alone_writes(strategy):
    model = under(strategy)
    with tempfile.TemporaryDirectory() as folder:
        check = ScalingRuleCheck(log_dir=folder, verbose=0)
        callbacks = [check]
        if is_chief(strategy):
            callbacks += [
                keras.callbacks.CSVLogger(os.path.join(folder, "history.csv")),
                keras.callbacks.TensorBoard(folder, write_graph=False),
            ]
        fit(model, *pairs(), 2 * SUB_BATCH, epochs=2, callbacks=callbacks)
        model.evaluate(*pairs(), batch_size=2 * SUB_BATCH, verbose=0)
        if is_chief(strategy):
            model.save(os.path.join(folder, "model.keras"))
            assert len(os.listdir(folder)) > 3
        assert bool(os.listdir(folder)) == is_chief(strategy)
    assert check.report.verdict.batch_size == SUB_BATCH
    assert_workers_agree(strategy, [zlib.crc32(str(check.report).encode())])


def raised(action):
    try:
        action()
    except Exception as error:
        return str(error)
    raise AssertionError("nothing was raised")


def check_what_differs_is_named_on_all_workers(strategy):
    index = strategy.cluster_resolver.task_id
    facts = {"rate": 0.5 * index, "same": "x", "units": [8, 8 + index]}
    sentence = raised(lambda: agree(strategy, lambda: 0, lambda _: facts))
    assert "do not agree on rate, units; start" in sentence
    # No two numbers of facts may leave one waiting for the other.
    facts = {f"file {i}": "x" for i in range(1000 * index)}
    sentence = raised(lambda: agree(strategy, lambda: 0, lambda _: facts))
    assert "do not agree on their versions of the code; start" in sentence
    assert agree(strategy, lambda: 3, lambda _: {"same": "x"}) == 3


def check_a_worker_that_cannot_begin_leaves_none_waiting(strategy):
    index = strategy.cluster_resolver.task_id

    def action():
        if index == 1:
            raise OSError("no such data")

    sentence = raised(lambda: agree(strategy, action))
    assert sentence == (
        "no such data"
        if index
        else "Another worker could not begin, and says why in its own output."
    )


def check_folders_that_are_not_shared_are_noticed(strategy):
    with tempfile.TemporaryDirectory() as folder:
        workdir = WorkDir(folder, {})
        sentence = raised(lambda: begin_together(strategy, workdir))
        assert "agree on config.json in --workdir; start" in sentence, sentence


def check_a_checkpoint_that_one_worker_cannot_read_is_noticed(strategy):
    # Copies of one folder, as a synchronization makes them.
    with tempfile.TemporaryDirectory() as folder:
        workdir = WorkDir(folder, {})
        workdir.begin()
        for step in (10, 20):
            workdir.checkpoints.save(step, [], {})
        if not is_chief(strategy):
            [path] = glob.glob(f"{folder}/checkpoints/step-20.*")
            open(path, "wb").close()
        del workdir
        workdir = WorkDir(folder, {})
        sentence = raised(lambda: begin_together(strategy, workdir))
        assert "agree on the training step to go on from;" in sentence, sentence


class KillsAWorker(keras.callbacks.Callback):
    def __init__(self, kills_this_one):
        super().__init__()
        self.kills_this_one = kills_this_one

    def on_train_batch_end(self, batch, logs=None):
        self.last_step = time.monotonic()
        if self.kills_this_one and batch == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def last_worker_dies(strategy):
    """The others notice; nothing can be exchanged after this check."""
    last = strategy.num_replicas_in_sync - 1
    kills = KillsAWorker(strategy.cluster_resolver.task_id == last)
    model = under(strategy)
    try:
        fit(model, *pairs(), 2 * SUB_BATCH, epochs=10**6, callbacks=[kills])
    except Exception as error:
        assert isinstance(error, LOST_WORKER), error
        assert time.monotonic() - kills.last_step < LONGEST_WAIT
    else:
        raise AssertionError("training went on without a worker")
