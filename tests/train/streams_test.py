"""The script trains to its end whoever listens, and whatever the locale."""

import os
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.processes import own_lines

pytestmark = pytest.mark.slow

ARGUMENTS = (
    "--config.epochs=1",
    "--config.num_examples=256",
    "--config.batch_size=32",
    "--config.model.hidden_units=(8,)",
)
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}


def run(path, redirection=""):
    command = f'"$0" train.py "$@" {redirection}'
    return subprocess.run(
        ["sh", "-c", command, sys.executable, f"--workdir={path}", *ARGUMENTS],
        cwd=ROOT,
        env={**os.environ, **ASCII},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )


@pytest.mark.parametrize("redirection", ["", ">&- 2>&-"])
def test_it_trains_whoever_listens(tmp_path, redirection):
    process = run(tmp_path / "run", redirection)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "run" / "results.json").exists()
    assert redirection or "\\u2207" in process.stdout


def test_a_folder_whose_name_is_no_text_is_named(tmp_path):
    process = run(tmp_path / "é")
    [line] = own_lines(process.stderr).splitlines()
    assert line.startswith("train.py: The argument '--workdir=")
    assert "\\udcc3\\udca9' is no text in the encoding ascii" in line
    assert not os.listdir(tmp_path)
