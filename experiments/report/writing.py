"""The files of a report: its text, its figures, and both for TensorBoard."""

import contextlib
import dataclasses
import errno
import glob
import hashlib
import json
import os
import re
import shutil
import tempfile

import tensorflow as tf

from experiments.process.own_files import (
    foreign,
    remove_partial,
    replaced,
)
from experiments.process.streams import visible
from experiments.report.batch_sizes_section import (
    LINEAR_SCALING,
    SQUARE_ROOT_SCALING,
)
from experiments.report.growth import GROWING_BATCHES
from experiments.report.ngd import NGD_AND_SGD
from experiments.report.runs import find_runs
from experiments.report.seeds import differing_keys, without_repeated
from experiments.report.svag import SVAG_AND_SGD
from keras_svag.reporting.blocks import Line, Table
from keras_svag.reporting.markdown import escaped

# Drawing takes a second for each, and a page of more is not looked through.
MOST_COMPARISONS_DRAWN = 20

# In the order of their sections.
STUDIES = (
    SVAG_AND_SGD,
    LINEAR_SCALING,
    SQUARE_ROOT_SCALING,
    NGD_AND_SGD,
    GROWING_BATCHES,
)

# The file that says what a report has written: `{name: [checksum]}`.
_MANIFEST = ".report.json"
_AS_WRITTEN = "as a report has written it"
_FOLDERS = ("figures", "report")
_NAME = re.compile(rf"report\.md|({'|'.join(_FOLDERS)})/[^/]+")


def write_report(workdir, output=None, most_drawn=MOST_COMPARISONS_DRAWN):
    """Writes the report on the runs below a folder.

    A run of which a file cannot be used is left out, and listed with the
    reason. All of the report is written, or nothing. It takes the place of an
    earlier one whose files are as they were written, and of nothing else.

    Args:
        workdir: Folder of the runs.
        output: Folder for `report.md`, `figures/` and TensorBoard's events;
            `workdir` if None.
        most_drawn: How many comparisons get figures; those after them have
            their text alone, and a table over all begins the report.

    Returns:
        Path of `report.md`.

    Raises:
        ValueError: If there are no runs to compare, `output` cannot be
            written, or a file that no report has written is in its place.
    """
    output = workdir if output is None else output
    with _writing_to(output):
        # What can be known is known before the runs are read.
        _check_writable(output)
        _clear(output)
        _written_before(output)
    found, unfinished, unusable = find_runs(workdir)
    runs, repeated = without_repeated(found)
    converged = [run for run in runs if not run.diverged]
    studies = {
        kind: kind.comparisons(runs if kind.counts_diverged else converged)
        for kind in STUDIES
    }
    compared = [c for found in studies.values() for c in found]
    if not compared:
        raise ValueError(_why_incomparable(workdir, runs, unusable))
    compared = [run for comparison in compared for run in comparison.runs]
    head = [*_head(runs, unfinished, unusable, repeated, compared)]
    sections, inconsistent = _sections(studies, differing_keys(compared))
    head += inconsistent
    if len(sections) > most_drawn:
        head += _overview(sections, most_drawn)
        sections[most_drawn:] = [
            dataclasses.replace(section, figures={})
            for section in sections[most_drawn:]
        ]
    with _writing_to(output), tempfile.TemporaryDirectory() as new:
        _write(new, f"Report on {workdir}", head, sections)
        _replace(output, new)
    return os.path.join(output, "report.md")


@contextlib.contextmanager
def _writing_to(output):
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"The report cannot be written to {output!r} "
            f"({error.strerror or error}); give another --output."
        ) from error


