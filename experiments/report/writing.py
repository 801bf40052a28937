"""The files of a report: its text, its figures, and both for TensorBoard."""

import dataclasses
import errno
import glob
import os
import tempfile

from experiments.report.comparison import (
    differing_keys,
    ngd_comparisons,
    scaling_comparisons,
    svag_comparisons,
    without_repeated,
)
from experiments.report.figures import save_curves
from experiments.report.ngd import ngd_section, ngd_study
from experiments.report.runs import find_runs
from experiments.report.scaling import (
    save_scaling,
    scaling_section,
    scaling_study,
)
from experiments.report.svag import save_convergence, svag_section, svag_study
from keras_svag.callbacks.markdown import escaped


def write_report(workdir, output=None):
    """Writes the report on the runs below a folder.

    Args:
        workdir: Folder of the runs.
        output: Folder for `report.md`, `figures/` and TensorBoard's events;
            `workdir` if None.

    All of it is written, or nothing.

    Returns:
        Path of `report.md`.

    Raises:
        ValueError: If there are no runs to compare, or `output` cannot be
            written.
    """
    output = workdir if output is None else output
    found, unfinished = find_runs(workdir)
    runs, repeated = without_repeated(found)
    studies = _studies(runs)
    if not any(map(len, studies.values())):
        raise ValueError(_why_incomparable(workdir, runs))
    head = _head(workdir, runs, unfinished, repeated, studies)
    try:
        os.makedirs(output, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".report-", dir=output) as new:
            _write(new, head, studies)
            _replace(output, new)
    except OSError as error:
        raise ValueError(
            f"The report cannot be written to {output!r} "
            f"({error.strerror or error}); give another --output."
        ) from error
    return os.path.join(output, "report.md")


def _write(folder, head, studies):
    os.makedirs(os.path.join(folder, "figures"))
    sections = _sections(studies, folder)
    with open(os.path.join(folder, "report.md"), "w", encoding="utf-8") as file:
        file.write(_markdown(head, sections))
    pictures = {
        f"report/{name.removesuffix('.png')}": os.path.join(
            folder, "figures", name
        )
        for section in sections
        for name in section.figures
    }
    text = _markdown(head, sections, with_figures=False)
    write_summaries(os.path.join(folder, "report"), text, pictures)


def _replace(output, new):
    """Moves a report to its place; TensorBoard would show old events too."""
    old_events = os.path.join(
        glob.escape(output), "report", "events.out.tfevents.*"
    )
    for events in glob.glob(old_events):
        os.remove(events)
    for folder, _, names in os.walk(new):
        place = os.path.join(output, os.path.relpath(folder, new))
        os.makedirs(place, exist_ok=True)
        for name in names:
            os.replace(os.path.join(folder, name), os.path.join(place, name))


def _studies(runs):
    """`{kind: comparisons}`."""
    converged = [run for run in runs if not run.diverged]
    return {
        "svag": svag_comparisons(converged),
        "scaling": scaling_comparisons(runs),
        "ngd": ngd_comparisons(converged),
    }


def _why_incomparable(workdir, runs):
    differing = differing_keys(runs)
    if set(differing) <= {"seed"}:
        why = "they have one configuration, apart from the seed"
    else:
        why = f"they differ in {', '.join(differing)}"
    return (
        f"The {len(runs)} runs in {workdir!r} cannot be compared ({why}): runs "
        "must differ, beside the seed, in ell alone, in batch_size with "
        "learning_rate in proportion, or in being NGD or SGD."
    )


def _sections(studies, output):
    sections = []
    runs = [run for group in studies.values() for c in group for run in c.runs]
    varied = differing_keys(runs)

    def add(section, comparison):
        own = ", ".join(
            f"{escaped(key)} = {escaped(comparison.common[key])}"
            for key in varied
            if key in comparison.common and key != "seed"
        )
        title = f"{section.title}: {own}" if own else section.title
        sections.append(dataclasses.replace(section, title=title))

    def figure(kind, index, what):
        name = f"{kind}-{index}-{what}.png"
        return name, os.path.join(output, "figures", name)

    for index, comparison in enumerate(studies["svag"], 1):
        study = svag_study(comparison)
        curves, curves_path = figure("svag", index, "curves")
        convergence, convergence_path = figure("svag", index, "convergence")
        save_curves(curves_path, comparison, "ell = {}")
        save_convergence(convergence_path, study)
        add(svag_section(study, (curves, convergence)), comparison)
    for index, comparison in enumerate(studies["scaling"], 1):
        study = scaling_study(comparison)
        name, path = figure("scaling", index, "batch-sizes")
        save_scaling(path, study)
        add(scaling_section(study, (name,)), comparison)
    for index, comparison in enumerate(studies["ngd"], 1):
        study = ngd_study(comparison)
        name, path = figure("ngd", index, "curves")
        save_curves(path, comparison, "{}")
        add(ngd_section(study, (name,)), comparison)
    return sections


def _head(workdir, runs, unfinished, repeated, studies):
    diverged = [run.name for run in runs if run.diverged]
    compared = {
        run.name
        for comparisons in studies.values()
        for comparison in comparisons
        for run in comparison.runs
    }
    alone = [
        run for run in runs if run.name not in compared and not run.diverged
    ]
    finished = len(runs) - len(diverged)
    lines = [
        f"# Report on {escaped(workdir)}",
        f"{finished} finished runs are compared, as far as they can be.",
    ]
    if unfinished:
        lines.append(f"Left out, because unfinished: {_names(unfinished)}.")
    if repeated:
        lines.append(
            "Left out, because another run has the same configuration and "
            f"seed: {_names(run.name for run in repeated)}."
        )
    if diverged:
        lines.append(
            f"Stopped at a loss that was not finite: {_names(diverged)}. They "
            "count in a study of linear scaling, with a test error of 1, and "
            "are left out of the others."
        )
    if alone:
        keys = ", ".join(map(escaped, differing_keys(runs)))
        lines.append(
            "Left out, because nothing is comparable with them: "
            f"{_names(run.name for run in alone)} (all runs together differ "
            f"in {keys})."
        )
    return lines


def _names(names):
    return ", ".join(map(escaped, names))


def _markdown(head, sections, with_figures=True):
    blocks = list(head)
    for section in sections:
        blocks += [f"## {section.title}", *section.paragraphs]
        if with_figures:
            for name, caption in section.figures.items():
                blocks += [f"![{caption}](figures/{name})", f"*{caption}*"]
        blocks += section.details
    return "\n\n".join(blocks) + "\n"


def write_summaries(log_dir, text, pictures):
    """Writes a text and pictures to a file of events.

    Args:
        log_dir: Directory for it, without other events.
        text: Markdown.
        pictures: `{tag: PNG file}`.

    Raises:
        OSError: If it cannot be written whole.
    """
    # Whoever wants the numbers alone need not wait for it.
    import tensorflow as tf

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
