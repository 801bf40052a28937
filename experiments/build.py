"""The data, the model and the monitor of a run, from its configuration."""

import dataclasses
import math

import keras

from experiments import datasets
from experiments.config import NETWORKS
from experiments.epoch_plan import EpochPlan
from experiments.growth import is_growing
from experiments.ngd_model import NGDModel, ProbedNoise
from experiments.optimizers import SVAG_OPTIMIZERS, is_svag, make_optimizer
from keras_svag import arguments, backend
from keras_svag.arguments import wrong
from keras_svag.callbacks.check import ScalingRuleCheck
from keras_svag.callbacks.monitor import GradientNoiseMonitor
from keras_svag.models.svag_model import SVAGModel

# Checkpoints hold all of them.
_MOST_OBSERVATIONS = 50_000
# A call from Python costs about as much as this many multiply-adds of a small
# network, so more of them in a call are worth no more.
_MULTIPLY_ADDS_PER_CALL = 2e8
_MOST_STEPS_PER_CALL = 128


def load_data(config, data_dir):
    """The data set, with the first `num_examples` of its training images."""
    dataset = datasets.load(config.dataset, data_dir)
    count = arguments.integer(
        "num_examples",
        config.num_examples,
        most=len(dataset.train_images),
        optional=True,
        remedy="the training set has no more",
    )
    return dataclasses.replace(
        dataset,
        train_images=dataset.train_images[:count],
        train_labels=dataset.train_labels[:count],
    )


def make_plan(config, num_examples):
    """The `EpochPlan` of the training that the configuration asks for."""
    with_ell, is_ngd = is_svag(config.optimizer), config.optimizer == "ngd"
    if config.ell != 1 and not with_ell:
        wanted = f"1 with optimizer={config.optimizer!r}"
        remedy = f"only {', '.join(map(repr, SVAG_OPTIMIZERS))} amplify noise"
        raise wrong("ell", wanted, config.ell, remedy)
    if config.augmentation and is_ngd:
        wanted = "False with optimizer='ngd'"
        remedy = "its every step takes the same batch"
        raise wrong("augmentation", wanted, True, remedy)
    arguments.integer(
        "max_batch_size",
        config.max_batch_size,
        most=num_examples,
        optional=True,
        remedy="the training set has no more examples",
    )
    pairing = config.pairing if with_ell else None
    return EpochPlan(
        num_examples=num_examples,
        batch_size=config.batch_size,
        ell=config.ell,
        # NGD takes a full pass for each step of SGD: nothing is halved.
        pairing="independent" if is_ngd else pairing,
        pairs_within_step=config.measure_noise or is_ngd,
    )


def compile_model(config, dataset, plan):
    """The network, or a model that trains it as its `model`; compiled."""
    network = model = _make_network(config, dataset, plan)
    replicas = network.distribute_strategy.num_replicas_in_sync
    rows = plan.rows_per_step
    is_measured_beside = False
    if config.optimizer == "ngd":
        rows = plan.num_examples
        if rows % replicas:
            wanted = (
                f"a multiple of the {replicas} replicas with optimizer='ngd'"
            )
            remedy = f"try {rows // replicas * replicas}"
            raise wrong("num_examples", wanted, rows, remedy)
        model = NGDModel(
            network, config.batch_size, config.micro_batch_size, config.seed
        )
    elif is_svag(config.optimizer) and config.measure_noise:
        model = SVAGModel(network)
    else:
        is_measured_beside = config.measure_noise
        if replicas > 1:
            model = ReplicatedModel(network)
    model.compile(
        optimizer=make_optimizer(config, plan.sgd_steps_per_epoch),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    # A monitor beside training would observe one step of a call alone, and
    # epochs of larger batches have other numbers of steps.
    if not is_measured_beside and not is_growing(config):
        # Not an argument of `compile`, which is saved with the model.
        model.steps_per_execution = steps_per_call(
            network, rows, plan.steps_per_epoch
        )
    return model


class ReplicatedModel(backend.MultiWorkerModel):
    """Trains a model over several replicas where Keras's own `fit` fails."""

    # Of the mended class no functional model is made: Keras would change the
    # class for all that derives from it.
    def __init__(self, model):
        super().__init__()
        self.model = model

    def call(self, inputs, training=None):
        return self.model(inputs, training=training)


def _make_network(config, dataset, plan):
    options = {k: v for k, v in config.model.items() if v is not None}
    network, _ = NETWORKS[options.pop("name")]
    if "momentum" in options:
        options["momentum"] = plan.running_average_momentum(options["momentum"])
    return network(
        input_shape=dataset.train_images.shape[1:],
        num_classes=dataset.kind.num_classes,
        seed=config.seed,
        **options,
    )


def training_data(config, dataset, plan, epoch=0, done=0):
    """The endless batches from training step `done` of an epoch on."""
    if config.optimizer == "ngd":
        # Every step takes the same batch.
        return datasets.full_batches(dataset)
    return datasets.training_batches(
        dataset,
        plan,
        sampling=config.sampling,
        # The steps of a grown batch have numbers that those of smaller ones
        # had: streams of its own, beyond those of other seeds.
        seed=config.seed + (plan.batch_size // config.batch_size - 1) * 2**32,
        start_step=epoch * plan.steps_per_epoch + done,
        augmentation=config.augmentation,
    )


def make_monitor(config, dataset, plan, training, log_dir):
    """The callback that measures the noise of a run, or None.

    A `ScalingRuleCheck` looks at a batch of `training` to see whether the loss
    is scale-invariant. `log_dir` is TensorBoard's.
    """
    if not config.measure_noise:
        return None
    judged = {
        "closeness": config.lsr.closeness,
        "kappas": config.lsr.kappas,
        "window": config.lsr.window,
    }
    images = dataset.train_images
    if config.optimizer == "ngd":
        return ProbedNoise(
            datasets.standardization(dataset)(images).numpy(),
            dataset.train_labels,
            config.batch_size,
            judged if config.lsr.enabled else None,
        )
    steps = config.epochs * plan.steps_per_epoch
    settings = {
        "every": math.ceil(steps / _MOST_OBSERVATIONS),
        "num_examples": len(images) if config.sampling == "shuffle" else None,
        "per_layer": config.lsr.per_layer,
        "log_dir": log_dir,
    }
    if not config.lsr.enabled:
        return GradientNoiseMonitor(**settings)
    inputs, _ = next(iter(training))
    return ScalingRuleCheck(
        scale_invariant=inputs, verbose=0, **judged, **settings
    )


def steps_per_call(model, rows, steps_per_epoch):
    """Training steps of a call: more than 1 only where a step takes little.

    It divides `steps_per_epoch`. Several replicas take 1, for Keras cannot do
    more there. The last bits of the results may depend on it, so that it
    depends on the configuration alone; callbacks, checkpoints and signals come
    between calls.
    """
    if model.distribute_strategy.num_replicas_in_sync > 1:
        return 1
    cost = max(rows * multiply_adds(model), 1)
    most = min(_MOST_STEPS_PER_CALL, int(_MULTIPLY_ADDS_PER_CALL // cost))
    return max(
        (k for k in range(1, most + 1) if steps_per_epoch % k == 0), default=1
    )


def multiply_adds(model):
    """Multiplications of an example with kernels in one forward pass.

    Derived: a kernel is used once for each position of its layer's output.
    """
    return sum(
        math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1])
        for layer in backend.layers_of(model)
        if getattr(layer, "kernel", None) is not None
    )
