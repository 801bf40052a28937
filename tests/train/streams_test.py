"""The script trains to its end whoever listens, and whatever the locale."""

import os
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.processes import own_lines

pytestmark = pytest.mark.slow

ARGUMENTS = (
    "--deterministic",
    "--config.epochs=2",
    "--config.num_examples=256",
    "--config.batch_size=32",
    "--config.model.hidden_units=(8,)",
)
REDIRECTIONS = {
    "closed": ">&- 2>&-",
    "stdout closed": ">&-",
    "full": "> /dev/full",
    "gone": "| head -1",
    "ascii": "",
}
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}


def start(path, redirection="", **environment):
    command = f'"$0" train.py "$@"; echo $? > "{path}.code"'
    return subprocess.Popen(
        ["sh", "-c", f"({command}) {redirection}", sys.executable]
        + [f"--workdir={path}", *ARGUMENTS],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def test_it_trains_whoever_listens(tmp_path):
    processes = {
        name: start(
            tmp_path / name, redirection, **ASCII if name == "ascii" else {}
        )
        for name, redirection in REDIRECTIONS.items()
    }
    output = {n: p.communicate(timeout=300) for n, p in processes.items()}
    results = set()
    for name in REDIRECTIONS:
        assert (tmp_path / f"{name}.code").read_text() == "0\n", output[name]
        assert "Traceback" not in "".join(output[name])
        results.add((tmp_path / name / "history.csv").read_text())
    assert len(results) == 1
    assert "\\u2207" in output["ascii"][0]
    assert output["gone"][0].startswith("epoch 1/2 ")


def test_a_folder_whose_name_is_no_text_is_named(tmp_path):
    _, errors = start(tmp_path / "é", **ASCII).communicate(timeout=60)
    [line] = own_lines(errors).splitlines()
    assert line.startswith("train.py: The argument '--workdir=")
    assert "\\udcc3\\udca9' is no text in the encoding ascii" in line
    assert [path.name for path in tmp_path.iterdir()] == ["é.code"]
