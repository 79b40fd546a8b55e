"""The main rank listens at one address, by which the other ranks reach it."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import free_port
from helpers.warm_process import PATIENCE
from omnidali.distributed import failure_monitor
from omnidali.distributed.failure_monitor import RelayAddress
from omnidali.distributed.failure_relay import FailureRelay
from omnidali.distributed.main_address import MainView, choose_addresses, view_main

LISTENS = "0A"  # a state of /proc/net/tcp
ROOT = Path(__file__).parent.parent
RANK = """
import sys
from omnidali.cli.error_report import run_reporting_errors
from omnidali.distributed import failure_monitor
from omnidali.distributed.ranks import end_process_group, start_process_group
from test_main_address import listening

def run():
    ranks = start_process_group()
    if ranks.is_main:
        relay = failure_monitor._relay
        print("listens:", ", ".join([relay.address, *listening(relay.port)]))
    ranks.barrier()
    if not ranks.is_main and sys.argv[1:] == ["fails"]:
        raise KeyError("oops")
    ranks.barrier()
    end_process_group()

sys.exit(run_reporting_errors(run))
"""


def listening(port):
    """The addresses of this machine at which somebody listens, for a port."""
    found = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]:
            local, _, state = line.split()[1:4]
            address, _, number = local.partition(":")
            if state == LISTENS and int(number, 16) == port:
                # words of four bytes in the machine's order
                words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
                family = socket.AF_INET6 if name == "tcp6" else socket.AF_INET
                found.append(socket.inet_ntop(family, b"".join(words)))
    return found


def view(*targets, source="10.0.0.9"):
    return MainView(targets, (source,) * len(targets))


@pytest.mark.parametrize(
    "views, expected",
    [
        # the main machine leads its own name to a loopback address, as Debian's do
        ([view("127.0.1.1", source="127.0.0.1"), view("10.0.0.1")], ["10.0.0.1", "10.0.0.9"]),
        # two agents on one machine
        ([view("127.0.0.1", source="127.0.0.1")] * 2, ["127.0.0.1"]),
        ([view("127.0.0.2", source="127.0.0.1")] * 2, ["127.0.0.2", "127.0.0.1"]),
        # what means all interfaces to a server leads a client to its own machine
        ([view("0.0.0.0", source="127.0.0.1")] * 2, ["127.0.0.1"]),
        ([view("::", source="::1")] * 2, ["::1"]),
        # the others' addresses come before those that the main rank alone knows
        (
            [view("192.168.0.1"), view("fd00::1", "10.0.0.1")],
            ["fd00::1", "10.0.0.1", "192.168.0.1", "10.0.0.9"],
        ),
        # a gateway's address: the main rank has an address of its own on the way there
        (
            [view("203.0.113.1", source="10.0.0.1"), view("203.0.113.1")],
            ["203.0.113.1", "10.0.0.9", "10.0.0.1"],
        ),
        ([view(), view()], []),
    ],
)
def test_addresses_that_others_know_come_first(views, expected):
    assert choose_addresses(views) == expected


@pytest.mark.parametrize(
    "name, targets",
    [("127.0.0.2", {"127.0.0.2"}), ("::1", {"::1"}), ("localhost", {"127.0.0.1", "::1"})],
)
def test_view_holds_addresses_that_have_a_route(name, targets, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", name)
    view = view_main()
    assert set(view.targets) <= targets and view.targets
    assert len(view.sources) == len(view.targets)
    assert choose_addresses([view, view])[0] in targets


def test_view_of_unknown_main_rank_is_empty(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "no-such-host.invalid")
    assert view_main() == MainView((), ())
    monkeypatch.delenv("MASTER_ADDR")
    assert view_main() == MainView((), ())


@pytest.mark.parametrize("address", ["127.0.0.2", "::1"])
def test_relay_listens_at_its_address_alone(address):
    foreign = "192.0.2.77"  # of no machine
    relay = FailureRelay([foreign, address, "127.0.0.1"])
    try:
        assert relay.address == address
        assert listening(relay.port) == [address]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", relay.port), timeout=5)
        socket.create_connection((address, relay.port), timeout=5).close()
    finally:
        relay.close()
    assert listening(relay.port) == []


@pytest.mark.parametrize("addresses", [["192.0.2.77"], []])
def test_main_rank_without_an_address_says_so_in_one_line(addresses, capsys):
    assert failure_monitor.open_relay(addresses) is None
    assert not failure_monitor.is_running()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"rank 0 can listen at none of {addresses}, to which MASTER_ADDR resolves"
    )
    assert line.endswith("ranks learn of each other's failure by timeouts only")


def test_rank_that_cannot_reach_the_main_one_says_so_in_one_line(capsys):
    relay = FailureRelay(["127.0.0.1"])
    relay.close()
    failure_monitor.join(3, RelayAddress(relay.address, relay.port, relay.token))
    assert not failure_monitor.is_running()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"rank 3 cannot reach rank 0 at 127.0.0.1, port {relay.port} (")


def start_rank(prefix, folder, rank, *arguments, **more):
    """Start one of two ranks that torchrun's agents would start on two machines."""
    (folder / "rank.py").write_text(RANK)
    environment = {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "1",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "OMP_NUM_THREADS": "1",
        **more,
    }
    command = [*prefix, sys.executable, str(folder / "rank.py"), *arguments]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.fixture
