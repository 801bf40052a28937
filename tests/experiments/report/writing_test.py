import errno
import itertools
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
from tests.helpers.synthetic_runs import (
    estimate,
    write_run,
    write_scaling_sweep,
    write_svag_sweep,
)


def report_on(folder, **kwargs):
    with open(write_report(str(folder), **kwargs), encoding="utf-8") as file:
        return file.read()


def write_ngd_and_sgd(folder):
    for optimizer in ("ngd", "sgd"):
        for seed in (0, 1):
            write_run(
                folder / f"optimizer={optimizer},seed={seed}",
                accuracy=0.8 + 0.01 * seed,
                optimizer=optimizer,
                seed=seed,
            )


@pytest.fixture(scope="module")
def all_studies(tmp_path_factory):
    """A folder with three kinds of sweep and others, reported on."""
    folder = tmp_path_factory.mktemp("runs")
    write_svag_sweep(folder / "svag", ells=(1, 2), seeds=(0, 1))
    write_scaling_sweep(folder / "lsr", {8: 0.1, 32: 0.1, 128: 0.4, 512: None})
    write_ngd_and_sgd(folder / "ngd")
    write_run(folder / "begun", finished=False, seed=9)
    write_run(folder / "other", optimizer="adam")
    write_run(folder / "twin", optimizer="ngd", seed=0)
    write_run(folder / "bad*", optimizer="ngd", seed=7, batch_size=0)
    write_report(str(folder))
    return folder


def test_each_study_has_its_section_and_its_figures(all_studies):
    text = (all_studies / "report.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (\w+)", text, re.MULTILINE)
    assert headings == ["SVAG", "Linear", "NGD"]
    assert text.count("In common: ") == text.count("Runs: ") == 3
    names = re.findall(r"\]\((figures/[\w.-]+)\)", text)
    assert len(names) == 5
    for name in names:
        with Image.open(all_studies / name) as picture:
            assert picture.width >= 800


def test_what_is_left_out_is_named_with_the_reason(all_studies):
    text = (all_studies / "report.md").read_text(encoding="utf-8")
    assert "Left out, because unfinished: begun." in text
    stopped = re.search(r"loss that was not finite: (.*?)\. They", text)[1]
    assert stopped.count("batch\\_size=512") == 2
    assert "(2 diverged)" in text
    assert "nothing is comparable with them: other (" in text
    assert "the same configuration and seed: twin." in text
    [line] = re.findall(r"^- bad\\\*: (.*)$", text, re.MULTILINE)
    assert "config.json cannot be used" in line and "got 0)" in line
    [ngd] = re.findall("^## NGD.*", text, re.MULTILINE | re.DOTALL)
    assert "; 2 seeds." in ngd


def test_tensorboard_gets_the_same_text_and_pictures(all_studies):
    write_report(str(all_studies))
    events = event_accumulator.EventAccumulator(
        str(all_studies / "report"), size_guidance={"tensors": 0}
    )
    events.Reload()
    tags = events.Tags()["tensors"]
    assert sum("figure" in tag or "/" in tag for tag in tags) == 5
    # Written twice, and there once.
    [text] = events.Tensors("report")
    shown = tf.make_ndarray(text.tensor_proto).item().decode()
    written = (all_studies / "report.md").read_text(encoding="utf-8")
    for line in shown.splitlines():
        assert line in written
    assert "| ell |" in shown and "figures/" not in shown


def test_of_many_comparisons_the_first_are_drawn(tmp_path):
    for rate in (0.1, 0.2, 0.4):
        for ell in (1, 2):
            write_run(tmp_path / f"{rate}-{ell}", ell=ell, learning_rate=rate)
    text = report_on(tmp_path, most_drawn=1)
    title = r"^## SVAG and SGD: learning\\_rate = (.*)$"
    titles = re.findall(title, text, re.MULTILINE)
    assert titles == ["0.1", "0.2", "0.4"]
    assert len(re.findall(r"\]\(figures/", text)) == 2
    assert len(os.listdir(tmp_path / "figures")) == 2
    assert "for the first 1 of 3 comparisons" in text
    rows = re.findall(
        r"^\| SVAG and SGD: (.*) \| The SDE.*\|$", text, re.MULTILINE
    )
    assert [row[-3:] for row in rows] == ["0.1", "0.2", "0.4"]


def test_a_comparison_without_sense_leaves_the_others(tmp_path):
    write_ngd_and_sgd(tmp_path / "ngd")
    for ell in (1, 2):
        for seed in (0, 1):
            # Seeds whose N is stated at different batch sizes.
            noise = estimate(0.3, 1.5, batch_size=16 + seed)
            folder = tmp_path / f"{ell}-{seed}"
            write_run(folder, noise=noise, ell=ell, seed=seed, dataset="mnist")
    text = report_on(tmp_path)
    assert "## NGD and SGD" in text and "## SVAG" not in text
    assert "numbers do not go together (\\`estimates\\` must be" in text
    assert "1-0, 1-1, 2-0, 2-1." in text


