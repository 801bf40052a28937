"""Executes the tutorials and keeps their outputs.

    python -m docs.tutorials.execute

Each runs from a clean kernel, on the library of this checkout. What changes
with the day and the machine is not kept: no times, no paths, no versions.
"""

import os
import tempfile
from pathlib import Path

# It builds a cache of fonts once, of which the first plot would say so.
import matplotlib.font_manager  # noqa: F401
import nbclient
import nbformat

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
TUTORIALS = sorted(FOLDER.glob("*.ipynb"))
METADATA = {
    "kernelspec": {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    },
    "language_info": {"name": "python"},
}


def executed(path, timeout=1200):
    """The notebook with the outputs that it has here.

    Args:
        path: a notebook.
        timeout: seconds that a cell may take.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell raises.
        nbclient.exceptions.CellTimeoutError: if one takes too long.
    """
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=timeout,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(FOLDER)}},
        # TensorFlow's lines on the hardware go to the terminal, as in a script.
        extra_arguments=["--IPKernelApp.capture_fd_output=False"],
    )
    with tempfile.TemporaryDirectory() as settings:
        surroundings = {"PYTHONPATH": str(ROOT), "IPYTHONDIR": settings}
        client.execute(env=os.environ | surroundings)
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def main():
    for path in TUTORIALS:
        nbformat.write(executed(path), path)


if __name__ == "__main__":
    main()
