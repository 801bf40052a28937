"""Whatever lies in a run's folder is refused in a sentence or read rightly."""

import contextlib
import csv
import io
import json
import math
import os
import pathlib
import re
import shutil
import signal
import warnings
import zipfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from experiments import run_folder
from experiments.checkpoint import (
    CheckpointFolder,
    restore_training_arrays,
    training_arrays,
)
from experiments.process import fingerprint
from experiments.process.logs import HistoryFile, TrainingClock
from experiments.run_folder import CHECKSUM, WorkDir, configuration_checksum
from keras_svag import SVAG, ScalingRuleCheck, SVAGModel
from keras_svag.arguments import printable
from tests.helpers.contents import contents_of
from tests.helpers.refusals import check_sentence
from tests.helpers.small_problems import dense_network
from tests.helpers.synthetic_runs import estimate

pytestmark = pytest.mark.slow

# The profile's examples are the same ones every time; shorter than a few
# hundred would miss what one in a hundred finds. 2,000 others a test by
# `pytest --hypothesis-profile=many tests/experiments/fuzz_test.py`.
FUZZ = hypothesis.settings(
    max_examples=2 * hypothesis.settings.default.max_examples,
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.data_too_large,
    ],
)
SECONDS = 10  # An example takes milliseconds.

# What may stand for a value of JSON, for a cell of CSV and for some bytes.
VALUES = ["0", "-1", "0.5", str(2**63), str(10**400), "1e308", "5e-324"]
VALUES += ["Infinity", "NaN", "null", "true", '""', '"x"', '"1"', r'"\ud800"']
VALUES += ["[]", "{}", "[1]", '{"x": {"x": []}}']
for depth in (30, 400, 900, 100_000):
    VALUES += ["[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth]
CELLS = ["", "x", "NA", "nan", "inf", "-1", "0.5", "1e308", "1" * 400, "0x1"]
CELLS += ["1_0", " 1", '"', "\0", "\n", "1,2", "é", "٣", "x" * 140_000]
BYTES = [b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\n", b'"', b","]
BYTES += [b"[", b"}", b"-", b"9" * 5000, b"e999"]

# What may lie at a path that is no file with content.
STRANGERS = {
    "a folder": os.mkdir,
    "a pipe": os.mkfifo,
    "a broken link": lambda path: os.symlink("nowhere", path),
    "a link to itself": lambda path: os.symlink(path, path),
}


def put(path, content):
    """Bytes, or one of the strangers by its name, or nothing for None."""
    path = pathlib.Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if content in STRANGERS:
        STRANGERS[content](path)
    elif content is not None:
        path.write_bytes(content)


def put_all(folder, contents):
    for name, content in contents.items():
        put(folder / name, content)


def files_of(folder):
    return {
        os.path.relpath(path, folder): content
        for path, content in contents_of(folder).items()
        if isinstance(content, bytes)
    }


@st.composite
def damaged_bytes(draw, content):
    places = st.integers(0, len(content) - 1)
    first, last = sorted((draw(places), draw(places)))
    before, part, after = content[:first], content[first:last], content[last:]
    flipped = bytes([after[0] ^ 1 << draw(st.integers(0, 7))]) + after[1:]
    between = [b"", part + part, bytes(len(part)), draw(st.sampled_from(BYTES))]
    return draw(
        st.sampled_from(
            [before, after, before + flipped]
            + [before + other + after for other in between]
        )
    )


@st.composite
def damaged_json(draw, content):
    """One value is another, gone, there twice, or has another name."""
    parent, key = [json.loads(content)], 0
    whole = parent
    while parent[key] and isinstance(parent[key], (dict, list)):
        if not draw(st.integers(0, 3)):
            break
        parent = parent[key]
        keys = parent if isinstance(parent, dict) else range(len(parent))
        key = draw(st.sampled_from([*keys]))
    how = draw(st.sampled_from(["other", "other", "other", "gone", "twice"]))
    if how == "other":
        parent[key] = "<new>"
    elif how == "gone":
        del parent[key]
    elif isinstance(parent, list):
        parent.insert(key, parent[key])
    else:
        parent[f"{key}\n"] = parent.pop(key)
    new = draw(st.sampled_from(VALUES))
    return json.dumps(whole)[1:-1].replace('"<new>"', new).encode()


@st.composite
def damaged_csv(draw, content):
    """One cell, or what follows it, is another, or the rest of a line gone."""
    parts = re.split("([,\n])", content.decode())
    place = draw(st.integers(0, len(parts) - 2))
    if draw(st.booleans()):
        parts[place] = draw(st.sampled_from(CELLS))
    else:
        del parts[place : parts.index("\n", place)]
    return "".join(parts).encode()


def damaged(name, content, other):
    """What may become of a file of a run where another run has `other`."""
    gone = st.sampled_from([None, other, *STRANGERS])
    texts = {".json": damaged_json, ".csv": damaged_csv}
    text = texts.get(os.path.splitext(name)[1])
    if text is None:
        return damaged_bytes(content) | gone
    encoded = st.just(content.decode().encode("utf-16"))
    text = text(content)
    return st.one_of(text, text, text, damaged_bytes(content), gone, encoded)


@st.composite
def damages(draw, contents, others):
    """What becomes of some files of a folder, by their names."""
    names = st.lists(
        st.sampled_from([*contents]), min_size=1, max_size=3, unique=True
    )
    return {n: draw(damaged(n, contents[n], others[n])) for n in draw(names)}


class Hung(BaseException):
    """No handler of the code under test catches it."""


@contextlib.contextmanager
def soon():
    """Ends what takes longer, also if it waits for a pipe."""

    def end(*_):
        raise Hung(f"not done in {SECONDS} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


RESULTS = {
    "accuracy": 0.9,
    "gradient_noise": estimate(0.3, 1.5).to_dict(),
    "linear_scaling": {"text": "linear", "first_epoch": 3, "last_epoch": 4},
}
SETTINGS = {"ell": 4, "window": "x", "model": {"units": [8, 8]}}
STEP = 6


def states():
    """What train.py's callbacks leave in a checkpoint."""
    check = ScalingRuleCheck()
    columns = "step epoch iteration learning_rate rows weight_sq_norm"
    columns = f"{columns} grad_sq_norm example_noise".split()
    for step in (1, 2, 3):
        row = (step, 1, step - 1, 0.1, 16, 20.0, 0.3, 24.0)
        check.series.append(**dict(zip(columns, row, strict=True)))
    row = {"loss": 1 / 3, "val_loss": math.nan}
    return {
        "HistoryFile": {"rows": [{"epoch": 0, **row}, {"epoch": 1, **row}]},
        "ScalingRuleCheck": check.state_dict(),
        "TrainingClock": {"learning_rate": 0.1},
    }


@pytest.fixture(scope="module")
def model():
    model = SVAGModel(dense_network(2, 1, units=2))
    model.compile(SVAG(0.1), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture(scope="module")
def two_runs(model, tmp_path_factory):
    """Files of two finished runs, by their names in the first one."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        # The traceback of an example that failed holds its lock.
        patch.setattr(run_folder, "lock", lambda _: os.open(os.devnull, 0))
        for ell in (SETTINGS["ell"], 8):
            folder = tmp_path_factory.mktemp("finished")
            settings = SETTINGS | {"ell": ell}
            workdir = WorkDir(str(folder), settings)
            workdir.begin()
            put(folder / "history.csv", b"epoch,loss\n0,2\n")
            workdir.checkpoints.about["surroundings"] = {"replicas": 1}
            for step in (STEP // 2, STEP):
                arrays = [array + ell for array in training_arrays(model)]
                workdir.checkpoints.save(step, arrays, states())
            workdir.results = RESULTS
            own, first = map(configuration_checksum, (settings, SETTINGS))
            files = files_of(folder)
            found.append({n.replace(own, first): files[n] for n in files})
        yield found


def goes_on(folder, model):
    """Resumes as train.py does; returns the `Checkpoint`, or None."""
    workdir = WorkDir(str(folder), SETTINGS)
    found = workdir.begin()
    if found is None:
        return None
    fingerprint.changes(found.about.get("surroundings"), {"replicas": 1})
    restore_training_arrays(model, found)
    check = ScalingRuleCheck(scale_invariant=False, verbose=0)
    check.set_model(model)
    check.set_params({"epochs": 2, "steps": 3})
    check.on_train_begin()
    history = HistoryFile(workdir.file("history.csv"))
    history.on_train_begin()
    found.restore([TrainingClock(), history, check])
    assert repr(history.state_dict()) == repr(
        found.state.get("HistoryFile", {"rows": []})
    )
    return found


def test_what_is_whole_is_read(two_runs, model, tmp_path):
    put_all(tmp_path / "run", two_runs[0])
    found = goes_on(tmp_path / "run", model)
    assert found.step == STEP and repr(found.state) == repr(states())
    assert WorkDir(str(tmp_path / "run"), SETTINGS).results == RESULTS


@FUZZ
@hypothesis.given(data=st.data())
def test_a_damaged_folder_goes_on_rightly_or_not_at_all(
    two_runs, model, tmp_path_factory, data
):
    folder = tmp_path_factory.mktemp("damaged")
    put_all(folder, two_runs[0])
    put_all(folder, data.draw(damages(*two_runs)))
    before = files_of(folder)
    results = found = None
    with soon():
        try:
            results = WorkDir(str(folder), SETTINGS).results
            found = goes_on(folder, model)
        except ValueError as error:
            check_sentence(printable(str(error)))
        else:
            config = json.loads((folder / "config.json").read_bytes())
            assert config["ell"] == SETTINGS["ell"]
    after = files_of(folder)
    for name in before.keys() - {"history.csv", "config.json"}:
        assert after[name] == before[name]
    if results is not None:
        content = json.loads(before["results.json"])
        assert content.pop(CHECKSUM) and repr(results) == repr(content)
    if found is not None:
        assert repr(found.state) == repr(states())
        for array, expected in zip(
            found.arrays, training_arrays(model), strict=True
        ):
            np.testing.assert_array_equal(array, expected)


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


DTYPES = ["float64", "int8", "complex64", "bool", "U4", "S8", "M8[s]", "V3"]
DTYPES += ["f4,f4", ">f4", "float32"]


@st.composite
def damaged_member(draw, name, content):
    """A member of the archive whose checksum will be right."""
    array = np.load(io.BytesIO(content))
    if not draw(st.integers(0, 3)):
        return draw(damaged_bytes(content))
    if not name[0].isdigit():
        text = draw(damaged_json(array.tobytes()))
        return saved(np.frombuffer(text, np.uint8))
    shapes = [array.shape, (0,), (2, 2), (1, *array.shape), array.shape[:-1]]
    shape, dtype = draw(st.sampled_from(shapes)), draw(st.sampled_from(DTYPES))
    return saved(np.zeros(shape, dtype))


@FUZZ
@hypothesis.given(data=st.data())
def test_a_checkpoint_that_somebody_wrote_is_used_wholly_or_refused(
    two_runs, model, tmp_path_factory, data
):
    folder = tmp_path_factory.mktemp("written")
    put_all(folder, two_runs[0])
    [path] = folder.glob(f"checkpoints/step-{STEP}.*.npz")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    texts = st.sampled_from(["about.npy", "state.npy"])
    name = data.draw(texts | st.sampled_from([*members]))
    how = data.draw(st.sampled_from(["gone", "renamed", *["other"] * 4]))
    member = members.pop(name)
    if how == "renamed":
        members[data.draw(st.sampled_from(["x", "7", *members]))] = member
    elif how == "other":
        members[name] = data.draw(damaged_member(name, member))
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    try:
        with soon():
            found = goes_on(folder, model)
    except ValueError as error:
        check_sentence(printable(str(error)), "checkpoint")
        return
    assert found.step in (STEP, STEP // 2)
    assert [(a.shape, a.dtype) for a in found.arrays] == [
        (a.shape, a.dtype) for a in training_arrays(model)
    ]
    with open(folder / "history.csv", newline="") as file:
        written = [row["epoch"] for row in csv.DictReader(file)]
    rows = found.state.get("HistoryFile", {"rows": []})["rows"]
    assert [str(row["epoch"]) for row in rows] == written


@pytest.mark.parametrize("stranger", STRANGERS)
def test_what_lies_in_a_checkpoints_place_hinders_no_later_one(
    tmp_path, stranger
):
    folder = CheckpointFolder(str(tmp_path), keep=1)
    put(tmp_path / "step-9.run.npz", stranger)
    with soon():
        assert folder.newest() is None
        for step in (3, 6):
            folder.save(step, [], {})
        assert CheckpointFolder(str(tmp_path)).newest().step == 6
