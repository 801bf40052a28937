"""Trains a network by SVAG or another optimizer and measures its noise.

    python train.py --config=configs/digits.py --workdir=runs/digits

Every number of the configuration can be overridden, `--config.ell=8`. The
working directory gets config.json, history.csv, TensorBoard's events, the
trained model.keras and results.json. `--config.lsr.*` are the settings of the
check of the linear scaling rule, `--config.lsr.enabled=False` turns it off.
`--config.scale=0.1` scales depth, width, epochs and examples down.

    python train.py --workdir=runs/sweep --sweep ell=1,2,4 --sweep seed=0,1,2

runs every combination, a folder each, and skips what is finished.
"""

import dataclasses
import functools
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from absl import app, flags, logging
from ml_collections import config_flags

from keras_svag import datasets
from keras_svag.callbacks import StopAtNonFiniteLoss, TrainingClock
from keras_svag.configured_model import compile_model, make_simulation
from keras_svag.linear_scaling_check import LinearScalingRuleCheck
from keras_svag.recipes import scaled_down
from keras_svag.results import results_table
from keras_svag.strategies import STRATEGIES, make_strategy
from keras_svag.sweep_command import run_sweep
from keras_svag.workdir import WorkDir


def _in_one_sentence(parse, *args, **kwargs):
    try:
        return parse(*args, **kwargs)
    except (AttributeError, KeyError) as error:
        sys.exit(f"train.py: the configuration has no key {error}.")


# It is parsed where it is defined if the command line leaves out --config.
_CONFIG = _in_one_sentence(
    config_flags.DEFINE_config_file,
    "config",
    "configs/digits.py",
    "Configuration file.",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory that the run is written to.", required=True
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Directory of the prepared TensorFlow Datasets."
)
_STRATEGY = flags.DEFINE_enum(
    "strategy",
    "none",
    STRATEGIES,
    "mirrored: data-parallel over this machine's GPUs or virtual CPUs.",
)
_VIRTUAL_DEVICES = flags.DEFINE_integer(
    "virtual_devices", None, "Number of virtual CPUs to mirror over."
)
_SWEEP = flags.DEFINE_multi_string(
    "sweep", [], "key=value,value,…: runs the product of all that are given."
)
_JOBS = flags.DEFINE_integer("jobs", 1, "Runs of a sweep at the same time.")


def make_augmentation(config):
    if not config.augmentation:
        return None
    # Mirrored, a digit is another one or none.
    flip = config.dataset in ("cifar10", "cifar100")
    return functools.partial(datasets.augment, flip=flip)


def load_data(config, data_dir):
    """The data set, with the first `num_examples` of its training images."""
    dataset = datasets.load(config.dataset, data_dir)
    count = config.get("num_examples")
    if count is None:
        return dataset
    if not 1 <= count <= len(dataset.train_images):
        raise ValueError(
            f"`num_examples` must be between 1 and the "
            f"{len(dataset.train_images)} training examples of "
            f"{config.dataset}, got {count}."
        )
    return dataclasses.replace(
        dataset,
        train_images=dataset.train_images[:count],
        train_labels=dataset.train_labels[:count],
    )


def make_standardization(dataset):
    return datasets.standardization(
        dataset.mean, dataset.std, dataset.max_value
    )


def make_data(config, dataset, simulation):
    standardize = make_standardization(dataset)
    images, labels = dataset.train_images, dataset.train_labels
    if config.optimizer == "ngd":
        training = datasets.full_batches(images, labels, standardize)
    else:
        training = datasets.training_batches(
            images,
            labels,
            sub_batch_size=simulation.sub_batch_size,
            sub_batches_per_step=simulation.sub_batches_per_step,
            sub_batches_per_epoch=simulation.sub_batches_per_shuffled_epoch,
            sampling=config.sampling,
            seed=config.seed,
            augmentation=make_augmentation(config),
            preprocess=standardize,
        )
    evaluation = datasets.evaluation_batches(
        dataset.test_images, dataset.test_labels, 500, standardize
    )
    return training, evaluation


def make_check(config, dataset, training, workdir):
    """The check of the linear scaling rule, or None if nothing is measured."""
    if not (config.measure_noise and config.lsr.enabled):
        return None
    if config.optimizer == "ngd":
        # A full pass has no mini-batches to measure: a probe draws some.
        images = None
        probe = datasets.single_examples(
            dataset.train_images,
            dataset.train_labels,
            make_standardization(dataset),
        )
    else:
        images, _ = next(iter(training))
        probe = None
    return LinearScalingRuleCheck(
        config.batch_size,
        closeness=config.lsr.closeness,
        kappas=config.lsr.kappas,
        window=config.lsr.window,
        probe=probe,
        per_layer=config.lsr.per_layer and probe is not None,
        log_dir=workdir.path,
        scale_invariant=images,
        verbose=0,
    )


def train(config, workdir, data_dir, strategy):
    """Trains as `config` says; returns the results, a dict, or None."""
    dataset = load_data(config, data_dir)
    keras.utils.set_random_seed(config.seed)
    simulation = make_simulation(config, len(dataset.train_images))
    training, evaluation = make_data(config, dataset, simulation)
    with strategy.scope():
        model = compile_model(config, dataset, simulation)
    check = make_check(config, dataset, training, workdir)
    workdir.begin()
    stop_at_non_finite_loss = StopAtNonFiniteLoss()
    model.fit(
        training,
        epochs=config.epochs,
        steps_per_epoch=simulation.steps_per_epoch,
        validation_data=evaluation,
        validation_freq=config.validate_every,
        shuffle=False,
        verbose=1 if sys.stdout.isatty() else 2,
        callbacks=[
            TrainingClock(),
            stop_at_non_finite_loss,
            keras.callbacks.CSVLogger(workdir.file("history.csv")),
            keras.callbacks.TensorBoard(workdir.path, write_graph=False),
            *([check] if check else []),
        ],
    )
    if stop_at_non_finite_loss.step is not None:
        raise FloatingPointError(
            "The loss is not finite at training step "
            f"{stop_at_non_finite_loss.step}: training stopped, and "
            f"{workdir.path} keeps what was written; try a smaller "
            "--config.learning_rate."
        )
    results = model.evaluate(evaluation, verbose=0, return_dict=True)
    if config.measure_noise and config.optimizer != "ngd":
        results["gradient_noise"] = model.gradient_noise.estimate().to_dict()
    if check:
        results["linear_scaling"] = check.report.to_dict()
    getattr(model, "model", model).save(workdir.file("model.keras"))
    workdir.results = results
    return results


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}.")
    logging.set_verbosity(logging.ERROR)
    config = _CONFIG.value
    try:
        if _SWEEP.value:
            sys.exit(
                run_sweep(
                    _SWEEP.value, config, _WORKDIR.value, sys.argv, _JOBS.value
                )
            )
        if _JOBS.value != 1:
            raise ValueError(
                f"--jobs={_JOBS.value} needs a --sweep, whose runs it counts."
            )
        config = scaled_down(config)
        workdir = WorkDir(_WORKDIR.value, config.to_dict())
        results = workdir.results
        if results is not None:
            print(f"The run in {workdir.path} is finished already.")
        else:
            strategy = make_strategy(_STRATEGY.value, _VIRTUAL_DEVICES.value)
            results = train(config, workdir, _DATA_DIR.value, strategy)
    except (ValueError, TypeError, FloatingPointError) as error:
        sys.exit(f"train.py: {error}")
    print(f"\n{results_table(results)}")
    print(f"\ntensorboard --logdir={workdir.path}")


def parse_flags(argv):
    return _in_one_sentence(app.parse_flags_with_usage, argv)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
