"""What happens inside the process of one run: its log, its parent's death, its end. Light until a run is trained."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from repro import folder
from repro.interrupt import Interrupted
from repro.record import SHARED


def work(directory: str, devices: int, shared: bool) -> None:
    """Train the run in `directory`, writing everything that is printed to its log; ends the process.

    `shared`: other runs use the same device meanwhile, so its speed is no measurement and is marked.
    """
    if shared:
        os.environ[SHARED] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's: it ends its runs itself
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _write_to_log(Path(directory) / folder.LOG)
    status = _several(directory) if devices > 1 else _single(Path(directory))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _single(directory: Path) -> int:
    import traceback

    from repro.train import train

    try:
        train(folder.read_config(directory / folder.CONFIG), directory)
    except folder.AlreadyRunningError:
        return folder.BUSY
    except Interrupted as saved:
        print(saved)
        return folder.INTERRUPTED
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _several(directory: str) -> int:
    """Train on several devices in a fresh interpreter, whose command Lightning's DDP re-executes for each rank."""
    command = [sys.executable, "-m", "repro.train", directory, "--die-with-parent"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    return process.wait()  # the pipe stays open meanwhile: its closing tells the ranks that we have died


def _write_to_log(path: Path) -> None:
    """Send standard output and error, of this process and its children, to the end of the run's log."""
    sys.stdout.flush()
    sys.stderr.flush()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
