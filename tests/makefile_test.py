"""The Makefile's installation, with a Python that only notes what it does."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

# Makes its virtual environments of itself, and installs for half a second.
PYTHON = f"""#!/bin/sh
case "$*" in
  "-m venv "*) mkdir -p $3/bin && cp "$0" $3/bin/python && echo venv >>log;;
  "-m pip --version") ;;
  "-m pip install "*) sleep 0.5; echo install >>log;;
  "-m pytest "*"-m slow") echo slow >>log;;
  "-m pytest "*"-m not slow") echo quick >>log;;
  "-m "*) echo "$2" >>log;;
  *) exec {sys.executable} "$@";;
esac
"""


@pytest.fixture
def clone(tmp_path):
    for name in ("Makefile", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "keras_svag").mkdir()
    shutil.copy(ROOT / "keras_svag" / "version.py", tmp_path / "keras_svag")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def make(clone, target, python="./python"):
    return subprocess.Popen(
        ["make", target, f"PYTHON={python}"],
        cwd=clone,
        stderr=subprocess.PIPE,
        text=True,
    )


def log(clone):
    return (clone / "log").read_text().split()


def test_second_make_waits_for_the_first_ones_installation(clone):
    processes = [make(clone, target) for target in ("test", "lint")]
    for process in processes:
        assert process.wait(60) == 0, process.stderr.read()
    assert log(clone)[:2] == ["venv", "install"]
    assert sorted(log(clone)[2:]) == ["mypy", "quick", "ruff", "ruff"]


@pytest.mark.parametrize(
    ("is_unfinished", "done"),
    [(True, ["venv", "install", "quick"]), (False, ["install", "quick"])],
)
def test_environment_is_completed_or_made_anew(clone, is_unfinished, done):
    (clone / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(clone / "python", clone / ".venv" / "bin")
    if is_unfinished:
        (clone / ".venv" / ".unfinished").touch()
    python = "./python" if is_unfinished else "absent"
    assert make(clone, "test", python).wait(60) == 0
    assert log(clone) == done


def test_ci_runs_the_lint_the_other_backends_and_what_is_quick(clone):
    shutil.copytree(ROOT / ".ci", clone / ".ci")
    environment = {**os.environ, "PYTHON": "./python"}
    subprocess.run([clone / ".ci" / "run"], env=environment, check=True)
    assert log(clone)[2:] == "ruff ruff mypy install tox quick".split()


def test_python_that_is_missing_is_said_in_a_sentence(clone):
    process = make(clone, "test", "absent")
    assert process.wait(60) != 0
    assert "keras_svag needs Python 3.10 or newer" in process.stderr.read()
    assert not (clone / ".venv").exists()
