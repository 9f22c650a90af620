"""Which W&B server is meant, whether there is a key for it, and whether it answers. Imports no wandb."""

from __future__ import annotations

import netrc
import os
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from repro.config import LoggerConfig
from repro.errors import InputError

PATIENCE = 2.5  # seconds that the question whether a server answers may take, names looked up included
NO_KEY = "no W&B key; set WANDB_API_KEY or run `wandb login`"


def wandb_mode(settings: LoggerConfig) -> str:
    """Resolve `mode=auto`: online when a key is known, offline by our own choice when there is none."""
    if settings.mode != "auto":
        return settings.mode
    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return "offline"
    return "online" if has_key() else "offline"


def has_key() -> bool:
    """Whether a key is in the environment or in the netrc file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    own = urlsplit(os.environ.get("WANDB_BASE_URL") or "").hostname
    return any(host == own or (own is None and "wandb" in host) for host in _netrc_hosts())


def _netrc_hosts() -> list[str]:
    named = os.environ.get("NETRC")
    files = [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for file in files:
        try:
            return list(netrc.netrc(file).hosts)
        except (OSError, netrc.NetrcParseError):
            continue
    return []


def unreachable(url: str, patience: float = PATIENCE) -> str | None:
    """Say why the server does not answer; null when it does, with whatever status.

    Takes at most `patience` seconds: the question is asked in a thread that is left behind where it hangs, as looking
    up a name may. Sends no key.
    """
    from repro.tracking.probe import ask

    answers: list[str | None] = []
    asking = threading.Thread(target=lambda: answers.append(ask(url, patience)), daemon=True)
    asking.start()
    asking.join(patience)
    return answers[0] if answers else f"no answer in {patience:g} s"


def base_url() -> str:
    """Address of the server, from the variable or from W&B's own settings; asked while no W&B run is going on.

    Raises:
        InputError: the address is none, or another setting of W&B's cannot be used.
    """
    module = import_wandb()
    try:
        return str(module.setup(module.Settings(silent=True)).settings.base_url)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise InputError(f"W&B's setting {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}") from None
    finally:
        module.teardown()


def import_wandb() -> Any:
    """Import wandb. Raises InputError where it is not installed or cannot be used."""
    try:
        import wandb
    except ImportError as error:
        raise InputError(f"wandb cannot be imported ({error}); pip install 'wandb>=0.31'") from None
    return wandb


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, else its name."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def require_server() -> str:
    """Return the server's address. Raises InputError in one line where there is no key, or no answer."""
    if not has_key():
        raise InputError(NO_KEY)
    url = base_url()
    reason = unreachable(url)
    if reason is not None:
        raise InputError(f"the W&B server {url} cannot be reached ({reason})")
    return url
