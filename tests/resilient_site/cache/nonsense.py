"""Servers in place of Redis that reply nonsense."""

import socket
import threading
from contextlib import contextmanager, suppress


@contextmanager
def answering(handle):
    """A server whose connections get what `handle` does to them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        open_sockets = []

        def serve():
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                open_sockets.append(client)
                threading.Thread(target=talk, args=(client,), daemon=True).start()

        def talk(client):
            with suppress(OSError):
                handle(client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for client in open_sockets:
            client.close()


def garbage(client):
    while client.recv(4096):
        client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def wrong_shape(client):
    while client.recv(4096):
        client.sendall(b"+OK\r\n")
