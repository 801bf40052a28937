"""What a report says, and its files: text, figures, both for TensorBoard."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import tempfile

import tensorflow as tf

from experiments.process.own_files import foreign, remove_partial, replaced
from experiments.process.streams import visible
from experiments.report.growth import GrowthStudy
from experiments.report.linear_scaling import LinearScaling
from experiments.report.ngd import NGDStudy
from experiments.report.runs import find_runs
from experiments.report.seeds import differing_keys, first_of_each, setting
from experiments.report.square_root_scaling import SquareRootScaling
from experiments.report.svag import SVAGStudy
from keras_svag.reporting.blocks import Line, Table
from keras_svag.reporting.markdown import escaped

# Drawing takes a second for each, and a page of more is not looked through.
MOST_COMPARISONS_DRAWN = 20

# In the order of their sections.
STUDIES = (SVAGStudy, LinearScaling, SquareRootScaling, NGDStudy, GrowthStudy)

# The file that says what a report has written: `{name: [checksum]}`.
_MANIFEST = ".report.json"
_OURS = "as a report has written it"
_FOLDERS = ("figures", "report")
_NAME = re.compile(rf"report\.md|({'|'.join(_FOLDERS)})/[^/]+")

_names = ", ".join


def write_report(workdir, output=None, most_drawn=MOST_COMPARISONS_DRAWN):
    """Writes the report on the runs below a folder; returns its path.

    A run of which a file cannot be used is left out, and listed with the
    reason. All of the report is written, or nothing, to the folder `output` or
    that of the runs. It takes the place of an earlier one whose files are as
    they were written, and of nothing else. The first comparisons get figures,
    at most `most_drawn`; if there are more, a table over all begins the report.

    Raises:
        ValueError: If there are no runs to compare, `output` cannot be
            written, or a file that no report has written is in its place.
    """
    output = workdir if output is None else output
    with _writing_to(output):
        # What can be known is known before the runs are read.
        _prepare(output)
    found, unfinished, unusable = find_runs(workdir)
    # A second run of the same configuration and seed is no second sample.
    runs = first_of_each(found, lambda run: (setting(run), run.config["seed"]))
    possible = [
        (f"{kind.name}-{index}", study)
        for kind in STUDIES
        for index, study in enumerate(kind.studies(runs), 1)
    ]
    compared = [run for _, study in possible for run in study.runs]
    if not compared:
        raise ValueError(_why_incomparable(workdir, runs, unusable))
    head = _head(found, unfinished, unusable, runs, compared)
    varied, studies = differing_keys(compared), []
    for name, study in possible:
        try:
            study.make(varied, name if len(studies) < most_drawn else None)
            studies.append(study)
        except Exception as error:
            # Each number alone was possible.
            names = _names(run.name for run in study.runs)
            why = f"their numbers do not go together ({error}): {names}"
            head.append(Line(f"Not compared, because {why}."))
    if len(studies) > most_drawn:
        head += _overview(studies, most_drawn)
    head.insert(0, f"# {escaped(f'Report on {workdir}')}")
    files = {
        f"figures/{name}.png": content
        for study in studies
        for name, (_, content) in study.pictures.items()
    }
    files["report.md"] = _markdown(head, studies).encode()
    with _writing_to(output):
        name, events = events_file(_markdown(head, studies, False), files)
        _replace(output, {**files, f"report/{name}": events})
    return os.path.join(output, "report.md")


@contextlib.contextmanager
def _writing_to(output):
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise ValueError(
            f"The report cannot be written to {output!r} "
            f"({getattr(error, 'strerror', None) or error}); give another "
            "--output."
        ) from error


def _why_incomparable(workdir, runs, unusable):
    differing = differing_keys(runs)
    why = f"they differ in {_names(differing)}"
    if set(differing) <= {"seed"}:
        why = "they have one configuration, apart from the seed"
    if unusable:
        why += f"; {len(unusable)} more cannot be used"
    *others, last = (f"in {kind.differ_in}" for kind in STUDIES)
    return (
        f"The {len(runs)} runs in {workdir!r} cannot be compared ({why}): "
        f"runs must differ, beside the seed, {_names(others)}, or {last}."
    )


def _head(found, unfinished, unusable, runs, compared):
    """Which runs are compared and which are not, a `Line` each."""
    diverged = [run.name for run in runs if run.diverged]
    repeated = [run.name for run in found if run not in runs]
    names = {run.name for run in compared}.union(diverged)
    alone = [run.name for run in runs if run.name not in names]
    reasons = tuple(f"{name}: {reason}" for name, reason in unusable.items())
    lines = {
        f"{len(runs) - len(diverged)} finished runs are compared, as far as "
        "they can be.": True,
        f"Left out, because unfinished: {_names(unfinished)}.": unfinished,
        "Left out, because a file cannot be used:": unusable,
        "Left out, because another run has the same configuration and seed: "
        f"{_names(repeated)}.": repeated,
        f"Stopped at a loss that was not finite: {_names(diverged)}. They "
        "count in studies of the batch size, with a test accuracy of 0, and of "
        "its growth, and are left out of the others.": diverged,
        f"Left out, because nothing is comparable with them: {_names(alone)} "
        f"(all runs together differ in {_names(differing_keys(runs))})."
        "": alone,
    }
    return [
        Line(text, reasons if about is unusable else ())
        for text, about in lines.items()
        if about
    ]


def _overview(studies, num_drawn):
    """What all find, a row each."""
    yield Line(
        f"Figures are drawn for the first {num_drawn} of {len(studies)} "
        "comparisons; --figures takes another number."
    )
    rows = tuple((study.heading, study.blocks[0].text) for study in studies)
    yield Table("All comparisons", ("comparison", "what it finds"), rows)


def _markdown(head, studies, with_figures=True):
    parts = [*head]
    for study in studies:
        parts += [f"## {escaped(study.heading)}", *study.blocks]
        for name, (caption, _) in study.pictures.items():
            if with_figures:
                caption = escaped(caption)
                parts.append(f"![{caption}](figures/{name}.png)")
                parts.append(f"*{caption}*")
        parts += map(Line, study.details)
    texts = (p if isinstance(p, str) else p.to_markdown() for p in parts)
    return visible("\n\n".join(texts) + "\n")


def events_file(text, files):
    """`(name, bytes)` of TensorBoard's events, with Markdown and PNG files."""
    pictures = {n: f for n, f in files.items() if n.endswith(".png")}
    with tempfile.TemporaryDirectory() as folder:
        writer = tf.summary.create_file_writer(folder)
        with writer.as_default(step=0):
            tf.summary.text("report", text)
            for name, content in pictures.items():
                image = tf.io.decode_png(content, channels=3)[None]
                tf.summary.image(f"report/{pathlib.Path(name).stem}", image)
        writer.close()
        [path] = pathlib.Path(folder).iterdir()
        # The writer does not tell that a disk was full. The first event is the
        # version of the format.
        count = sum(1 for _ in tf.data.TFRecordDataset(str(path)))
        if count != 2 + len(pictures):
            raise OSError("TensorBoard's events are not whole")
        return path.name, path.read_bytes()


