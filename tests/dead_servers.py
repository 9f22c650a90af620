"""Addresses at which no server does its work, each in another way; for tests and benchmarks of trackers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def refused() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as held:
        address = f"http://127.0.0.1:{held.getsockname()[1]}"
    yield address


@contextmanager
def silent() -> Iterator[str]:
    """Connections are accepted by the system, and nobody ever says a word."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@contextmanager
def black_hole() -> Iterator[str]:
    """A full queue of connections: the system drops every further one, as a firewall does."""
    with ExitStack() as stack:
        held = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(held.getsockname())
        yield f"http://127.0.0.1:{held.getsockname()[1]}"
