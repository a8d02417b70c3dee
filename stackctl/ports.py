"""Free ports of this machine. It binds to ask the kernel, and keeps none."""

from __future__ import annotations

import socket


def is_free(address: str, port: int) -> bool:
    """Whether a server could listen at a port of a local address now."""
    with _socket(address) as asked:
        asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            asked.bind((address, port))
        except OSError:
            return False
        return True


def free(address: str, avoid: set[int]) -> int:
    """A port that nobody has now and that is not one of `avoid`."""
    while True:
        with _socket(address) as asked:
            asked.bind((address, 0))
            port: int = asked.getsockname()[1]
        if port not in avoid:
            return port


def _socket(address: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
