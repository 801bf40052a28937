"""The distribution strategy of a run, and what its workers have to know."""

import collections
import hashlib
import json
import os

import numpy as np
import tensorflow as tf

from keras_svag import backend

STRATEGIES = ("none", "mirrored", "multi_worker")
# What TensorFlow raises in the remaining workers, from whatever they exchange
# next, about ten seconds after another worker's last sign of life.
LOST_WORKER = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.DeadlineExceededError,
)
_EXAMPLE = (
    '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
_LOWEST_PORT, _NUM_PORTS = 10_000, 20_000


def make_strategy(name, virtual_devices=None):
    """The distribution strategy with a name; of several workers, it waits.

    The virtual CPUs to mirror over, None for this machine's GPUs, are made
    before TensorFlow is used.
    """
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
    if name == "multi_worker":
        return tf.distribute.MultiWorkerMirroredStrategy(
            cluster_resolver=cluster_resolver()
        )
    return tf.distribute.MirroredStrategy(
        virtual_devices and [f"CPU:{i}" for i in range(virtual_devices)]
    )


def agree(strategy, action, facts=lambda value: {}):
    """What `action` returns, once it has come out alike on all the workers.

    All of them have to call this, and none is left waiting if it fails on one.
    A process alone just calls `action`. A `ValueError` names what is not alike
    of `facts(value)`, a dict of values of JSON by their names.
    """
    if not backend.has_several_workers(strategy):
        return action()
    value, found, failure = None, {}, None
    try:
        value = action()
        found = facts(value)
    except Exception as error:
        failure = error
    names = {_digest(name): name for name in sorted(found)}
    rows = [(0, failure is not None)]
    rows += [(key, _digest(found[name])) for key, name in names.items()]
    gathered = collections.defaultdict(list)
    for key, digest in _gathered(strategy, rows):
        gathered[key].append(digest)
    if failure is not None:
        raise failure
    if any(gathered.pop(0)):
        raise ValueError(
            "Another worker could not begin, and says why in its own output."
        )
    differing = [
        name for key, name in names.items() if len({*gathered[key]}) > 1
    ]
    count = strategy.num_replicas_in_sync
    if any(len(digests) < count for digests in gathered.values()):
        differing = ["their versions of the code"]
    if differing:
        raise ValueError(
            f"The workers do not agree on {', '.join(differing)}; start all of "
            "them with the same code, configuration and data, and with a "
            "--workdir that they share."
        )
    return value


def _digest(value):
    text = json.dumps(value).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big")


def _gathered(strategy, rows):
    """The rows of all the replicas, whose numbers may differ."""
    # Integers of 64 bits are exchanged by all devices, and as they are.
    rows = tf.constant(rows, tf.int64)
    rows = strategy.experimental_distribute_values_from_function(lambda _: rows)
    return np.asarray(strategy.gather(rows, axis=0))


def begin_together(strategy, workdir):
    """Begins a run on all the workers, the first of which writes.

    It returns the `Checkpoint` to go on from, or None.
    """
    writes = backend.is_chief(strategy)
    found = agree(strategy, lambda: workdir.begin() if writes else None)
    # The others read what the first one has settled.
    return agree(
        strategy,
        lambda: found if writes else workdir.join(),
        lambda found: {
            "config.json in --workdir": workdir.has_begun,
            "the training step to go on from": found.step if found else 0,
        },
    )


def cluster_resolver():
    """The cluster of `TF_CONFIG`, or of Slurm's variables if it is not set."""
    if "TF_CONFIG" not in os.environ:
        if "SLURM_STEP_NODELIST" not in os.environ:
            raise ValueError(
                "--strategy=multi_worker needs the environment variable "
                "TF_CONFIG, which is not set: give each worker its own, such "
                f"as {_EXAMPLE}, or start them by `srun`."
            )
        os.environ["TF_CONFIG"] = json.dumps(_slurm_cluster())
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    try:
        cluster = resolver.cluster_spec().as_dict()
        address = cluster[resolver.task_type][resolver.task_id]
        # Chief and worker alone train.
        if ":" not in address or not {*cluster} <= {"chief", "worker"}:
            raise ValueError(address)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            "The environment variable TF_CONFIG must describe the cluster, "
            "with lists of host:port for `chief` and `worker` alone, and this "
            f"process's task in it, as {_EXAMPLE} does, but it is "
            f"{os.environ['TF_CONFIG']:.500}."
        ) from error
    return resolver


def _slurm_cluster():
    """The cluster of a Slurm step, and this task in it, as TF_CONFIG."""
    # Two jobs may share a node: the port depends on the job.
    job = int(os.environ.get("SLURM_JOB_ID", 0))
    # 2(x3),1 stands for 2, 2, 2, 1.
    counts = os.environ["SLURM_STEP_TASKS_PER_NODE"].split(",")
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
        port_base=_LOWEST_PORT + job % _NUM_PORTS,
        # GPUs are bound by Slurm: what is given here stands for "some", which
        # the resolver cannot do without.
        auto_set_gpu=False,
        gpus_per_task=1,
        gpus_per_node=max(int(count.partition("(")[0]) for count in counts),
    )
    cluster = resolver.cluster_spec().as_dict()
    task, index = resolver.get_task_info()
    expected = cluster[task][index].rpartition(":")[0]
    node = os.environ.get("SLURMD_NODENAME", expected)
    if node != expected:
        raise ValueError(
            f"Slurm runs task {index} on {node}, where TensorFlow, which "
            f"sorts the nodes by name, expects it on {expected}; set "
            "TF_CONFIG for each task instead."
        )
    return {"cluster": cluster, "task": {"type": task, "index": index}}
