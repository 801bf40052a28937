"""Python in a process of its own, as what TensorFlow does once needs it."""

import subprocess
import sys
import textwrap

from tests.helpers.paths import ROOT


def run_python(script, *arguments, timeout=300):
    """Runs a script in the project's folder.

    Args:
        script: its text, indented or not.
        *arguments: what it finds in `sys.argv[1:]`.
        timeout: seconds that it may take.

    Returns:
        What it printed to the standard output.
    """
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout
