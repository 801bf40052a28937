"""Whatever lies in a run's folder is refused in a sentence or read rightly."""

import contextlib
import copy
import csv
import io
import json
import math
import os
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
from experiments.report import writing
from experiments.report.runs import find_runs
from experiments.run_folder import CHECKSUM, WorkDir, configuration_checksum
from keras_svag import SVAG, ScalingRuleCheck, SVAGModel
from tests.helpers.small_problems import dense_network
from tests.helpers.synthetic_runs import estimate, window, write_run

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

NUMBERS = [0, -1, 0.5, 2**63, 10**400, 1e308, 5e-324, math.inf, math.nan]
OTHERS = [None, True, "", "x", "1", "\ud800", [], {}, [1], {"x": {"x": []}}]
DEPTHS = [30, 400, 900, 100_000]
CELLS = ["", "x", "NA", "nan", "inf", "-1", "0.5", "1e308", "1" * 400, "0x1"]
CELLS += ["1_0", " 1", '"', "\0", "\n", "1,2", "é", "٣", "x" * 140_000]
BYTES = [b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\n", b'"', b","]
BYTES += [b"[", b"}", b"-", b"9" * 5000, b"e999"]


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


# What may lie at a path that is no file with content.
STRANGERS = {
    "a folder": os.mkdir,
    "a pipe": os.mkfifo,
    "a broken link": lambda path: os.symlink("nowhere", path),
    "a link to itself": lambda path: os.symlink(path, path),
}


def clear(path):
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.remove(path)


def put(path, content):
    """Bytes, or one of the strangers by its name."""
    clear(path)
    if content in STRANGERS:
        STRANGERS[content](path)
    else:
        with open(path, "wb") as file:
            file.write(content)


def positions(content):
    return st.integers(0, max(len(content) - 1, 0))


@st.composite
def damaged_bytes(draw, content):
    first, last = sorted((draw(positions(content)), draw(positions(content))))
    bit = 1 << draw(st.integers(0, 7))
    before, part, after = content[:first], content[first:last], content[last:]
    return draw(
        st.sampled_from(
            [
                before,
                after,
                before + after,
                before + part + part + after,
                before + draw(st.sampled_from(BYTES)) + part + after,
                before + bytes([after[0] ^ bit]) + after[1:],
                before + bytes(len(part)) + after,
                b"",
            ]
        )
    )


def paths(value, path=()):
    """Where the values of a value of JSON are."""
    yield path
    items = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, part in items:
        yield from paths(part, (*path, key))


@st.composite
def damaged_value(draw, value):
    """A text of JSON in which one value is another, gone or there twice."""
    value = copy.deepcopy(value)
    known = list(paths(value))
    # What lies deep has no more weight than what does not.
    depth = draw(st.sampled_from(sorted({len(path) for path in known})))
    path = draw(st.sampled_from([p for p in known if len(p) == depth]))
    hows = ["other", "other", "other", "deep", "gone", "twice", "renamed"]
    how = draw(st.sampled_from(hows))
    deep = draw(st.sampled_from(DEPTHS))
    new = "<deep>"
    if how == "other":
        new = draw(st.sampled_from(NUMBERS) | st.sampled_from(OTHERS))
    if not path:
        value = new
    else:
        *above, key = path
        parent = value
        for step in above:
            parent = parent[step]
        if how == "gone":
            del parent[key]
        elif how == "renamed" and isinstance(parent, dict):
            parent[f"{key}\n"] = parent.pop(key)
        elif how == "twice" and isinstance(parent, list):
            parent.insert(key, parent[key])
        elif how in ("other", "deep"):
            parent[key] = new
    text = json.dumps(value)
    if how == "twice":
        # A key that is there twice; the last one counts.
        text = text.replace("{", '{"x": 1, "x": 2, ', 1)
    opened, closed = draw(st.sampled_from([("[", "]"), ('{"a":', "}")]))
    deepest = opened * deep + "1" + closed * deep
    return text.replace('"<deep>"', deepest).encode()


@st.composite
def damaged_csv(draw, content):
    rows = list(csv.reader(io.StringIO(content.decode())))
    row = draw(st.integers(0, len(rows) - 1))
    cell = draw(st.integers(0, len(rows[row]) - 1))
    how = draw(
        st.sampled_from(["cell", "gone", "short", "twice", "column", "empty"])
    )
    if how == "cell":
        rows[row][cell] = draw(st.sampled_from(CELLS))
    elif how == "gone":
        del rows[row]
    elif how == "short":
        del rows[row][cell:]
    elif how == "twice":
        rows.insert(row, rows[row])
    elif how == "column":
        for one in rows:
            del one[cell]
    elif how == "empty":
        rows[row] = []
    return "".join(",".join(row) + "\n" for row in rows).encode()


def damaged_file(content, damaged_text):
    """What may become of a file with this content, a text."""
    return st.one_of(
        damaged_text,
        damaged_text,
        damaged_bytes(content),
        st.sampled_from([*STRANGERS, content.decode().encode("utf-16")]),
    )


def damaged_json(content):
    return damaged_file(content, damaged_value(json.loads(content)))


def assert_sentence(error, *names):
    message = str(error)
    assert all(str(name) in message for name in names), message
    assert len(message) < 600, message[:2000]
    assert message.endswith("."), message


# The report of a run, and a sweep's look at it.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    noise = estimate(0.3, 1.5)
    earlier = [window(noise, 20.0, 0.4), window(noise, 21.0, 0.3)]
    write_run(folder, noise=noise, earlier=earlier)
    return folder


def history_of(path):
    """Columns of a file of CSV as a program of a user would read them."""
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = [row for row in csv.reader(file)]
    rows = [row for row in rows if row]
    columns = zip(header, zip(*rows, strict=True), strict=True)
    return {
        name: [math.nan if c in ("NA", "") else float(c) for c in cells]
        for name, cells in columns
    }


def assert_as_in_its_files(one, run):
    config = json.loads((run / "config.json").read_bytes())
    history = history_of(run / "history.csv")
    if one.results:
        results = json.loads((run / "results.json").read_bytes())
        assert results.pop(CHECKSUM) == configuration_checksum(config)
        assert repr(one.results) == repr(results)
        assert math.isfinite(one.accuracy)
        assert max(one.epochs) < 2**53
        for window in (one.final_window, one.window_before_decay):
            assert window is None or math.isfinite(window.learning_rate)
    for key, value in config.items():
        if not isinstance(value, (dict, list)):
            assert repr(one.config[key]) == repr(value)
    assert one.history.keys() == history.keys()
    for column, numbers in history.items():
        np.testing.assert_array_equal(one.history[column], numbers)


# A folder of runs, of which one is damaged in several ways at a time.


@st.composite
def damages(draw, contents, others):
    """Some of the files of a folder with what becomes of them.

    Args:
        contents: `{name: bytes}`, the files of the folder.
        others: `{name: bytes}`, the same ones of another folder.
    """
    names = draw(
        st.lists(
            st.sampled_from([*contents]), min_size=1, max_size=3, unique=True
        )
    )
    found = {}
    for name in names:
        whole = contents[name]
        if name.endswith(".npz"):
            damaged = damaged_bytes(whole) | st.sampled_from([*STRANGERS])
        elif name.endswith(".csv"):
            damaged = damaged_file(whole, damaged_csv(whole))
        else:
            damaged = damaged_json(whole)
        how = draw(st.sampled_from(["damaged", "damaged", "gone", "another's"]))
        if how == "damaged":
            found[name] = draw(damaged)
        else:
            found[name] = None if how == "gone" else others[name]
    return found


@contextlib.contextmanager
def damaged_folder(path, drawn):
    """Damages several files of a folder, which is whole again in the end."""
    for name, content in drawn.items():
        clear(path / name)
        if content is not None:
            put(path / name, content)
    with soon():
        yield


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write_files(folder, contents):
    clear(folder)
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def sections_of(folder):
    """Of a report its sections, without a head that lists the runs."""
    output = folder.parent / "report"
    with open(writing.write_report(str(folder), str(output), 0)) as file:
        head, *sections = file.read().split("\n## ")
    return head, sections


@pytest.fixture(scope="module")
def sweep(run, tmp_path_factory):
    """Four runs that are compared, beside which the damaged one lies."""
    folder = tmp_path_factory.mktemp("sweep") / "sweep"
    for ell in (1, 2):
        for seed in (0, 1):
            write_run(
                folder / f"{ell}-{seed}",
                noise=estimate(0.3 * ell + 0.01 * seed, 1.5),
                dataset="cifar10",
                ell=ell,
                seed=seed,
            )
    with pytest.MonkeyPatch.context() as patch:
        # It has the same text, and takes ten times as long.
        patch.setattr(writing, "write_summaries", lambda *args: None)
        _, sections = sections_of(folder)
        assert len(sections) == 1
        yield folder, sections


@FUZZ
@hypothesis.given(data=st.data())
def test_a_report_loses_no_run_beside_a_damaged_one(run, sweep, data):
    folder, expected = sweep
    contents = files_of(run)
    write_files(folder / "bad", contents)
    others = files_of(folder / "2-1")
    with damaged_folder(folder / "bad", data.draw(damages(contents, others))):
        runs, unfinished, unusable = find_runs(str(folder))
        head, sections = sections_of(folder)
        for one in runs:
            assert_as_in_its_files(one, folder / one.name)
    [sentence] = unusable.values() or [""]
    assert not sentence or sentence.endswith("."), sentence
    assert len(sentence) < 600, sentence
    names = [one.name for one in runs]
    assert names[:4] == ["1-0", "1-1", "2-0", "2-1"]
    # A copy of a run of the sweep is one that is repeated.
    assert sections == expected
    assert "bad" not in [*names, *unfinished, *unusable] or "bad" in head


# A run that goes on from its folder.

RESULTS = {
    "accuracy": 0.9,
    "gradient_noise": estimate(0.3, 1.5).to_dict(),
    "linear_scaling": {"text": "linear", "first_epoch": 3, "last_epoch": 4},
}
SETTINGS = {"ell": 4, "window": "x", "model": {"units": [8, 8]}}
STEP = 6
ROWS = [
    {"epoch": epoch, "loss": 1 / 3, "val_loss": math.nan} for epoch in (0, 1)
]


def state_of_check():
    check = ScalingRuleCheck()
    for step in (1, 2, 3):
        check.series.append(
            step=step,
            epoch=1,
            iteration=step - 1,
            learning_rate=0.1,
            rows=16,
            weight_sq_norm=20.0,
            grad_sq_norm=0.3,
            example_noise=24.0,
        )
    return check.state_dict()


def states():
    """What train.py's callbacks leave in a checkpoint."""
    return {
        "HistoryFile": {"rows": ROWS},
        "ScalingRuleCheck": state_of_check(),
        "TrainingClock": {"learning_rate": 0.1},
    }


@pytest.fixture(scope="module")
def model():
    model = SVAGModel(dense_network(2, 1, units=2))
    model.compile(SVAG(0.1), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture(scope="module")
def begun(tmp_path_factory, model):
    """A folder of a run with two checkpoints, of steps 3 and 6."""
    with pytest.MonkeyPatch.context() as patch:
        # The traceback of an example that failed holds its lock.
        patch.setattr(run_folder, "lock", lambda _: os.open(os.devnull, 0))
        folder = tmp_path_factory.mktemp("begun")
        begin(folder, training_arrays(model))
        yield folder


def begin(folder, arrays, settings=SETTINGS):
    workdir = WorkDir(str(folder), settings)
    workdir.begin()
    (folder / "history.csv").write_text("epoch,loss\n0,2\n")
    workdir.checkpoints.about["surroundings"] = {"replicas": 1}
    for step in (STEP // 2, STEP):
        workdir.checkpoints.save(step, arrays, states())
    return workdir


@pytest.fixture(scope="module")
def two_runs(begun, model, tmp_path_factory):
    """Files of two finished runs by their names in the first one."""
    found = []
    for ell in (SETTINGS["ell"], 8):
        folder = tmp_path_factory.mktemp("finished")
        arrays = [array + ell for array in training_arrays(model)]
        settings = SETTINGS | {"ell": ell}
        workdir = begin(folder, arrays, settings)
        workdir.results = RESULTS
        run = configuration_checksum(settings)
        found.append(
            {n.replace(run, "{}"): c for n, c in files_of(folder).items()}
        )
    run = configuration_checksum(SETTINGS)
    return [{n.format(run): c for n, c in files.items()} for files in found]


def goes_on(folder, model):
    """Resumes as train.py does; returns the `Checkpoint`, or None."""
    workdir = WorkDir(str(folder), SETTINGS)
    found = workdir.begin()
    if found is None:
        return None
    fingerprint.changes(found.about.get("surroundings"), {"replicas": 1})
    restore_training_arrays(model, found)
    restore_callbacks(model, found, workdir.file("history.csv"))
    return found


def restore_callbacks(model, checkpoint, history_file):
    """Restores them in the order of a training."""
    check = ScalingRuleCheck(scale_invariant=False, verbose=0)
    check.set_model(model)
    check.set_params({"epochs": 2, "steps": 3})
    check.on_train_begin()
    history = HistoryFile(history_file)
    history.on_train_begin()
    checkpoint.restore([TrainingClock(), history, check])
    return history, check


def test_what_is_whole_is_read(run, begun, model, tmp_path):
    assert [one.name for one in find_runs(str(run.parent))[0]] == ["run"]
    found = goes_on(begun, model)
    assert found.step == STEP
    history, check = restore_callbacks(model, found, str(tmp_path / "x.csv"))
    assert repr(history.state_dict()) == repr({"rows": ROWS})
    assert check.state_dict() == state_of_check()


@FUZZ
@hypothesis.given(data=st.data())
def test_a_damaged_folder_goes_on_rightly_or_not_at_all(
    begun, two_runs, model, data
):
    folder = begun.parent / "damaged"
    write_files(folder, two_runs[0])
    drawn = data.draw(damages(*two_runs))
    with damaged_folder(folder, drawn):
        before = files_of(folder)
        try:
            results = WorkDir(str(folder), SETTINGS).results
            found = goes_on(folder, model)
        except ValueError as error:
            assert_sentence(error)
            # A run that is refused keeps all that it has.
            after = files_of(folder)
            own = {"config.json", "history.csv"}
            assert {n: after[n] for n in after if n not in own} == {
                n: before[n] for n in before if n not in own
            }
            return
    if results is not None:
        content = json.loads(before["results.json"])
        assert content.pop(CHECKSUM) and repr(results) == repr(content)
    after = files_of(folder)
    for name in before:
        if name != "history.csv" and not name.endswith("config.json"):
            assert after[name] == before[name]
    assert json.loads(after["config.json"])["ell"] == SETTINGS["ell"]
    if found is not None:
        assert repr(found.state) == repr(states())
        for array, expected in zip(
            found.arrays, training_arrays(model), strict=True
        ):
            np.testing.assert_array_equal(array, expected)


def members_of(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


DTYPES = ["float64", "int8", "complex64", "bool", "U4", "S8", "M8[s]", "V3"]
DTYPES += ["f4,f4", ">f4"]


@st.composite
def damaged_member(draw, name, content):
    """A member of the archive whose checksum will be right."""
    array = np.load(io.BytesIO(content))
    how = draw(st.sampled_from(["bytes", "values", "values", "values"]))
    if how == "bytes":
        return draw(damaged_bytes(content))
    if not name[0].isdigit():
        text = draw(damaged_value(json.loads(array.tobytes())))
        return saved(np.frombuffer(text, np.uint8))
    if draw(st.booleans()):
        return saved(np.zeros(array.shape, draw(st.sampled_from(DTYPES))))
    shapes = [(), (0,), (2, 2), (1, *array.shape), array.shape[:-1]]
    return saved(np.zeros(draw(st.sampled_from(shapes)), array.dtype))


@FUZZ
@hypothesis.given(data=st.data())
def test_a_checkpoint_that_somebody_wrote_is_used_wholly_or_refused(
    begun, model, data
):
    [path] = begun.glob(f"checkpoints/step-{STEP}.*.npz")
    content = path.read_bytes()
    expected = [(a.shape, a.dtype) for a in training_arrays(model)]
    members = members_of(content)
    texts = ["about.npy", "state.npy"]
    name = data.draw(st.sampled_from(texts) | st.sampled_from([*members]))
    how = data.draw(st.sampled_from(["gone", "renamed", *["other"] * 4]))
    member = members.pop(name)
    if how == "renamed":
        members[data.draw(st.sampled_from(["x", "7", *members]))] = member
    elif how == "other":
        members[name] = data.draw(damaged_member(name, member))
    put(path, archive_of(members))
    try:
        with soon():
            found = goes_on(begun, model)
    except ValueError as error:
        assert_sentence(error, "checkpoint")
        return
    finally:
        put(path, content)
    assert found.step in (STEP, STEP // 2)
    assert [(a.shape, a.dtype) for a in found.arrays] == expected
    rows = found.state.get("HistoryFile", {"rows": []})["rows"]
    with open(begun / "history.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert [str(row["epoch"]) for row in rows] == [r["epoch"] for r in written]


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
