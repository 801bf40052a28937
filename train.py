"""Trains a network by SVAG or another optimizer and measures its noise.

    python train.py --config=configs/digits.py --workdir=runs/digits

Every number of the configuration can be overridden, `--config.ell=8`. The
working directory gets config.json, history.csv, TensorBoard's events, the
trained model.keras and results.json. `--config.lsr.*` are the settings of the
check of the scaling rule, `--config.lsr.enabled=False` turns it off.
`--config.scale=0.1` scales depth, width, epochs and examples down.

    python train.py --workdir=runs/sweep --sweep ell=1,2,4 --sweep seed=0,1,2

runs every combination, a folder each, and skips what is finished.
"""

import math
import os
import sys

from experiments.process.interruption import end_on_signals
from experiments.process.streams import check_arguments, protect_streams

if __name__ == "__main__":
    # Before the imports that take seconds.
    protect_streams()
    end_on_signals()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
from absl import app, flags, logging
from ml_collections import config_flags

from experiments import build, fit, strategies
from experiments.config import flat, load_config, scaled_down
from experiments.datasets import evaluation_batches
from experiments.growth import growing_batches, is_growing
from experiments.process import fingerprint, logs
from experiments.run_folder import WorkDir, results_table
from experiments.sweep.command import run_sweep
from keras_svag import backend
from keras_svag.arguments import printable, wrong


def _said(sentence):
    # Names and values in it are those of files, too.
    return f"train.py: {printable(sentence)}"


def _in_one_sentence(parse, *args):
    try:
        return parse(*args)
    except (AttributeError, KeyError) as error:
        # ml_collections puts one into the other, and what may be meant below.
        while isinstance(error.args[0], Exception):
            error = error.args[0]
        key = ". ".join(error.args[0].splitlines())
        sys.exit(_said(f"the configuration has no key {key}"))
    except flags.IllegalFlagValueError as error:
        sys.exit(_said(error))


_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file.")
# A file that fails is refused as other flags are.
flags.FLAGS["config"].parser.parse = load_config
# It is parsed here if the command line leaves out --config.
_in_one_sentence(flags.set_default, _CONFIG, "configs/digits.py")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory that the run is written to.", required=True
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Directory of the prepared TensorFlow Datasets."
)
_STRATEGY = flags.DEFINE_enum(
    "strategy",
    "none",
    strategies.STRATEGIES,
    "mirrored: data-parallel over this machine's GPUs or virtual CPUs; "
    "multi_worker: over several machines, see docs/distributed.md.",
)
_VIRTUAL_DEVICES = flags.DEFINE_integer(
    "virtual_devices", None, "Number of virtual CPUs to mirror over."
)
_CHECKPOINT_EVERY = flags.DEFINE_string(
    "checkpoint_every",
    "500",
    "SGD steps from one checkpoint to the next, or seconds, as in 60s.",
)
_DETERMINISTIC = flags.DEFINE_bool(
    "deterministic",
    False,
    "Use only operations that give the same bits on every run.",
)
_SWEEP = flags.DEFINE_multi_string(
    "sweep", [], "key=value,value,…: runs the product of all that are given."
)
_SHARD = flags.DEFINE_string(
    "shard",
    None,
    "i/n, counted from 1: the part of a sweep's runs that this process takes; "
    "in a Slurm array, the task's.",
)
_JOBS = flags.DEFINE_integer("jobs", 1, "Runs of a sweep at the same time.")
_ALONE = flags.DEFINE_bool(
    "alone", False, "Trains one run, whatever --sweep says, as a sweep does."
)


def train(config, workdir, data_dir, strategy, checkpoint_every="500"):
    """Trains as `config` says, from the last checkpoint in `workdir` on.

    It returns the results, a dict. A loss that is not finite raises a
    `FloatingPointError`; a signal a `TrainingInterrupted`, its state is saved.
    """
    keras.utils.set_random_seed(config.seed)
    dataset, plan, interval = strategies.agree(
        strategy,
        lambda: _prepare(config, data_dir, strategy, checkpoint_every),
        lambda prepared: {
            **{f"--config.{k}": v for k, v in flat(config.to_dict()).items()},
            "--checkpoint_every": checkpoint_every,
            "--deterministic": backend.is_deterministic(),
            **fingerprint.data(prepared[0]),
            **fingerprint.code(),
        },
    )
    evaluation = evaluation_batches(dataset)
    with strategy.scope():
        model = build.compile_model(config, dataset, plan)
    batches = build.training_data(config, dataset, plan)
    monitor = build.make_monitor(config, dataset, plan, batches, workdir.path)
    growing = growing_batches(config, plan, model.optimizer, monitor)
    plans = growing.plans if growing else [plan] * config.epochs
    writes = backend.is_chief(strategy)
    found = strategies.begin_together(strategy, workdir)
    if found and growing:
        growing.go_on(found, model.optimizer)
    # The last write what the others add to the logs.
    callbacks = [
        writes and workdir.check_at_epochs(),
        writes and fingerprint.Surroundings(),
        logs.TrainingClock(),
        logs.StopAtNonFiniteLoss(),
        monitor,
        growing,
        writes and logs.HistoryFile(workdir.file("history.csv")),
        writes and keras.callbacks.TensorBoard(workdir.path, write_graph=False),
    ]
    fit.resumable_fit(
        model,
        lambda epoch, done: build.training_data(
            config, dataset, plans[epoch], epoch, done
        ),
        plans,
        [callback for callback in callbacks if callback],
        workdir.checkpoints if writes else None,
        found,
        epochs=config.epochs,
        interval=interval,
        verbose=(1 if sys.stdout.isatty() else 2) if writes else 0,
        validation_data=evaluation,
        validation_freq=config.validate_every,
    )
    if model.stop_training:
        raise FloatingPointError(
            "The loss is not finite by training step "
            f"{int(model.optimizer.iterations)}: training stopped, and "
            f"{workdir.path} keeps what was written; try a smaller "
            "--config.learning_rate."
        )
    results = model.evaluate(evaluation, verbose=0, return_dict=True)
    if monitor:
        results |= _measured(monitor)
    if growing:
        results["batch_size"] = plans[-1].batch_size
    if writes:
        workdir.finish(getattr(model, "model", model), results)
    return results