def _check_writable(output):
    """Raises an `OSError` if nothing can be written to a folder to be."""
    folder = os.path.abspath(output)
    while True:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(folder)
            break
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _write(folder, title, head, sections):
    os.makedirs(os.path.join(folder, "figures"))
    pictures = {}
    for section in sections:
        for name, (_, save) in section.figures.items():
            path = os.path.join(folder, "figures", f"{name}.png")
            save(path)
            pictures[f"report/{name}"] = path
    with open(os.path.join(folder, "report.md"), "w", encoding="utf-8") as file:
        file.write(_markdown(title, head, sections))
    text = _markdown(title, head, sections, with_figures=False)
    write_summaries(os.path.join(folder, "report"), text, pictures)


def _clear(output):
    """Removes what a report that was killed left unfinished."""
    for folder in (os.path.join(output, name) for name in (*_FOLDERS, "")):
        with contextlib.suppress(OSError):
            if remove_partial(folder):
                os.rmdir(folder)


def _replace(output, new):
    """Moves a report to its place; TensorBoard would show old events too."""
    names = [
        os.path.relpath(os.path.join(folder, name), new)
        for folder, _, files in os.walk(new)
        for name in files
    ]
    with open(os.path.join(new, _MANIFEST), "w", encoding="utf-8") as file:
        sums = {name: [_checksum(os.path.join(new, name))] for name in names}
        json.dump({"written": sums}, file, indent=2)
    before = _written_before(output, names)
    for name in names:
        os.makedirs(os.path.dirname(os.path.join(output, name)), exist_ok=True)
    # What is entered last gets its place first: a process that is killed
    # leaves no file that the manifest does not tell of.
    with contextlib.ExitStack() as places:
        for name in (*names, _MANIFEST):
            place = replaced(os.path.join(output, name))
            shutil.copyfile(
                os.path.join(new, name), places.enter_context(place)
            )
        for name in before:
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(output, name))


def _written_before(output, names=()):
    """Checksums of what an earlier report wrote, `{name: [checksum]}`.

    Args:
        output: Folder of the report.
        names: Names of the files that are to be written.

    Raises:
        ValueError: If something that it did not write is in the way.
    """
    written = _read_manifest(os.path.join(output, _MANIFEST))
    for name in sorted({"report.md", *_FOLDERS, *written, *names}):
        path = os.path.join(output, name)
        is_folder = os.path.isdir(path) and not os.path.islink(path)
        if not os.path.lexists(path) or (
            written and name in _FOLDERS and is_folder
        ):
            continue
        if _checksum(path) not in written.get(name, ()):
            raise foreign(path, _AS_WRITTEN, "--output")
    return written


def _read_manifest(path):
    if not os.path.lexists(path):
        return {}
    if os.path.isfile(path) and not os.path.islink(path):
        with contextlib.suppress(OSError, LookupError, TypeError, ValueError):
            with open(path, encoding="utf-8") as file:
                written = json.load(file)["written"]
            if all(map(_NAME.fullmatch, written)):
                return {name: list(sums) for name, sums in written.items()}
    raise foreign(path, _AS_WRITTEN, "--output")


def _checksum(path):
    """That of a file's content; None if it is no file, or a link."""
    if os.path.islink(path) or not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return None


def _why_incomparable(workdir, runs, unusable):
    differing = differing_keys(runs)
    if set(differing) <= {"seed"}:
        why = "they have one configuration, apart from the seed"
    else:
        why = f"they differ in {', '.join(differing)}"
    *others, last = (f"in {kind.differ_in}" for kind in STUDIES)
    also = f"; {len(unusable)} more cannot be used" if unusable else ""
    return (
        f"The {len(runs)} runs in {workdir!r} cannot be compared ({why}"
        f"{also}): runs must differ, beside the seed, {', '.join(others)}, or "
        f"{last}."
    )


