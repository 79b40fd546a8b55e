"""The one address at which the main rank listens for the others."""

import contextlib
import ipaddress
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

LOOPBACK = ("127.0.0.1", "::1")
_ANY_PORT = 9  # nothing is sent to it


@dataclass(frozen=True)
class MainView:
    """How a rank reaches the main one.

    Attributes:
        targets: addresses that MASTER_ADDR resolves to on this rank's machine, and that have a
            route.
        sources: this rank's own address on each of these routes.
    """

    targets: tuple[str, ...]
    sources: tuple[str, ...]


def view_main() -> MainView:
    """Look MASTER_ADDR up on this machine."""
    try:
        found = socket.getaddrinfo(
            os.environ.get("MASTER_ADDR", ""), _ANY_PORT, type=socket.SOCK_DGRAM
        )
    except (OSError, UnicodeError):  # the name is unknown here, or none
        found = []

    targets = []
    sources = []
    for family, kind, protocol, _, address in found:
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # sends nothing, only looks up the route
            targets.append(str(address[0]))
            sources.append(str(probe.getsockname()[0]))
    return MainView(tuple(targets), tuple(sources))


def choose_addresses(views: Sequence[MainView]) -> list[str]:
    """Addresses of which the first that is the main rank's own is the one to listen at.

    The view of its own machine is not enough, as many resolve their own host name to a loopback
    address, where no other machine reaches them.

    Args:
        views: of all ranks, in their order.

    Returns:
        Loopback addresses alone where all ranks reach the main one by these, else others alone;
        none that means all interfaces.
    """
    others_first = [*views[1:], *views[:1]]
    targets = [address for view in others_first for address in view.targets]
    # where MASTER_ADDR is that of a gateway to the main rank's machine
    sources = [address for view in others_first for address in view.sources]

    is_local = all(map(_stays_here, targets))
    return [
        address
        for address in dict.fromkeys(targets + sources)
        if _stays_here(address) == is_local and not ipaddress.ip_address(address).is_unspecified
    ]


def _stays_here(address: str) -> bool:
    """Whether it leads to this machine, whichever that is. Linux takes 0.0.0.0 for loopback."""
    parsed = ipaddress.ip_address(address)
    return parsed.is_loopback or parsed.is_unspecified
