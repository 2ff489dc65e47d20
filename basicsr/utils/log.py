"""Logging to the screen and a file, and the frame around an entry point: a user's mistake is one sentence and exit code 2."""

import contextlib
import errno
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from basicsr.errors import UserError, printable
from basicsr.utils.files import NO_ROOM, writing

logger = logging.getLogger("basicsr")


class _AboveProgressBars(logging.Handler):
    """Writes above the progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        tqdm.write(prefix + _harmless(self.format(record)), file=sys.stdout)
        sys.stdout.flush()


def _harmless(text: str) -> str:
    """Without what would steer a terminal, as names of files can."""
    return "\n".join(map(printable, text.split("\n")))


class _LogFile(logging.FileHandler):
    """Gives up when it cannot be written: the work may be worth more than its log."""

    def handleError(self, record: logging.LogRecord) -> None:
        reason = sys.exc_info()[1]
        if not isinstance(reason, OSError):
            return super().handleError(record)
        logger.removeHandler(self)
        with contextlib.suppress(OSError):
            self.close()
        logger.warning("%s: cannot be written (%s); what follows is on the screen alone.", self.baseFilename, reason)
        return None


def setup_logging() -> None:
    """Messages of the toolbox, and Python's warnings, go to standard output; details (level DEBUG) to the log file alone."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of files may hold bytes in no encoding
    screen = _AboveProgressBars()
    screen.setLevel(logging.INFO)
    logger.handlers = [screen]
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    # TensorBoard's thread raises what the disk refuses in the main thread as well, where it becomes a sentence.
    threading.excepthook = lambda args: issubclass(args.exc_type, OSError) or threading.__excepthook__(args)
    warnings.showwarning = lambda message, *_args, **_kwargs: logger.warning("%s", message)


def log_to_file(path: Path) -> None:
    """Also write messages to a file, with the time."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s: %(message)s"))
    logger.addHandler(handler)


def set_aside(*folders: Path) -> list[Path]:
    """Rename the folders of an earlier run of the same name, all alike, so that runs do not mix; returns the new names."""
    ending = f"_archived_{time.strftime('%Y%m%d_%H%M%S')}"
    while any(folder.with_name(folder.name + ending).exists() for folder in folders):  # two runs within a second
        ending += "_"
    moved = [folder for folder in folders if folder.exists()]
    for folder in moved:
        with writing(folder.parent):
            folder.rename(folder.with_name(folder.name + ending))
    return [folder.with_name(folder.name + ending) for folder in moved]


def run_entry_point(main: Callable[[], int | None]) -> int:
    """Exit code of `main`: 2 for a UserError, printed as one sentence; 130 for Ctrl-C; 141 when nobody reads its output."""
    setup_logging()
    try:
        code = _with_error_file(main)() or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        rank = os.environ.get("RANK", "0")
        print(f"error{f' (process {rank})' if rank != '0' else ''}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        return 130
    except BrokenPipeError:  # `tlc ... | head` has seen enough
        _close_output()
        return 141
    except OSError as error:
        if error.errno in NO_ROOM:  # all else that is written says it by its name
            _close_output()
            print(f"error: standard output: cannot be written ({error.strerror}); make room there.", file=sys.stderr)  # noqa: T201
            return 2
        if error.strerror is None:
            raise
        logger.debug("The system refused.", exc_info=error)
        sentence = f"{'' if error.filename is None else f'{error.filename}: '}{error.strerror}; mend that and run it again."
        if error.errno in (errno.EMFILE, errno.ENFILE):
            advice = "raise `ulimit -n`, or lower num_worker_per_gpu"
            sentence = f"this process has as many open files as the system allows; {advice}."
        print(f"error: {printable(sentence)}", file=sys.stderr)  # noqa: T201
        return 2


def _close_output() -> None:
    """What Python still writes at its end goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _with_error_file(main: Callable[[], int | None]) -> Callable[[], int | None]:
    """Under torchrun, an exception's traceback also goes to the file from which torchrun's last words quote it."""
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        return main
    from torch.distributed.elastic.multiprocessing.errors import record

    return record(main)
