"""Files and folders that may not be read or written, as those of another."""

import os
import shutil
import sys

import pytest

from tests.helpers.processes import Program
from tests.helpers.synthetic_runs import write_run
from tests.train.foreign_files_test import ARGUMENTS, contents, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="modes of Linux"),
]


def end(name, *arguments, umask="022"):
    """Exit code, and what was printed to stderr."""
    program = Program(
        "tests/helpers/unprivileged.py", name, *arguments, UMASK=umask
    )
    _, errors = program.communicate()
    return program.returncode, errors


def train(workdir, **options):
    return end("train.py", f"--workdir={workdir}", *ARGUMENTS, **options)


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    run = tmp_path_factory.mktemp("unfinished")
    program = Program("train.py", f"--workdir={run}", *ARGUMENTS)
    wait_for(lambda: len([*run.glob("checkpoints/step-*.*.npz")]) > 1)
    program.kill()
    program.communicate()
    return run


@pytest.mark.parametrize(
    ("names", "mode", "sentence"),
    [
        (".", 0o555, "The working directory '{run}' cannot be written (Perm"),
        ("train", 0o555, "The working directory '{run}' cannot be written"),
        ("checkpoints", 0o555, "The working directory '{run}' cannot be wri"),
        ("checkpoints", 0, "The working directory '{run}' cannot be written"),
        ("history.csv", 0o444, "The working directory '{run}' cannot be wri"),
        (".", 0, "{run}/config.json cannot be read (Permission denied): all"),
        ("config.json", 0, "{run}/config.json cannot be read (Permission de"),
        # They may be whole.
        ("checkpoints/*", 0, "{run}/checkpoints/step-"),
    ],
)
def test_a_run_that_may_not_go_on_says_so_and_stays(
    unfinished, tmp_path, names, mode, sentence
):
    run = tmp_path / "run"
    shutil.copytree(unfinished, run)
    before = contents(run)
    paths = [*run.glob(names)] if names != "." else [run]
    modes = [(path, path.stat().st_mode) for path in paths]
    for path in paths:
        path.chmod(mode)
    code, errors = train(run)
    for path, usual in modes:
        path.chmod(usual)
    assert code == 1
    [line] = errors.splitlines()
    assert line.startswith(f"train.py: {sentence.format(run=run)}")
    assert contents(run) == before


def test_a_new_folder_needs_a_place(tmp_path):
    tmp_path.chmod(0o555)
    code, errors = train(tmp_path / "run")
    assert code == 1
    assert "run' cannot be written (Permission denied); give ano" in errors
    assert not os.listdir(tmp_path)


def test_a_report_leaves_out_what_may_not_be_read(tmp_path):
    runs = tmp_path / "runs"
    for ell in (1, 2, 4, 8):
        write_run(runs / f"ell={ell}", ell=ell)
    hidden = runs / "ell=4", runs / "ell=8" / "history.csv"
    for path in hidden:
        path.chmod(0)
    runs.chmod(0o555)
    code, errors = end("experiments.report", runs)
    assert code == 1
    assert f"cannot be written to '{runs}' (Permission denied)" in errors
    output = tmp_path / "output"
    code, _ = end("experiments.report", runs, f"--output={output}")
    runs.chmod(0o755)
    hidden[0].chmod(0o755)
    assert code == 0
    text = (output / "report.md").read_text()
    assert text.count("cannot be read (Permission denied): allow it") == 2
    assert "| 2 |" in text


def test_what_a_run_writes_has_the_modes_of_the_umask(unfinished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(unfinished, run)
    (run / "history.csv").unlink()
    assert train(run, umask="027") == (0, "")
    for name in ("history.csv", "results.json", "model.keras"):
        assert (run / name).stat().st_mode & 0o777 == 0o640