def _prepare(output):
    """Finds out whether a folder takes a report, and rids it of half a one."""
    folder = os.path.abspath(output)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    with tempfile.TemporaryFile(dir=folder):
        pass
    for folder in (os.path.join(output, name) for name in (*_FOLDERS, "")):
        with contextlib.suppress(OSError):
            if remove_partial(folder):
                os.rmdir(folder)
    _written_before(output)


def _replace(output, files):
    """Writes `{name: bytes}`, all or none, in place of an earlier report."""
    before = _written_before(output, files)
    # Which of two is there is not known where a report was killed.
    sums = {
        name: [*before.get(name, [])[-1:], _checksum(content)]
        for name, content in files.items()
    }
    manifest = json.dumps({"written": sums}, indent=2).encode()
    for folder in _FOLDERS:
        os.makedirs(os.path.join(output, folder), exist_ok=True)
    with contextlib.ExitStack() as places:
        # What is entered last gets its place first.
        for name, content in {**files, _MANIFEST: manifest}.items():
            place = replaced(os.path.join(output, name))
            with open(places.enter_context(place), "xb") as file:
                file.write(content)
        for name in before.keys() - files.keys():
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(output, name))


def _written_before(output, names=()):
    """`{name: checksums}` of the files of an earlier report.

    A `ValueError` tells what else is in their place, or that of the names.
    """
    written = _read_manifest(os.path.join(output, _MANIFEST))
    for name in sorted({"report.md", *_FOLDERS, *written, *names}):
        path = os.path.join(output, name)
        if written and name in _FOLDERS and os.path.isdir(path):
            continue
        if os.path.lexists(path):
            with contextlib.suppress(OSError), open(path, "rb") as file:
                if _checksum(file.read()) in written.get(name, ()):
                    continue
            raise foreign(path, _OURS, "--output")
    return written


def _read_manifest(path):
    if not os.path.lexists(path):
        return {}
    with contextlib.suppress(OSError, LookupError, TypeError, ValueError):
        with open(path, encoding="utf-8") as file:
            written = json.load(file)["written"]
        if all(map(_NAME.fullmatch, written)):
            return {name: [*sums] for name, sums in written.items()}
    raise foreign(path, _OURS, "--output")


def _checksum(content):
    return hashlib.sha256(content).hexdigest()
