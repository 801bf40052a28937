import math
import os
import pathlib
import re

import pytest
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing import event_accumulator

from experiments.process.own_files import replaced
from experiments.report import writing
from experiments.report.__main__ import main
from experiments.report.writing import write_report
from tests.helpers.contents import contents_of
from tests.helpers.full_disk import full_disk
from tests.helpers.synthetic_runs import (
    estimate,
    write_run,
    write_scaling_sweep,
    write_svag_sweep,
)


def report_on(folder, **kwargs):
    return pathlib.Path(write_report(str(folder), **kwargs)).read_text("utf-8")


def failure(folder, *arguments):
    with pytest.raises(SystemExit) as failed:
        main([str(folder), *arguments])
    message = str(failed.value)
    assert message.startswith("experiments.report: ")
    assert "\n" not in message
    return message


def write_ngd_and_sgd(folder, report=False):
    for optimizer in ("ngd", "sgd"):
        for seed in (0, 1):
            name = f"optimizer={optimizer},seed={seed}"
            write_run(folder / name, optimizer=optimizer, seed=seed)
    if report:
        write_report(str(folder))


@pytest.fixture(scope="module")
def all_studies(tmp_path_factory):
    """A folder with three kinds of sweep and others, and its report."""
    folder = tmp_path_factory.mktemp("runs")
    write_svag_sweep(folder / "svag", ells=(1, 2), num_seeds=2)
    write_scaling_sweep(folder / "lsr", {8: 0.1, 32: 0.1, 128: 0.4, 512: None})
    write_ngd_and_sgd(folder / "ngd")
    write_run(folder / "begun", finished=False, seed=9)
    write_run(folder / "other", optimizer="adam")
    apart = {"optimizer": "adam", "seed": 1, "finished": False}
    write_run(folder / "apart", losses=[1.0, math.nan], **apart)
    write_run(folder / "twin", optimizer="ngd", seed=0)
    write_run(folder / "bad*", optimizer="ngd", seed=7, batch_size=0)
    return folder, report_on(folder)


def test_each_study_has_its_section_and_its_figures(all_studies):
    folder, text = all_studies
    headings = re.findall(r"^## (\w+)", text, re.MULTILINE)
    assert headings == ["SVAG", "Linear", "NGD"]
    assert text.count("In common: ") == text.count("Runs: ") == 3
    names = re.findall(r"\]\((figures/[\w.-]+)\)", text)
    assert len(names) == 5
    for name in names:
        with Image.open(folder / name) as picture:
            assert picture.width >= 800


def test_what_is_left_out_is_named_with_the_reason(all_studies):
    _, text = all_studies
    for words in (
        r"because unfinished: begun\.",
        r"not finite: apart, lsr/batch\\_size=512,seed=0, lsr/batch\\_size=512",
        r"\(2 diverged\)",
        r"nothing is comparable with them: other \(",
        r"the same configuration and seed: twin\.",
        r"\n- bad\\\*: .*config\.json cannot be used .*got 0\)",
        r"## NGD(.|\n)*; 2 to 4 seeds\.",
    ):
        assert re.search(words, text), words


def test_tensorboard_gets_the_same_text_and_pictures(all_studies):
    folder, _ = all_studies
    # Written twice, and there once.
    written = report_on(folder)
    events = event_accumulator.EventAccumulator(
        str(folder / "report"), size_guidance={"tensors": 0}
    )
    events.Reload()
    tags = events.Tags()["tensors"]
    assert sum("/" in tag for tag in tags) == 5
    [text] = events.Tensors("report")
    shown = tf.make_ndarray(text.tensor_proto).item().decode()
    assert all(line in written for line in shown.splitlines())
    assert "| ell |" in shown and "figures/" not in shown


def test_of_many_comparisons_the_first_are_drawn(tmp_path):
    for rate in (0.1, 0.2, 0.4):
        for ell in (1, 2):
            write_run(tmp_path / f"{rate}-{ell}", ell=ell, learning_rate=rate)
    text = report_on(tmp_path, most_drawn=1)
    title = r"SVAG and SGD: learning\\_rate = (0\.\d)"
    for form in (rf"^## {title}$", rf"^\| {title} \| The SDE.*\|$"):
        assert re.findall(form, text, re.M) == ["0.1", "0.2", "0.4"]
    assert len(re.findall(r"\]\(figures/", text)) == 2
    assert len(os.listdir(tmp_path / "figures")) == 2
    assert "for the first 1 of 3 comparisons" in text


