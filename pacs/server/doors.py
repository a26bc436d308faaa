"""Addresses as people write them, HOST:PORT, and the sockets behind them."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass

from pacs.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Door:
    """A place to listen on."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse(text: str, setting: str) -> Door:
    """The door that `text` (HOST:PORT, IPv6 in brackets) names. Raises InvalidInput naming the setting."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise InvalidInput(f"setting {setting}: {text!r} is not HOST:PORT")
    return Door(host.strip("[]"), int(port))


def listen(door: Door) -> socket.socket:
    """A listening TCP socket at `door`. Raises InvalidInput, in words, where the port is taken or not ours."""
    family = socket.AF_INET6 if ":" in door.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by each connection, on which asyncio leaves it alone: head and body of an answer are two writes, and
        # the second would wait 40 ms for the first one to be acknowledged.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((door.host, door.port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        raise InvalidInput(f"cannot listen on {door}: {error.strerror}") from error
    return listener


def address(listener: socket.socket) -> Door:
    """The door a socket really listens on, with its port filled in."""
    name = listener.getsockname()
    return Door(str(name[0]), int(name[1]))
