"""Ports of this machine that nobody listens on."""
import socket


def free_ports(count):
    """All of them are open at once, so that none comes twice."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
