"""One question to a server: whether it answers HTTP at all. Follows no redirection and sends no key."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from email.message import Message
from typing import IO


def ask(url: str, patience: float) -> str | None:
    """Say why nothing answers at `url`, each wait at most `patience` seconds; null for any answer."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE  # only whether anybody is there is asked
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=trusting), _Stay())
    try:
        opener.open(url, timeout=patience).close()
    except urllib.error.HTTPError:
        return None
    except urllib.error.URLError as error:
        return _reason(error.reason)
    except Exception as error:  # of what is no HTTP, or no address
        return _reason(error)
    return None


def _reason(error: BaseException | str) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class _Stay(urllib.request.HTTPRedirectHandler):
    """A redirection is an answer; where it leads to is not asked."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """Go nowhere."""