def _prepare(config, data_dir, strategy, checkpoint_every):
    dataset = build.load_data(config, data_dir)
    plan = build.make_plan(config, len(dataset.train_images))
    interval = fit.checkpoint_interval(
        checkpoint_every, plan.steps_per_sgd_step
    )
    if backend.has_several_workers(strategy):
        if interval[1] < math.inf:
            wanted = "a number of SGD steps with --strategy=multi_worker, "
            wanted += "whose workers save together"
            raise wrong("checkpoint_every", wanted, checkpoint_every)
        if is_growing(config):
            wanted = "'none' with --strategy=multi_worker, whose workers would "
            wanted += "have to decide alike at the same moment"
            raise wrong("growth", wanted, config.growth)
    return dataset, plan, interval


def _measured(monitor):
    """The noise of a run's last epochs, and the verdict if there is one."""
    report = getattr(monitor, "report", None)
    if report is None:
        return {"gradient_noise": monitor.estimate().to_dict()}
    # The report's own noise may be that in the norm of the optimizer.
    epochs = report.last_epoch - report.first_epoch + 1
    noise = monitor.series.window(epochs).estimate(monitor.batch_size)
    return {
        "gradient_noise": noise.to_dict(),
        "linear_scaling": report.to_dict(),
    }


def run_alone(config):
    """Trains one configuration, and says what has come out."""
    config = scaled_down(config)
    if _DETERMINISTIC.value:
        tf.config.experimental.enable_op_determinism()
    strategy = strategies.make_strategy(_STRATEGY.value, _VIRTUAL_DEVICES.value)
    workdir = strategies.agree(
        strategy,
        lambda: WorkDir(_WORKDIR.value, config.to_dict()),
        lambda workdir: {"whether it is finished": workdir.results is not None},
    )
    results = workdir.results
    if results is not None:
        print(f"The run in {workdir.path} is finished already.")
    else:
        every = _CHECKPOINT_EVERY.value
        results = train(config, workdir, _DATA_DIR.value, strategy, every)
        if not backend.is_chief(strategy):
            return
    print(f"\n{results_table(results)}")
    print(f"\ntensorboard --logdir={workdir.path}")


def _run():
    """Runs what the flags ask for; returns the exit code."""
    check_arguments(sys.argv)
    config, folder = _CONFIG.value, _WORKDIR.value
    jobs, shard = _JOBS.value, _SHARD.value
    if _SWEEP.value and not _ALONE.value:
        return run_sweep(_SWEEP.value, config, folder, sys.argv, jobs, shard)
    for flag in (_JOBS, _SHARD):
        if flag.present and not _ALONE.value:
            raise ValueError(
                f"--{flag.name}={flag.value} needs a --sweep, for whose "
                "runs it is."
            )
    run_alone(config)
    return 0


def main(argv):
    if len(argv) > 1:
        return _ended(f"Unknown arguments: {argv[1:]}.")
    logging.set_verbosity(logging.ERROR)
    try:
        return _run()
    except fit.TrainingInterrupted as interruption:
        sentence = f"{interruption}: the same command goes on from here."
        return _ended(sentence, interruption.exit_code)
    except (ValueError, TypeError, FloatingPointError) as error:
        return _ended(error)
    except OSError as error:
        return _ended(
            f"A file cannot be read or written ({error}): the same command "
            "goes on from the last checkpoint."
        )
    except tf.errors.UnimplementedError as error:
        if not _DETERMINISTIC.value:
            raise
        return _ended(f"--deterministic cannot be kept: {error.message}.")
    except strategies.LOST_WORKER:
        if _STRATEGY.value != "multi_worker":
            raise
        _ended(
            "Another worker is gone: start all of them again with the same "
            "command, which goes on from the last checkpoint."
        )
        # TensorFlow would wait for the other worker on its way out.
        os._exit(os.EX_TEMPFAIL)


def _ended(sentence, code=1):
    print(_said(sentence), file=sys.stderr, flush=True)
    return code


def parse_flags(argv):
    return _in_one_sentence(app.parse_flags_with_usage, argv)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
