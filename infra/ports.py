"""Whether the servers' ports are free, and who holds them if not."""

import socket
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Port:
    """A port that a server of the stack needs, and the variable that moves it."""

    number: int
    server: str
    variable: str


def find_port_problems(host: str, ports: list[Port]) -> list[str]:
    """Return one line for each port that is taken, or wanted twice by this stack."""
    problems = []
    first: dict[int, Port] = {}
    for port in ports:
        if port.number in first:
            problems.append(
                f"port {port.number} is wanted by {first[port.number].server} and {port.server}; set {port.variable}"
            )
        elif not is_free(host, port.number):
            problems.append(
                f"port {port.number} for {port.server} is in use{_holder(port.number)}; "
                f"free it or set {port.variable} to another port"
            )
        first.setdefault(port.number, port)
    return problems


def is_free(host: str, number: int) -> bool:
    """Say whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free for a server
        try:
            probe.bind((host, number))
            probe.listen(1)
        except OSError:
            return False
    return True


def find_free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        number: int = probe.getsockname()[1]
    return number


def _holder(number: int) -> str:
    """Return ` by NAME (pid N)` when this user may know it."""
    for process in psutil.process_iter(["name"]):
        try:
            connections = process.net_connections(kind="tcp")
        except psutil.Error:
            continue
        if any(c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == number for c in connections):
            return f" by {process.info['name']} (pid {process.pid})"
    return ""
