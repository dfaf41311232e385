"""No network: only this machine's own addresses and Unix sockets can be reached.

Python imports `sitecustomize` when it starts, so every process that has this folder on PYTHONPATH
is cut off; `conftest.py` puts it there, and runs it for the test process itself.
"""

import socket
from typing import Any

_LOCAL = {"localhost", "127.0.0.1", "::1", "0.0.0.0", "::", "", None}


class NetworkBlockedError(OSError):
    """A test, or code under test, tried to reach another machine."""


def _check(host: Any) -> None:
    if host not in _LOCAL:
        raise NetworkBlockedError(f"tests run without a network, and something asked for {host!r}")


def _blocked(connect: Any) -> Any:
    def connect_locally(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _check(address[0])
        return connect(self, address)

    return connect_locally


def _blocked_lookup(getaddrinfo: Any) -> Any:
    def look_up_locally(host: Any, *args: Any, **kwargs: Any) -> Any:
        _check(host.decode() if isinstance(host, bytes) else host)
        return getaddrinfo(host, *args, **kwargs)

    return look_up_locally


def block_network() -> None:
    """Make connecting to, and looking up, any address but this machine's raise."""
    socket.socket.connect = _blocked(socket.socket.connect)  # type: ignore[method-assign]
    socket.socket.connect_ex = _blocked(socket.socket.connect_ex)  # type: ignore[method-assign]
    socket.getaddrinfo = _blocked_lookup(socket.getaddrinfo)


block_network()
