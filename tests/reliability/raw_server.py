"""A TCP server below HTTP, for answers that no HTTP server would give."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable

HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class RawServer:
    """A TCP server below HTTP: it hands each connection to a function, and counts them."""

    def __init__(self, answer: Callable[[socket.socket], None] = lambda _: None) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._answer = answer
        self.connections = 0
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # the client has left
            connection.recv(65536)
            self._answer(connection)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._socket.close()


def drip(text: str) -> Callable[[socket.socket], None]:
    """One byte each 0.2 s."""

    def answer(connection: socket.socket) -> None:
        for byte in text.encode():
            connection.sendall(bytes([byte]))
            time.sleep(0.2)

    return answer


def hang(connection: socket.socket) -> None:
    connection.recv(1)  # until the client leaves
