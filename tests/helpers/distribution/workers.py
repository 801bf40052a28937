"""Checks over several workers, every one of which runs them all."""

import glob
import os
import re
import signal
import tempfile
import time
import zlib

import keras
import numpy as np
import pytest
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


def check_workers_agree_and_logs_are_scalars(strategy, wrap=SVAGModel):
    """All of them have one series and one history."""
    of_step, of_epoch = {}, {}
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: of_step.update(logs),
        on_epoch_end=lambda epoch, logs: of_epoch.update(logs),
    )
    monitor = GradientNoiseMonitor(every=1, per_layer=True)
    model = under(strategy, adam, wrap=wrap, metrics=["mae"])
    way = {"validation_data": regression(31), "callbacks": [monitor, look]}
    history = fit(model, *pairs(), 2 * SUB_BATCH, epochs=2, **way)
    keys = {"loss", "mae", "val_loss", "val_mae"}
    keys |= {"noise_to_signal", "preconditioned_noise_to_signal"}
    assert keys <= set(history)
    series = monitor.series
    assert len(series) == (8 if wrap is SVAGModel else 7)
    observed = [series[name] for name in series.COLUMNS]
    observed += [series.layer(name) for name in series.layers]
    seen = *history.values(), *model.get_weights(), *observed
    assert_workers_agree(strategy, seen)
    assert not any(map(np.ndim, [*of_step.values(), *of_epoch.values()]))
    assert set(of_step) <= set(of_epoch)


def check_workers_agree_beside_a_plain_model(strategy):
    check_workers_agree_and_logs_are_scalars(strategy, Replicated)


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


def check_what_differs_is_named_on_all_workers(strategy):
    index = strategy.cluster_resolver.task_id
    facts = {"rate": 0.5 * index, "same": "x", "units": [8, 8 + index]}
    with pytest.raises(Exception, match="do not agree on rate, units; start"):
        agree(strategy, lambda: 0, lambda _: facts)
    # No two numbers of facts may leave one waiting for the other.
    facts = {f"file {i}": "x" for i in range(1000 * index)}
    sentence = "do not agree on their versions of the code; start"
    with pytest.raises(Exception, match=sentence):
        agree(strategy, lambda: 0, lambda _: facts)
    assert agree(strategy, lambda: 3, lambda _: {"same": "x"}) == 3


def check_a_worker_that_cannot_begin_leaves_none_waiting(strategy):
    index = strategy.cluster_resolver.task_id

    def action():
        if index == 1:
            raise OSError("no such data")

    other = "Another worker could not begin, and says why in its own output."
    sentence = f"^{'no such data' if index else re.escape(other)}$"
    with pytest.raises(Exception, match=sentence):
        agree(strategy, action)


def check_folders_that_are_not_shared_are_noticed(strategy):
    with tempfile.TemporaryDirectory() as folder:
        workdir = WorkDir(folder, {})
        sentence = "agree on config.json in --workdir; start"
        with pytest.raises(Exception, match=sentence):
            begin_together(strategy, workdir)


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
        sentence = "agree on the training step to go on from;"
        with pytest.raises(Exception, match=sentence):
            begin_together(strategy, workdir)


def last_worker_dies(strategy):
    """The others notice; nothing can be exchanged after this check."""
    last, model = strategy.num_replicas_in_sync - 1, under(strategy)
    ends = []

    def end_step(batch, logs):
        ends.append(time.monotonic())
        if batch == 3 and strategy.cluster_resolver.task_id == last:
            os.kill(os.getpid(), signal.SIGKILL)

    kills = keras.callbacks.LambdaCallback(on_train_batch_end=end_step)
    with pytest.raises(LOST_WORKER):
        fit(model, *pairs(), 2 * SUB_BATCH, epochs=10**6, callbacks=[kills])
    assert time.monotonic() - ends[-1] < LONGEST_WAIT
