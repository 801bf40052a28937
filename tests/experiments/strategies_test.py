"""What a worker learns of its cluster from its environment."""

import json
import os

import pytest

from experiments.strategies import cluster_resolver, make_strategy

CLUSTER = {"worker": ["host0:2222", "host1:2222"]}
TASK = {"type": "worker", "index": 1}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in os.environ:
        if name.startswith("SLURM") or name == "TF_CONFIG":
            monkeypatch.delenv(name)
    # Set in case that a test's subject does: it is removed afterwards.
    monkeypatch.setenv("TF_CONFIG", "")
    monkeypatch.delenv("TF_CONFIG")
    return monkeypatch


def slurm(environment, rank, node, nodes="node[1-2]"):
    environment.setenv("SLURM_JOB_ID", "70001")
    environment.setenv("SLURM_PROCID", str(rank))
    environment.setenv("SLURM_STEP_NUM_TASKS", "3")
    environment.setenv("SLURM_STEP_NODELIST", nodes)
    environment.setenv("SLURM_STEP_TASKS_PER_NODE", "2,1")
    environment.setenv("SLURMD_NODENAME", node)


@pytest.mark.parametrize("index", [1, "1"])
def test_tf_config_is_read_and_goes_before_slurm(environment, index):
    slurm(environment, 0, "node1")
    config = {"cluster": CLUSTER, "task": {**TASK, "index": index}}
    environment.setenv("TF_CONFIG", json.dumps(config))
    resolver = cluster_resolver()
    assert resolver.cluster_spec().as_dict() == CLUSTER
    assert (resolver.task_type, resolver.task_id) == ("worker", 1)


@pytest.mark.parametrize(
    "config",
    [
        "",
        {"cluster": CLUSTER},
        {"cluster": ["host0:2222"], "task": TASK},
        {"cluster": CLUSTER, "task": {**TASK, "index": 2}},
        {"cluster": {"worker": ["host0", "host1"]}, "task": TASK},
        {"cluster": {**CLUSTER, "ps": ["a:1"]}, "task": TASK},
    ],
)
def test_malformed_tf_config_is_one_sentence(environment, config):
    text = config if isinstance(config, str) else json.dumps(config)
    environment.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="TF_CONFIG must describe the clus"):
        make_strategy("multi_worker")


@pytest.mark.parametrize(
    "rank, node", [(0, "node1"), (1, "node1"), (2, "node2")]
)
def test_slurm_step_is_a_cluster(environment, rank, node):
    slurm(environment, rank, node)
    resolver = cluster_resolver()
    port = 10_000 + 70001 % 20_000
    assert resolver.cluster_spec().as_dict() == {
        "worker": [f"node1:{port}", f"node1:{port + 1}", f"node2:{port}"]
    }
    assert (resolver.task_type, resolver.task_id) == ("worker", rank)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_slurm_nodes_in_another_order_are_refused(environment):
    # Sorted by name, node10 stands before node9.
    slurm(environment, 0, "node9", "node[9-10]")
    with pytest.raises(ValueError, match="set TF_CONFIG for each task"):
        cluster_resolver()
