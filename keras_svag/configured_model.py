"""The model of a run, from the run's configuration."""

import inspect

import keras

from keras_svag.applications import VGG, PreResNet, ResNet, ScaleInvariantMLP
from keras_svag.configuration import check_complete, check_values
from keras_svag.models.ngd_model import NGDModel
from keras_svag.models.svag_model import SVAGModel
from keras_svag.models.wrapper import ModelWrapper
from keras_svag.optimizers.schedules import learning_rate_schedule
from keras_svag.optimizers.svag import SVAG
from keras_svag.simulation import Simulation
from keras_svag.step_grouping import steps_per_call

NETWORKS = {
    "scale_invariant_mlp": ScaleInvariantMLP,
    "pre_resnet": PreResNet,
    "resnet": ResNet,
    "vgg": VGG,
}


def make_simulation(config, num_examples):
    """How the training that the configuration asks for simulates SGD.

    Raises:
        ValueError: if `batch_size`, `ell` or `pairing` do not fit, or
            `optimizer` is "ngd" with what noisy gradient descent lacks.
    """
    check_complete(config)
    check_values(config)
    _check_ngd(config)
    is_svag = config.optimizer == "svag"
    if config.ell != 1 and not is_svag:
        raise ValueError(
            f"`ell` must be 1 with optimizer={config.optimizer!r}, got "
            f"{config.ell}: only 'svag' amplifies noise."
        )
    pairing = config.pairing if is_svag else None
    if config.optimizer == "ngd":
        # A full pass for each step that SGD takes: nothing is halved.
        pairing = "independent"
    return Simulation(
        num_examples=num_examples,
        batch_size=config.batch_size,
        ell=config.ell,
        pairing=pairing,
        pairs_within_step=config.measure_noise or config.optimizer == "ngd",
    )


def compile_model(config, dataset, simulation, most_steps_per_call=None):
    """The model that trains as the configuration says, compiled.

    Args:
        config: a `ConfigDict`.
        dataset: the `Dataset` that it is to learn.
        simulation: the `Simulation` of its training.
        most_steps_per_call: training steps that one call may take, or None.

    Returns:
        A `keras.Model`: an `SVAGModel`, an `NGDModel` or a plain one, which
        is wrapped to train alike where several replicas share a batch.

    Raises:
        ValueError: if a key of the configuration is out of its range.
    """
    network = model = _make_network(config, dataset, simulation)
    rows = simulation.sub_batch_size * simulation.sub_batches_per_step
    if config.optimizer == "ngd":
        rows = simulation.num_examples
        model = NGDModel(
            model,
            config.batch_size,
            config.get("micro_batch_size", 500),
            seed=config.seed,
        )
        _check_replicas(
            simulation.num_examples,
            model.distribute_strategy.num_replicas_in_sync,
        )
    elif config.measure_noise:
        model = SVAGModel(
            model,
            num_examples=simulation.num_examples,
            sampling=config.sampling,
            per_layer=config.lsr.per_layer,
        )
    elif model.distribute_strategy.num_replicas_in_sync > 1:
        model = ModelWrapper(model)
    model.compile(
        optimizer=_make_optimizer(config, simulation.sgd_steps_per_epoch),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    # Not an argument of `compile`, which is saved with the model.
    model.steps_per_execution = steps_per_call(
        network, rows, simulation.steps_per_epoch, most_steps_per_call
    )
    return model


def _make_network(config, dataset, simulation):
    options = {k: v for k, v in config.model.items() if v is not None}
    name = options.pop("name")
    if name not in NETWORKS:
        raise ValueError(
            f"`model.name` must be one of {', '.join(NETWORKS)}, got {name!r}."
        )
    if "momentum" in options:
        options["momentum"] = simulation.running_average_momentum(
            options["momentum"]
        )
    known = set(inspect.signature(NETWORKS[name]).parameters)
    known -= {"input_shape", "num_classes", "seed"}
    for option in options:
        if option not in known:
            raise ValueError(
                f"`model.{option}` is no option of {name!r}, got "
                f"{options[option]!r}; its options are "
                f"{', '.join(sorted(known))}."
            )
    return NETWORKS[name](
        input_shape=dataset.train_images.shape[1:],
        num_classes=dataset.num_classes,
        seed=config.seed,
        **options,
    )


def _make_optimizer(config, steps_per_epoch):
    learning_rate = learning_rate_schedule(
        config.schedule,
        config.learning_rate,
        steps_per_epoch,
        config.epochs,
        config.milestones,
        config.decay_factor,
        config.get("warmup_epochs", 0),
        config.get("warmup_factor", 0.1),
    )
    common = {
        "learning_rate": learning_rate,
        "weight_decay": config.weight_decay,
    }
    if config.optimizer in ("svag", "ngd") and config.momentum:
        raise ValueError(
            f"`momentum` must be 0 with optimizer={config.optimizer!r}, got "
            f"{config.momentum}: it is compared with plain SGD."
        )
    if config.optimizer == "ngd":
        return keras.optimizers.SGD(**common)
    if config.optimizer == "svag":
        return SVAG(ell=config.ell, pairing=config.pairing, **common)
    if config.momentum:
        common["momentum"] = config.momentum
    try:
        return keras.optimizers.get(
            {"class_name": config.optimizer, "config": common}
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`optimizer` must be 'svag' or 'ngd' or the name of a Keras "
            f"optimizer, such as 'sgd' or 'adam', got {config.optimizer!r} "
            f"with {common}."
        ) from error


def _check_ngd(config):
    if config.optimizer != "ngd":
        return
    if config.augmentation:
        raise ValueError(
            "`augmentation` must be False with optimizer='ngd', whose every "
            f"step takes the same full batch, got {config.augmentation}."
        )


def _check_replicas(num_examples, replicas):
    if num_examples % replicas:
        raise ValueError(
            f"`num_examples` must be a multiple of the {replicas} replicas "
            f"with optimizer='ngd', got {num_examples}; try "
            f"--config.num_examples={num_examples // replicas * replicas}."
        )