def two_machines(tmp_path):
    """Command prefixes of two networks, joined by a cable, with names and hosts of their own.

    Each leads its own name to a loopback address.
    """
    names = [f"omnidali{os.getpid()}-{number}" for number in range(2)]
    prefixes = []
    with contextlib.ExitStack() as cleanup:
        for number, name in enumerate(names):
            other = 1 - number
            made = (
                shutil.which("ip")
                and not subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode
            )
            if not made:
                pytest.skip("no network namespaces here: they need `ip` and an administrator")
            cleanup.callback(subprocess.run, ["ip", "netns", "del", name], check=True)
            hosts = tmp_path / f"hosts{number}"
            hosts.write_text(
                f"127.0.0.1 localhost\n127.0.1.1 node{number}\n10.77.0.{other + 1} node{other}\n"
            )
            enter = f'mount --bind {hosts} /etc/hosts && hostname node{number} && exec "$@"'
            prefixes.append(
                ["nsenter", f"--net=/run/netns/{name}", "unshare", "--mount", "--uts"]
                + ["sh", "-c", enter, "sh"]
            )
        cable = f"type veth peer name eth7 netns {names[1]}"
        run_ip(f"link add eth7 netns {names[0]} {cable}")
        for number, name in enumerate(names):
            run_ip(f"-n {name} addr add 10.77.0.{number + 1}/24 dev eth7")
            run_ip(f"-n {name} addr add fd77::{number + 1}/64 dev eth7 nodad")
            run_ip(f"-n {name} link set eth7 up")
            run_ip(f"-n {name} link set lo up")
        yield prefixes


def run_ip(arguments):
    subprocess.run(["ip", *arguments.split()], check=True)


@pytest.mark.parametrize("main, address", [("node0", "10.77.0.1"), ("fd77::1", "fd77::1")])
def test_ranks_of_two_machines_use_one_address_alone(two_machines, tmp_path, main, address):
    network = {"MASTER_ADDR": main, "MASTER_PORT": "18200", "GLOO_SOCKET_IFNAME": "eth7"}
    ranks = [
        start_rank(prefix, tmp_path, rank, "fails", **network)
        for rank, prefix in enumerate(two_machines)
    ]
    outputs = [rank.communicate(timeout=PATIENCE)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [1, 1], outputs
    assert f"\nlistens: {address}, {address}\n" in f"\n{outputs[0]}"
    assert "rank 1 ended: KeyError: 'oops'\n" in outputs[0]


@pytest.mark.parametrize(
    "agents, address", [(2, "127.0.0.2"), (1, "127.0.0.1")], ids=["two agents", "one agent"]
)
def test_ranks_of_one_machine_use_loopback_alone(tmp_path, agents, address):
    with free_port() as port:
        network = {"MASTER_ADDR": "127.0.0.2", "MASTER_PORT": str(port)}
        network["LOCAL_WORLD_SIZE"] = str(2 // agents)
        ranks = [start_rank([], tmp_path, rank, **network) for rank in range(2)]
        outputs = [rank.communicate(timeout=PATIENCE)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    assert f"listens: {address}, {address}\n" in outputs[0]