def test_a_comparison_without_sense_leaves_the_others(tmp_path):
    write_ngd_and_sgd(tmp_path / "ngd")
    for ell in (1, 2):
        for seed in (0, 1):
            # Seeds whose N is stated at different batch sizes.
            noise = estimate(0.3, 1.5, batch_size=16 + seed)
            folder = tmp_path / f"{ell}-{seed}"
            write_run(folder, noise=noise, ell=ell, seed=seed, dataset="mnist")
    text = report_on(tmp_path, most_drawn=0)
    assert "## NGD and SGD" in text and "## SVAG" not in text
    assert "numbers do not go together (\\`estimates\\` must be" in text
    assert "1-0, 1-1, 2-0, 2-1." in text


@pytest.mark.parametrize(
    ("runs", "says"),
    [
        (None, "WORKDIR must be a folder of runs"),
        ([], "WORKDIR must hold runs of train.py"),
        ([{"finished": False}] * 2, "is finished (0, 1)"),
        (
            [{}, {"ell": 2, "sampling": "shuffle"}],
            "they differ in ell, sampling)",
        ),
        ([{}, {"seed": 1}], "have one configuration, apart from the seed"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(tmp_path, runs, says):
    for number, run in enumerate(runs or []):
        write_run(tmp_path / str(number), **run)
    before = contents_of(tmp_path)
    assert says in failure(tmp_path if runs is not None else tmp_path / "none")
    assert contents_of(tmp_path) == before


@pytest.mark.parametrize("name", ["file", "file/x", "link", "link/x"])
def test_an_output_that_cannot_be_written_is_found_before_runs_are_read(
    tmp_path, monkeypatch, name
):
    write_ngd_and_sgd(tmp_path / "runs")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    monkeypatch.setattr(writing, "find_runs", None)
    message = failure(tmp_path / "runs", "--output", str(tmp_path / name))
    assert "The report cannot be written to" in message
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "runs"]


def test_a_report_that_fails_leaves_the_one_before(tmp_path):
    write_ngd_and_sgd(tmp_path, report=True)
    before = contents_of(tmp_path)
    # Events are larger, and written first.
    with full_disk(60_000):
        assert "cannot be written" in failure(tmp_path)
    assert contents_of(tmp_path) == before


@pytest.mark.parametrize("moved", [1, 2])
def test_a_report_that_is_killed_leaves_what_the_next_one_knows(
    tmp_path, monkeypatch, moved
):
    write_ngd_and_sgd(tmp_path, report=True)
    write_run(tmp_path / "third", optimizer="ngd", seed=2)
    replace, done = os.replace, []

    def killed(*paths):
        if len(done) == moved:
            raise KeyboardInterrupt
        done.append(replace(*paths))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        write_report(str(tmp_path))
    assert "third" in report_on(tmp_path, most_drawn=0)


def test_a_report_replaces_the_one_before_and_nothing_else(tmp_path):
    write_svag_sweep(tmp_path / "svag", ells=(1, 2), num_seeds=2)
    write_ngd_and_sgd(tmp_path / "ngd")
    write_report(str(tmp_path))
    hers = [
        tmp_path / name
        for name in ("figures/hers.png", "report/hers.txt", "notes.md")
    ]
    for path in hers:
        path.write_text("hers")
    (tmp_path / "ngd").rename(tmp_path.parent / "away")
    old = contents_of(tmp_path)
    write_report(str(tmp_path))
    new = contents_of(tmp_path)
    gone = {os.path.basename(path) for path in old.keys() - new.keys()}
    assert len(gone) == 2
    assert all(name.startswith(("ngd-", "events.")) for name in gone)
    assert len(new.keys() - old.keys()) == 1
    assert [path.read_text() for path in hers] == ["hers"] * 3


@pytest.mark.parametrize("is_first", [True, False])
def test_what_a_killed_report_left_is_removed(tmp_path, is_first):
    write_ngd_and_sgd(tmp_path, report=not is_first)
    for name in ("report.md", "figures/a.png", "report/events"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        half = replaced(str(tmp_path / name)).__enter__()
        pathlib.Path(half).write_text("half")
    report_on(tmp_path, most_drawn=0)
    assert not [*tmp_path.rglob("*.partial*")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("report.md", "hers"),
        ("figures/*.png", "hers"),
        ("report/*", "hers"),
        ("figures", "hers"),
        (".report.json", "hers"),
        (".report.json", "{}"),
        (".report.json", '{"written": {"../hers": ["x"]}}'),
    ],
)
def test_what_was_changed_since_is_kept(tmp_path, name, content):
    runs, hers = tmp_path / "runs", tmp_path / "hers"
    write_ngd_and_sgd(runs, report=True)
    changed = next(runs.glob(name))
    changed.rename(hers)
    changed.write_text(content)
    before = contents_of(tmp_path)
    assert f"{changed} is not as a report has written it" in failure(runs)
    assert contents_of(tmp_path) == before
