"""SLURM's own commands, with a time-out and their refusals as one line. A controller that is silent is no failure."""

from __future__ import annotations

import shutil
import subprocess

TIMEOUT = 60.0  # seconds that a command may take; SLURM's own messages give up after 10 s, and try again


class RefusedError(Exception):
    """A command of SLURM ended with an error; its last line is the message."""


class SilentError(Exception):
    """SLURM's controller (or its accounting) does not answer; nothing is known of the jobs, and they may be well."""


_SILENT = (
    "unable to contact slurm controller", "timed out", "connection refused", "zero bytes were transmitted",
    "connection reset", "communication connection failure", "in standby mode", "unable to connect",
    "problem talking to the database", "invalid authentication credential", "resource temporarily unavailable",
)  # fmt: skip


def here() -> bool:
    """Whether this machine can speak to a SLURM cluster."""
    return shutil.which("squeue") is not None


def ask(*command: str, timeout: float = TIMEOUT) -> str:
    """Run a command and return what it prints.

    Raises:
        RefusedError: it ended with an error.
        SilentError: it took longer than `timeout` seconds, or says that it reaches no controller.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise SilentError(f"{command[0]} has not answered for {timeout:g} s") from None
    except OSError as error:
        raise SilentError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        message = refusal(done.stderr or done.stdout) or f"{command[0]} ended with exit status {done.returncode}"
        raise SilentError(message) if is_silence(message) else RefusedError(message)
    return done.stdout


def refusal(text: str) -> str:
    """Return what a command says is wrong, without its name: the last line that is an error, else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line] or lines
    return errors[-1].split("error:", 1)[-1].strip() if errors else ""


def is_silence(message: str) -> bool:
    """Whether an error says that nobody answers, and nothing of what was asked."""
    return any(phrase in message.lower() for phrase in _SILENT)
