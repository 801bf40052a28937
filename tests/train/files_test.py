"""Damaged files, unreadable folders and a full disk: one sentence each."""

import contextlib
import json
import os
import resource
import signal

import pytest

from experiments import datasets
from experiments.report.runs import find_runs
from experiments.run_folder import (
    CHECKSUM,
    WorkDir,
    configuration_checksum,
    results_table,
)
from tests.helpers.refusals import check_sentence
from tests.helpers.synthetic_runs import CONFIG

RESULTS = {"loss": 0.5, "accuracy": 0.9}
HISTORY = "epoch,loss,weight_sq_norm,learning_rate\n" + "".join(
    f"{epoch},2.0,3.0,0.2\n" for epoch in range(CONFIG["epochs"])
)

NO_OBJECTS = ("", "{", "[1, 2]", "3", "null", '"text"', "[" * 10**5, "\x00")


@contextlib.contextmanager
def full_disk(size):
    """Files can grow to `size` bytes; what is more fails as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def write_run(folder, name="run", history=HISTORY, **files):
    path = folder / name
    path.mkdir(parents=True)
    results = {CHECKSUM: configuration_checksum(CONFIG), **RESULTS}
    files = {"config": CONFIG, "results": results, **files}
    for stem, content in files.items():
        if content is not None:
            text = content if isinstance(content, str) else json.dumps(content)
            (path / f"{stem}.json").write_text(text)
    if history is not None:
        (path / "history.csv").write_bytes(
            history if isinstance(history, bytes) else history.encode()
        )
    return path


def refusal(call, *arguments):
    with pytest.raises(ValueError) as caught:
        call(*arguments)
    assert type(caught.value) is ValueError
    sentence = str(caught.value)
    check_sentence(sentence)
    return sentence


@pytest.mark.parametrize("size", [0, 10, 200])
def test_a_run_that_cannot_begin_leaves_no_partial_file(tmp_path, size):
    workdir = WorkDir(str(tmp_path / "run"), CONFIG)
    with full_disk(size):
        sentence = refusal(workdir.begin)
    assert str(tmp_path) in sentence
    assert os.listdir(tmp_path / "run") == []


def test_results_that_cannot_be_written_leave_no_partial_file(tmp_path):
    workdir = WorkDir(str(tmp_path), CONFIG)
    workdir.begin()
    with full_disk(20):
        sentence = refusal(setattr, workdir, "results", {"text": "x" * 100})
    assert "File too large" in sentence
    assert sorted(os.listdir(tmp_path)) == ["config.json", "history.csv"]
    # As it would go on when there is room again.
    workdir.results = RESULTS
    assert WorkDir(str(tmp_path), CONFIG).results == RESULTS


@pytest.mark.parametrize("content", NO_OBJECTS)
@pytest.mark.parametrize("name", ["config.json", "results.json"])
def test_damaged_json_of_a_working_directory(tmp_path, name, content):
    WorkDir(str(tmp_path), CONFIG).begin()
    (tmp_path / name).write_text(content)
    sentence = refusal(lambda: WorkDir(str(tmp_path), CONFIG).results)
    assert name in sentence and "remove it" in sentence
    assert (tmp_path / name).read_text() == content


def test_a_folder_in_the_place_of_a_file(tmp_path):
    (tmp_path / "config.json").mkdir()
    assert "config.json" in refusal(WorkDir, str(tmp_path), CONFIG)


@pytest.mark.parametrize("content", NO_OBJECTS)
@pytest.mark.parametrize("name", ["config", "results"])
def test_damaged_json_of_a_reported_run(tmp_path, name, content):
    path = write_run(tmp_path, **{name: content})
    sentence = refusal(find_runs, str(tmp_path))
    assert str(path / f"{name}.json") in sentence


NOISE = {
    "no object": 3,
    "empty": {"x": 1},
    "text for a number": {"grad_sq_norm": "big", "noise_trace": 1, "count": 2},
    "negative count": {"grad_sq_norm": 1, "noise_trace": 1, "count": -2},
    "list": [1],
}


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE.keys())
@pytest.mark.parametrize("key", ["gradient_noise", "linear_scaling"])
def test_damaged_noise_of_a_reported_run(tmp_path, key, noise):
    checksum = {CHECKSUM: configuration_checksum(CONFIG)}
    results = {**checksum, **RESULTS, key: noise}
    path = write_run(tmp_path, results=results)
    sentence = refusal(find_runs, str(tmp_path))
    assert f"{path / 'results.json'} lacks what" in sentence


@pytest.mark.parametrize(
    "history",
    [None, "", "epoch,loss\n", "loss\n0.5\n", b"epoch,loss\n\xff\xfe,1\n"],
    ids=["none", "empty", "header alone", "no epochs", "no text"],
)
def test_history_without_epochs(tmp_path, history):
    write_run(tmp_path, history=history)
    sentence = refusal(find_runs, str(tmp_path))
    assert "history.csv" in sentence and "remove" in sentence


@pytest.mark.parametrize(
    "results",
    [
        {},
        {"accuracy": None},
        {"accuracy": "x"},
        {**RESULTS, **{"gradient_noise": 3}},
    ],
)
def test_damaged_results_are_not_printed(results):
    assert "results.json" in refusal(results_table, results)


@pytest.mark.parametrize("name", ["digits", "mnist"])
@pytest.mark.parametrize("kind", ["file", "damaged"])
def test_data_dir_that_cannot_be_used(tmp_path, name, kind):
    path = tmp_path / "data"
    if kind == "file":
        path.write_text("")
    else:
        folder = "optical_digits" if name == "digits" else name
        (path / folder / "1.0.0").mkdir(parents=True)
        (path / folder / "1.0.0" / "dataset_info.json").write_text("{")
    before = sorted(map(str, tmp_path.rglob("*")))
    sentence = refusal(datasets.load, name, str(path))
    assert str(path) in sentence
    assert sorted(map(str, tmp_path.rglob("*"))) == before
