"""Starts the workers of a cluster as processes of this machine."""

import contextlib
import json
import socket

from tests.helpers.processes import Program


def free_addresses(count):
    """Addresses on this machine whose ports nobody uses at the moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [f"localhost:{each.getsockname()[1]}" for each in sockets]


def start(index, addresses, name, *arguments):
    """Starts one worker.

    Args:
        index: the worker's number.
        addresses: those of all the workers.
        name: the program, as `Program` takes it.
        *arguments: its arguments.

    Returns:
        A `Program`.
    """
    config = {
        "cluster": {"worker": addresses},
        "task": {"type": "worker", "index": index},
    }
    return Program(name, *arguments, TF_CONFIG=json.dumps(config))