def _sections(studies, varied):
    """The `Section`s, and blocks on comparisons that have none.

    Keys that `varied` tell studies of a kind apart.
    """
    sections, inconsistent = [], []
    for kind, comparisons in studies.items():
        for index, comparison in enumerate(comparisons, 1):
            try:
                section = kind.section(comparison)
            except (ArithmeticError, ValueError) as error:
                # Each number alone was possible.
                names = _names(run.name for run in comparison.runs)
                inconsistent.append(
                    Line(
                        "Not compared, because their numbers do not go "
                        f"together ({error}): {names}."
                    )
                )
                continue
            own = ", ".join(
                f"{key} = {comparison.common[key]}"
                for key in varied
                if key in comparison.common and key != "seed"
            )
            title = f"{section.title}: {own}" if own else section.title
            figures = {
                f"{kind.name}-{index}-{what}": figure
                for what, figure in section.figures.items()
            }
            sections.append(
                dataclasses.replace(section, title=title, figures=figures)
            )
    return sections, inconsistent


def _overview(sections, num_drawn):
    """What all sections find, a row each."""
    return [
        Line(
            f"Figures are drawn for the first {num_drawn} of {len(sections)} "
            "comparisons; --figures takes another number."
        ),
        Table(
            "All comparisons",
            ("comparison", "what it finds"),
            tuple((s.title, s.blocks[0].text) for s in sections),
        ),
    ]


def _head(runs, unfinished, unusable, repeated, compared):
    diverged = [run.name for run in runs if run.diverged]
    names = {run.name for run in compared}
    alone = [run for run in runs if run.name not in names and not run.diverged]
    yield Line(
        f"{len(runs) - len(diverged)} finished runs are compared, as far as "
        "they can be."
    )
    if unfinished:
        yield Line(f"Left out, because unfinished: {_names(unfinished)}.")
    if unusable:
        yield Line(
            "Left out, because a file cannot be used:",
            tuple(f"{name}: {reason}" for name, reason in unusable.items()),
        )
    if repeated:
        yield Line(
            "Left out, because another run has the same configuration and "
            f"seed: {_names(run.name for run in repeated)}."
        )
    if diverged:
        yield Line(
            f"Stopped at a loss that was not finite: {_names(diverged)}. They "
            "count in studies of the batch size, with a test accuracy of 0, "
            "and of its growth, and are left out of the others."
        )
    if alone:
        keys = ", ".join(differing_keys(runs))
        yield Line(
            "Left out, because nothing is comparable with them: "
            f"{_names(run.name for run in alone)} (all runs together differ "
            f"in {keys})."
        )


_names = ", ".join


def _markdown(title, head, sections, with_figures=True):
    parts = [f"# {escaped(title)}", *(block.to_markdown() for block in head)]
    for section in sections:
        parts.append(f"## {escaped(section.title)}")
        parts += [block.to_markdown() for block in section.blocks]
        for name, (caption, _) in (
            section.figures.items() if with_figures else ()
        ):
            caption = escaped(caption)
            parts.append(f"![{caption}](figures/{name}.png)")
            parts.append(f"*{caption}*")
        parts += [Line(text).to_markdown() for text in section.details]
    return visible("\n\n".join(parts) + "\n")


def write_summaries(log_dir, text, pictures):
    """Writes a text and pictures to a file of events.

    Args:
        log_dir: Directory for it, without other events.
        text: Markdown.
        pictures: `{tag: PNG file}`.

    Raises:
        OSError: If it cannot be written whole.
    """
    try:
        writer = tf.summary.create_file_writer(log_dir)
        with writer.as_default(step=0):
            tf.summary.text("report", text)
            for tag, path in pictures.items():
                with open(path, "rb") as file:
                    picture = tf.io.decode_png(file.read(), channels=3)
                tf.summary.image(tag, picture[None])
        writer.close()
        [events] = glob.glob(
            os.path.join(glob.escape(log_dir), "events.out.tfevents.*")
        )
        # The writer does not tell that a disk was full. The first event is
        # the version of the format.
        written = sum(1 for _ in tf.data.TFRecordDataset(events))
        is_whole = written == 2 + len(pictures)
    except tf.errors.OpError:
        is_whole = False
    if not is_whole:
        raise OSError(errno.EIO, "TensorBoard's events are not whole", log_dir)
