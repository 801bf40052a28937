import contextlib
import json
import os
import shutil
import weakref

from keras_svag.version import __version__

try:
    import fcntl
except ImportError:
    fcntl = None  # Windows, where nothing keeps two processes apart.


class WorkDir:
    """The directory of one run: its configuration, its results.

    Nothing is written before `begin`, from which on the directory is this
    process's. `results.json` is written last: a run that has it is finished.

    Args:
        path: the directory.
        config: dict of JSON values, the run's configuration.

    Raises:
        ValueError: if the directory holds a run of another configuration.
    """

    def __init__(self, path, config):
        self.path = path
        self._config = json.loads(
            json.dumps({**config, "version": __version__})
        )
        self._refuse_other_run()

    def begin(self, keep_events=False):
        """Makes the directory, takes hold of it and writes `config.json`.

        Args:
            keep_events: whether what an unfinished run left there of its
                events stays, because it goes on.

        Raises:
            ValueError: if the directory cannot be written, or another process
                writes to it.
        """
        try:
            os.makedirs(self.path, exist_ok=True)
            self._lock()
            self._write_json("config.json", self._config)
        except OSError as error:
            raise ValueError(
                f"The working directory {self.path!r} cannot be written "
                f"({error.strerror}); give another --workdir."
            ) from error
        if keep_events:
            return
        for name in ("train", "validation", "linear_scaling"):
            shutil.rmtree(self.file(name), ignore_errors=True)

    def file(self, name):
        """Path of a file in the directory."""
        return os.path.join(self.path, name)

    @property
    def results(self):
        """Results of the finished run, a dict, or `None`."""
        return self._read_json("results.json")

    @results.setter
    def results(self, results):
        try:
            self._write_json("results.json", results)
        except OSError as error:
            raise ValueError(
                f"The results cannot be written to {self.path!r} "
                f"({error.strerror}); make room there and start the same "
                "command again."
            ) from error

    def _lock(self):
        # The lock ends with the process, also if that is killed.
        if fcntl is None:
            return
        directory = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, directory)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                "Another process is writing to the working directory "
                f"{self.path!r}; wait for its end, or give another --workdir."
            ) from None
        except OSError:
            pass  # A file system without locks.

    def _refuse_other_run(self):
        other = self._read_json("config.json")
        if other is None:
            return
        differing = sorted(
            key
            for key in {*self._config, *other} - {"version"}
            if self._config.get(key) != other.get(key)
        )
        if differing:
            raise ValueError(
                f"The working directory {self.path!r} holds a run with another "
                f"configuration (it differs in {', '.join(differing)}); give "
                "another --workdir, or remove it."
            )

    def _read_json(self, name):
        try:
            with open(self.file(name), encoding="utf-8") as file:
                content = json.load(file)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{self.file(name)} is no valid JSON ({error}); remove it."
            ) from error
        if not isinstance(content, dict):
            raise ValueError(
                f"{self.file(name)} must hold a JSON object, got "
                f"{content!r:.100}; remove it."
            )
        return content

    def _write_json(self, name, value):
        # Written whole or not at all.
        partial = self.file(f".{name}.partial")
        try:
            with open(partial, "w", encoding="utf-8") as file:
                json.dump(value, file, indent=2)
                file.write("\n")
            os.replace(partial, self.file(name))
        except BaseException:
            with contextlib.suppress(OSError):
                os.remove(partial)
            raise
