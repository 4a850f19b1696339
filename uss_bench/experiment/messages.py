"""Messages between the harness and an isolated method: JSON and bytes over a socket, and no pickle.

Neither side can make the other run anything: what comes is numbers, text and tensors.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Mapping
from typing import Any

from uss_bench import errors
from uss_bench.errors import RunError, UssBenchError

_SIZES = struct.Struct("<IQ")


class Channel:
    """One end of a socket that carries messages: a JSON object with bytes behind it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, info: Mapping[str, Any], body: bytes = b"") -> None:
        head = json.dumps(info).encode()
        self._connection.sendall(_SIZES.pack(len(head), len(body)) + head)
        self._connection.sendall(body)

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """Return the next message.

        Raises:
            EOFError: when the other side is gone.
        """
        head, body = _SIZES.unpack(self._read(_SIZES.size))
        info: dict[str, Any] = json.loads(self._read(head))
        return info, bytes(self._read(body))

    def ask(self, info: Mapping[str, Any], body: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """Send a message and return what it is answered; threads take turns.

        Raises:
            UssBenchError: when the answer is that error.
            EOFError: when the other side is gone.
        """
        with self._lock:
            self.send(info, body)
            answer, content = self.receive()
        if "error" in answer:
            raise read_error(answer)
        return answer, content

    def close(self) -> None:
        self._connection.close()

    def _read(self, size: int) -> bytearray:
        found = bytearray(size)
        view, done = memoryview(found), 0
        while done < size:
            count = self._connection.recv_into(view[done:], min(size - done, 1 << 24))
            if not count:
                raise EOFError
            done += count
        return found


def error_message(error: UssBenchError) -> dict[str, Any]:
    return {"error": type(error).__name__, "what": error.what, "hint": error.hint}


def read_error(answer: Mapping[str, Any]) -> UssBenchError:
    """Return the error that a message stands for."""
    kind = getattr(errors, str(answer["error"]), None)
    if not (isinstance(kind, type) and issubclass(kind, UssBenchError)):
        kind = RunError
    return kind(str(answer.get("what")), hint=answer.get("hint"))
