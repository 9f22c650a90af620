"""Ray for as long as a launch takes: joined where a cluster runs, else started on this machine for nobody but us."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from repro import environment
from repro.errors import InputError

STORE = 100 * 2**20  # bytes of Ray's object store, which holds an exit status for each run
PATIENCE = 10.0  # seconds that a cluster has to answer
LONGEST_SOCKET = 107  # characters of the path of a Unix socket
SESSION = 64  # of them that Ray adds to its folder


@contextmanager
def connected(address: str | None, own_gpus: int) -> Iterator[Any]:
    """Start Ray on this machine, or join a cluster; leave it at the end, which ends a Ray that was started.

    Raises:
        InputError: no cluster answers at the address, or Ray cannot be started here.
    """
    quiet = {"RAY_USAGE_STATS_ENABLED": "0"}
    variables = quiet if address else {**quiet, **_private()}
    with _variables(variables), _kept_handler(), _scratch() as scratch:
        import ray

        # An error of a worker's is told by us; by Ray it is a paragraph in the midst of the display.
        ray._private.worker._worker_logs_enabled = False
        _check_answers(address)
        shared: dict[str, Any] = {"logging_level": "CRITICAL", "log_to_driver": False}
        alone = {"num_cpus": environment.cores(), "num_gpus": own_gpus, "include_dashboard": False,
                 "object_store_memory": STORE, "_temp_dir": scratch}  # fmt: skip
        try:
            ray.init(**shared, **(alone if address is None else {"address": address}))
        except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
            ray.shutdown()
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            where = (
                "Ray cannot be started here"
                if address is None
                else f"launcher.address={address}: no Ray cluster answers there"
            )
            raise InputError(f"{where} ({reason})") from None
        try:
            yield ray
        finally:
            ray.shutdown()


def _check_answers(address: str | None) -> None:
    """Raise InputError where nothing listens at `HOST:PORT`: Ray would go on trying for minutes."""
    host, colon, port = (address or "").rpartition("://")[2].rpartition(":")
    if not (colon and port.isdigit()):
        return  # nothing, `auto`, or a name that Ray looks up
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"launcher.address={address}: no Ray cluster answers there ({reason})") from None


@contextmanager
def _kept_handler() -> Iterator[None]:
    """Put the handler of SIGTERM back that Ray takes over for good."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _private() -> dict[str, str]:
    """Variables of a Ray that nobody else shall reach: it listens on the loopback interface, and asks for a token."""
    return {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _token()}


@cache
def _token() -> str:
    return secrets.token_hex(32)


@contextmanager
def _variables(wanted: dict[str, str]) -> Iterator[None]:
    """Set what the user has not set, for as long as Ray runs; its processes inherit it."""
    own = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)


@contextmanager
def _scratch() -> Iterator[str]:
    """Make a folder of our own for Ray's sockets and logs, which nobody reads; in /tmp where paths get too long."""
    name = len("/repro-ray-12345678") + SESSION
    base = tempfile.gettempdir()
    path = tempfile.mkdtemp(prefix="repro-ray-", dir=base if len(base) + name <= LONGEST_SOCKET else "/tmp")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
