"""Starts the workers of a cluster as processes of this machine."""

import contextlib
import json
import os
import socket
import subprocess
import sys

from tests.helpers.paths import ROOT


def free_addresses(count):
    """Addresses on this machine whose ports nobody uses at the moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [f"localhost:{each.getsockname()[1]}" for each in sockets]


def start(index, addresses, module, *args, **kwargs):
    """Starts one worker.

    Args:
        index: the worker's number.
        addresses: those of all the workers.
        module: name of the module that it runs as its program.
        *args: its arguments.
        **kwargs: of `subprocess.Popen`.

    Returns:
        A `subprocess.Popen`.
    """
    config = {
        "cluster": {"worker": addresses},
        "task": {"type": "worker", "index": index},
    }
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, args)],
        env={**os.environ, "TF_CONFIG": json.dumps(config)},
        cwd=ROOT,
        text=True,
        **kwargs,
    )