def failure(folder, *arguments):
    with pytest.raises(SystemExit) as failed:
        main([str(folder), *arguments])
    message = str(failed.value)
    assert message.startswith("experiments.report: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "other, says",
    [
        ({"ell": 2, "sampling": "shuffle"}, "they differ in ell, sampling)"),
        ({"seed": 1}, "have one configuration, apart from the seed"),
    ],
)
def test_runs_that_cannot_be_compared_are_told_by_their_keys(
    tmp_path, other, says
):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", **other)
    assert says in failure(tmp_path)


def test_bad_folders_are_one_sentence(tmp_path):
    assert "WORKDIR must be a folder of runs" in failure(tmp_path / "none")
    assert "WORKDIR must hold runs of train.py" in failure(tmp_path)
    for name in ("a", "b"):
        write_run(tmp_path / name, finished=False)
    assert "is finished (a, b)" in failure(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("name", ["file", "file/x", "link", "x" * 300, "ours"])
def test_an_output_that_cannot_be_written_is_found_before_runs_are_read(
    tmp_path, monkeypatch, name
):
    write_ngd_and_sgd(tmp_path / "runs")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "ours").mkdir()
    # As of another user's folder; root may write to any.
    monkeypatch.setattr(os, "access", lambda path, _: path == str(tmp_path))
    monkeypatch.setattr(writing, "find_runs", None)
    message = failure(tmp_path / "runs", "--output", str(tmp_path / name))
    assert "The report cannot be written to" in message
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "ours", "runs"]


def test_a_report_that_fails_leaves_the_one_before(tmp_path, monkeypatch):
    write_ngd_and_sgd(tmp_path)
    text = report_on(tmp_path)
    files = sorted(tmp_path.rglob("*"))

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing, "write_summaries", fail)
    assert "No space left" in failure(tmp_path)
    assert sorted(tmp_path.rglob("*")) == files
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == text


def snapshot(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_report_replaces_the_one_before_and_nothing_else(tmp_path):
    write_svag_sweep(tmp_path / "svag", ells=(1, 2), seeds=(0, 1))
    write_ngd_and_sgd(tmp_path / "ngd")
    write_report(str(tmp_path))
    old = snapshot(tmp_path)
    for name in ("figures/hers.png", "report/hers.txt", "notes.md"):
        (tmp_path / name).write_text("hers")
    (tmp_path / "ngd").rename(tmp_path.parent / "away")
    write_report(str(tmp_path))
    gone = {p for p in old if p.exists() is False and "ngd/" not in str(p)}
    assert {p.parent.name for p in gone} == {"figures", "report"}
    assert all("ngd-" in p.name or "tfevents" in p.name for p in gone)
    for name in ("figures/hers.png", "report/hers.txt", "notes.md"):
        assert (tmp_path / name).read_text() == "hers"


@pytest.mark.parametrize("is_first", [True, False])
def test_what_a_killed_report_left_is_removed(tmp_path, is_first):
    write_ngd_and_sgd(tmp_path)
    if not is_first:
        write_report(str(tmp_path))
    places = []
    for name in ("report.md", "figures/a.png", "report/events"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        places.append(replaced(str(tmp_path / name)))
        pathlib.Path(places[-1].__enter__()).write_text("half")
    write_report(str(tmp_path))
    assert not [*tmp_path.rglob("*.partial*")]


def test_what_was_changed_since_is_kept(tmp_path):
    runs = tmp_path / "runs"
    write_ngd_and_sgd(runs)
    write_report(str(runs))
    names = ("report.md", "figures/*.png", "report/*")
    for name, is_link in itertools.product(names, (False, True)):
        changed = next(runs.glob(name))
        whole = changed.read_bytes()
        if is_link:
            changed.rename(tmp_path / "hers")
            changed.symlink_to(tmp_path / "hers")
        else:
            changed.write_text("hers")
        before = snapshot(tmp_path)
        assert f"{changed} is not as a report has written it" in failure(runs)
        assert changed.is_symlink() == is_link
        assert snapshot(tmp_path) == before
        changed.unlink()
        changed.write_bytes(whole)


@pytest.mark.parametrize(
    "content", ["hers", "{}", '{"written": {"../hers": ["x"]}}']
)
def test_a_list_of_files_that_no_report_wrote_is_kept(tmp_path, content):
    write_ngd_and_sgd(tmp_path)
    (tmp_path / ".report.json").write_text(content)
    assert ".report.json is not as a report has" in failure(tmp_path)
    assert (tmp_path / ".report.json").read_text() == content
