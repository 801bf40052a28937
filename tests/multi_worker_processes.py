"""Starts the workers of a cluster as processes of this machine."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def free_addresses(count):
    """Addresses on this machine whose ports nobody uses at the moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [f"localhost:{each.getsockname()[1]}" for each in sockets]


def start(index, addresses, script, *args, **kwargs):
    """Starts one worker.

    Args:
        index: the worker's number.
        addresses: those of all the workers.
        script: name of a script of this directory.
        *args: its arguments.
        **kwargs: of `subprocess.Popen`.

    Returns:
        A `subprocess.Popen`.
    """
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    config = {
        "cluster": {"worker": addresses},
        "task": {"type": "worker", "index": index},
    }
    return subprocess.Popen(
        [sys.executable, str(TESTS / script), *map(str, args)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "TF_CONFIG": json.dumps(config),
        },
        text=True,
        **kwargs,
    )
