"""A report for TensorBoard."""

import glob
import os


def write_summaries(log_dir, text, pictures):
    """Writes a text and pictures; those written before are replaced.

    Args:
        log_dir: Directory for the file of events.
        text: Markdown.
        pictures: `{tag: PNG file}`.
    """
    # Whoever wants the numbers alone need not wait for it.
    import tensorflow as tf

    for events in glob.glob(
        os.path.join(glob.escape(log_dir), "events.out.tfevents.*")
    ):
        os.remove(events)
    writer = tf.summary.create_file_writer(log_dir)
    with writer.as_default(step=0):
        tf.summary.text("report", text)
        for tag, path in pictures.items():
            with open(path, "rb") as file:
                picture = tf.io.decode_png(file.read(), channels=3)
            tf.summary.image(tag, picture[None])
    writer.close()
