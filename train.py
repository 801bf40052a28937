"""Trains a network by SVAG or another optimizer and measures its noise.

    python train.py --config=configs/digits.py --workdir=runs/digits

Every number of the configuration can be overridden, `--config.ell=8`. The
working directory gets config.json, history.csv, TensorBoard's events, the
trained model.keras and results.json. `--config.lsr.*` are the settings of the
check of the linear scaling rule, `--config.lsr.enabled=False` turns it off.
"""

import functools
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
from absl import app, flags, logging
from ml_collections import config_flags

from keras_svag import SVAG, SVAGModel, applications, datasets
from keras_svag.callbacks import StopAtNonFiniteLoss, TrainingClock
from keras_svag.linear_scaling_check import LinearScalingRuleCheck
from keras_svag.results import results_table
from keras_svag.schedules import learning_rate_schedule
from keras_svag.simulation import Simulation
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
    ["none", "mirrored"],
    "mirrored: data-parallel over this machine's GPUs or virtual CPUs.",
)
_VIRTUAL_DEVICES = flags.DEFINE_integer(
    "virtual_devices", None, "Number of virtual CPUs to mirror over."
)

NETWORKS = {
    "scale_invariant_mlp": applications.ScaleInvariantMLP,
    "pre_resnet": applications.PreResNet,
    "resnet": applications.ResNet,
    "vgg": applications.VGG,
}


def make_strategy(name, virtual_devices):
    if virtual_devices is not None:
        if name != "mirrored" or virtual_devices < 1:
            raise ValueError(
                "--virtual_devices must be at least 1 and needs "
                f"--strategy=mirrored, got {virtual_devices} with "
                f"--strategy={name}."
            )
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * virtual_devices,
        )
    if name == "none":
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy(
        virtual_devices and [f"CPU:{i}" for i in range(virtual_devices)]
    )


def make_simulation(config, num_examples):
    is_svag = config.optimizer == "svag"
    if config.ell != 1 and not is_svag:
        raise ValueError(
            f"`ell` must be 1 with optimizer={config.optimizer!r}, got "
            f"{config.ell}: only 'svag' amplifies noise."
        )
    return Simulation(
        num_examples=num_examples,
        batch_size=config.batch_size,
        ell=config.ell,
        pairing=config.pairing if is_svag else None,
        pairs_within_step=config.measure_noise,
    )


def make_optimizer(config, steps_per_epoch):
    learning_rate = learning_rate_schedule(
        config.schedule,
        config.learning_rate,
        steps_per_epoch,
        config.epochs,
        config.milestones,
        config.decay_factor,
    )
    common = {
        "learning_rate": learning_rate,
        "weight_decay": config.weight_decay,
    }
    if config.optimizer == "svag":
        if config.momentum:
            raise ValueError(
                "`momentum` must be 0 with optimizer='svag', got "
                f"{config.momentum}: SVAG simulates plain SGD."
            )
        return SVAG(ell=config.ell, pairing=config.pairing, **common)
    if config.momentum:
        common["momentum"] = config.momentum
    try:
        return keras.optimizers.get(
            {"class_name": config.optimizer, "config": common}
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`optimizer` must be 'svag' or the name of a Keras optimizer, such "
            f"as 'sgd' or 'adam', got {config.optimizer!r} with {common}."
        ) from error


def make_network(config, dataset, simulation):
    options = config.model.to_dict()
    name = options.pop("name")
    if name not in NETWORKS:
        raise ValueError(
            f"`model.name` must be one of {', '.join(NETWORKS)}, got {name!r}."
        )
    if "momentum" in options:
        options["momentum"] = simulation.running_average_momentum(
            options["momentum"]
        )
    return NETWORKS[name](
        input_shape=dataset.train_images.shape[1:],
        num_classes=dataset.num_classes,
        seed=config.seed,
        **options,
    )


def compile_model(config, dataset, simulation):
    model = make_network(config, dataset, simulation)
    if config.measure_noise:
        model = SVAGModel(
            model,
            num_examples=simulation.num_examples,
            sampling=config.sampling,
            per_layer=config.lsr.per_layer,
        )
    model.compile(
        optimizer=make_optimizer(config, simulation.sgd_steps_per_epoch),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def make_augmentation(config):
    if not config.augmentation:
        return None
    # Mirrored, a digit is another one or none.
    flip = config.dataset in ("cifar10", "cifar100")
    return functools.partial(datasets.augment, flip=flip)


def make_data(config, dataset, simulation):
    standardize = datasets.standardization(
        dataset.mean, dataset.std, dataset.max_value
    )
    training = datasets.training_batches(
        dataset.train_images,
        dataset.train_labels,
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


def make_check(config, training, workdir):
    """The check of the linear scaling rule, or None if nothing is measured."""
    if not (config.measure_noise and config.lsr.enabled):
        return None
    images, _ = next(iter(training))
    return LinearScalingRuleCheck(
        config.batch_size,
        closeness=config.lsr.closeness,
        kappas=config.lsr.kappas,
        window=config.lsr.window,
        log_dir=workdir.path,
        scale_invariant=images,
        verbose=0,
    )


def train(config, workdir, data_dir, strategy):
    """Trains as `config` says; returns the results, a dict, or None."""
    dataset = datasets.load(config.dataset, data_dir)
    keras.utils.set_random_seed(config.seed)
    simulation = make_simulation(config, len(dataset.train_images))
    training, evaluation = make_data(config, dataset, simulation)
    with strategy.scope():
        model = compile_model(config, dataset, simulation)
    check = make_check(config, training, workdir)
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
    if config.measure_noise:
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
