"""A report for TensorBoard."""

import errno
import glob
import os


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
