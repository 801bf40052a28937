"""The distribution strategy of a run, and what its workers have to know."""

import hashlib
import json
import os

import numpy as np
import tensorflow as tf

from keras_svag import backend

STRATEGIES = ("none", "mirrored", "multi_worker")
_EXAMPLE = (
    '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
_LOWEST_PORT, _NUM_PORTS = 10_000, 20_000


def make_strategy(name, virtual_devices=None):
    """The distribution strategy of a run.

    `"multi_worker"` waits until all the workers have been started. The
    cluster is read from the environment variable `TF_CONFIG`, or from Slurm's
    if that is not set and the process is a task of `srun`.

    Args:
        name: `"none"`, `"mirrored"` or `"multi_worker"`.
        virtual_devices: number of virtual CPUs to mirror over, or None for
            this machine's GPUs. They are made before TensorFlow is used.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ValueError: if there are virtual devices without mirroring, or fewer
            than one; if the environment describes no cluster.
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


def lost_worker(error):
    """Whether `error` says that another worker is gone.

    TensorFlow raises such an error in the remaining workers, from whatever
    they exchange next, about ten seconds after a worker's last sign of life.

    Args:
        error: an exception raised while training under
            `tf.distribute.MultiWorkerMirroredStrategy`.
    """
    return isinstance(
        error,
        (
            tf.errors.UnavailableError,
            tf.errors.AbortedError,
            tf.errors.DeadlineExceededError,
        ),
    )


def agree(strategy, action, facts=lambda value: {}):
    """What `action` returns, once it has come out alike on all the workers.

    All of them have to call this. None is left waiting: what they exchange
    has one shape whatever they found, and it is exchanged also if `action`
    fails. A process alone just calls `action`.

    Args:
        strategy: the `tf.distribute.Strategy` of the run.
        action: function without arguments.
        facts: function from what it returned to a dict of values of JSON by
            their names, which have to be those of the other workers.

    Raises:
        ValueError: if the facts differ, or `action` failed on another worker.
        Exception: what `action` raised.
    """
    if not backend.has_several_workers(strategy):
        return action()
    value, found, failure = None, {}, None
    try:
        value = action()
        found = facts(value)
    except Exception as error:
        failure = error
    resolver = strategy.cluster_resolver
    own = {
        "worker": f"{resolver.task_type} {resolver.task_id}",
        "failure": None if failure is None else str(failure)[:_LONGEST_TEXT],
        "facts": _shortened(found),
    }
    reports = _exchanged(strategy, own)
    if failure is not None:
        raise failure
    for report in reports:
        if report["failure"] is not None:
            raise ValueError(
                f"The {report['worker']} could not begin: {report['failure']}"
            )
    differences = _differences(reports)
    if differences:
        raise ValueError(
            f"The workers do not agree: {differences}; start all of them with "
            "the same code, configuration and data, and with a --workdir that "
            "they share."
        )
    return value


def begin_together(strategy, workdir):
    """Begins a run on all the workers, the first of which writes.

    Args:
        strategy: the `tf.distribute.Strategy` of the run.
        workdir: its `WorkDir`.

    Returns:
        The `Checkpoint` to go on from, or None.

    Raises:
        ValueError: if the folder is in use, or the workers see another one.
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


# A report is this many bytes long, whatever it holds.
_REPORT_SIZE = 2**16
_LONGEST_TEXT = 1000
_MOST_DIFFERENCES = 3


def _shortened(facts):
    texts = {name: str(value) for name, value in facts.items()}
    short = {
        name: text if len(text) <= 60 else f"{text[:40]}… ({_digest(text)})"
        for name, text in texts.items()
    }
    if len(json.dumps(short)) > _REPORT_SIZE - 8 * _LONGEST_TEXT:
        return {"the fingerprint": _digest(json.dumps(texts))}
    return short


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _exchanged(strategy, report):
    """The reports of all workers, in the order of their replicas."""
    text = json.dumps(report).encode().ljust(_REPORT_SIZE)
    # Integers of 64 bits are exchanged by all devices, and as they are.
    row = np.frombuffer(text, np.int64)[None]
    rows = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(row)
    )
    gathered = strategy.gather(rows, axis=0).numpy()
    reports = [json.loads(row.tobytes()) for row in gathered]
    return list({report["worker"]: report for report in reports}.values())


def _differences(reports):
    """Says which facts differ, and on which workers; empty if none does."""
    found = []
    for name in dict.fromkeys(n for report in reports for n in report["facts"]):
        workers = {}
        for report in reports:
            value = report["facts"].get(name, "missing")
            workers.setdefault(value, []).append(report["worker"])
        if len(workers) > 1:
            values = (f"{v} on {', '.join(w)}" for v, w in workers.items())
            found.append(f"{name} is {' and '.join(values)}")
    if len(found) > _MOST_DIFFERENCES:
        rest = len(found) - _MOST_DIFFERENCES
        found = [*found[:_MOST_DIFFERENCES], f"{rest} more differ"]
    return ", ".join(found)


def cluster_resolver():
    """What this process is in its cluster, from its environment.

    Returns:
        A `tf.distribute.cluster_resolver.ClusterResolver`.

    Raises:
        ValueError: if `TF_CONFIG` is malformed, or neither it nor Slurm's
            variables are set.
    """
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
        task, index = resolver.task_type, resolver.task_id
        # Of an address without a port nobody can tell where it listens.
        _ = [
            int(a.rpartition(":")[2]) for each in cluster.values() for a in each
        ]
        if index < 0 or not {task, *cluster} <= {"chief", "worker"}:
            raise ValueError("chief and worker alone train")
        _ = cluster[task][index]
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
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
        port_base=_LOWEST_PORT + job % _NUM_PORTS,
        # GPUs are bound by Slurm: what is given here stands for "some", which
        # the resolver cannot do without.
        auto_set_gpu=False,
        gpus_per_task=1,
        gpus_per_node=_most_tasks_on_a_node(),
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


def _most_tasks_on_a_node():
    # 2(x3),1 stands for 2, 2, 2, 1.
    counts = os.environ["SLURM_STEP_TASKS_PER_NODE"].split(",")
    return max(int(count.partition("(")[0]) for count in counts)
