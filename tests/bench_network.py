# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs inside a throwaway host: ports of machines, beside nspawn's own Port= and podman's.

The client is on the LAN: a network namespace at the other end of a cable. All servers are the same program in the
network namespace of a machine of each tool. Run with the word prepare, it only has all of them ready.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import Failed, head, report, sh
from bench_tools import HAND_SETTINGS, KIND, MACHCTL, ByHand, Podman, install

HERE, THERE = "192.0.2.1", "192.0.2.2"
IPERF, ECHO = 5201, 7000
ROUNDS = 5
ROUNDS_OF_DATA = 15
ROUNDS_OF_QUESTIONS = 30
SECONDS_OF_DATA = 1
QUESTIONS = 300
MACHINE, LAZY = "bench-net", "bench-lazy"
LAZY_PORT = 7600

# A port of the host for each server of each tool.
PORTS = {"machctl": (7201, 7301), "Port=": (7202, 7302), "podman": (7203, 7303)}

LAN = f"""
ip link delete lan0 2>/dev/null; ip netns delete lan 2>/dev/null; set -e
ip netns add lan; ip link add lan0 type veth peer name lan1 netns lan
ip address add {HERE}/24 dev lan0; ip link set lan0 up
ip -n lan address add {THERE}/24 dev lan1; ip -n lan link set lan1 up; ip -n lan link set lo up
"""
ECHO_SERVER = f"""
import socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(self.request.recv(64))
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads, request_queue_size = True, True, 128
Server(("", {ECHO}), Echo).serve_forever()
"""


def shell(script: str) -> None:
    """Run a shell script. Raises Failed."""
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{script}: {done.stderr}")


def output(command: str) -> str:
    return subprocess.check_output(["/bin/sh", "-c", command], text=True).strip()


def prepare() -> None:
    """Have a machine of each tool run, with the same ports on the host, and the LAN."""
    shell(LAN)
    install("iperf3 netavark")
    MACHCTL.prepare()
    podman = Podman()
    podman.prepare()
    sh(f"machctl rm --force {MACHINE} {LAZY}", check=False)
    sh("podman rm --force --all", check=False)
    iperf, echo = PORTS["machctl"]
    sh(f"machctl create debian {MACHINE} --bridge br0 -p {iperf}:{IPERF} -p {echo}:{ECHO} --start")
    iperf, echo = PORTS["podman"]
    sh(f"podman run --detach --name {MACHINE} -p {iperf}:{IPERF} -p {echo}:{ECHO} {podman.image} sleep infinity")
    by_hand()


def by_hand() -> None:
    """The machine of a person who writes settings: a veth that networkd serves, and nspawn's ports."""
    hand = ByHand()
    hand.prepare()
    iperf, echo = PORTS["Port="]
    ports = f"[Network]\nVirtualEthernet=yes\nPort=tcp:{iperf}:{IPERF}\nPort=tcp:{echo}:{ECHO}"
    Path("/etc/systemd/nspawn/by-hand.nspawn").write_text(
        HAND_SETTINGS.format(network=ports, users="pick", ownership="auto")
    )
    hand.launch()
    end = time.monotonic() + 30
    while str(iperf) not in output("nft list ruleset"):
        if time.monotonic() > end:
            raise Failed("nspawn has set no ports: its machine has no address")
        time.sleep(0.1)


def leaders() -> dict[str, str]:
    """Give the first process of each tool's machine."""
    return {
        "machctl": output(f"machinectl show -P Leader {MACHINE}"),
        "Port=": output("machinectl show -P Leader by-hand"),
        "podman": output(f"podman inspect --format '{{{{.State.Pid}}}}' {MACHINE}"),
    }


@contextmanager
def servers() -> Iterator[None]:
    """Serve in all machines: iperf3's, and one that answers what it is asked."""
    started = []
    for pid in leaders().values():
        enter = ["nsenter", f"--net=/proc/{pid}/ns/net"]
        for command in (["iperf3", "-s", "-p", str(IPERF)], ["python3", "-c", ECHO_SERVER]):
            started.append(subprocess.Popen([*enter, *command], stdout=subprocess.DEVNULL))
    time.sleep(1)
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def transfer(port: int, address: str = HERE, *, on_lan: bool = True) -> float:
    """Send data to a port of the host; give the milliseconds of a GiB."""
    where = "ip netns exec lan " if on_lan else ""
    # Not --bytes: it looks once a second whether they are through.
    told = json.loads(output(f"{where}iperf3 --client {address} --port {port} --time {SECONDS_OF_DATA} --json"))["end"]
    return 1000 * 2**30 / (told["sum_received"]["bits_per_second"] / 8)


def latency(port: int, address: str = HERE) -> float:
    """Connect, ask and be answered, again and again; give the median in milliseconds."""
    took = []
    for _ in range(QUESTIONS):
        began = time.perf_counter()
        with socket.create_connection((address, port)) as client:
            client.sendall(b"who")
            if not client.recv(64):
                raise Failed(f"port {port} does not answer")
        took.append(time.perf_counter() - began)
    return 1000 * statistics.median(took)


def latency_on_lan(port: int) -> float:
    """As latency(), from the LAN."""
    pid = os.fork()
    if not pid:
        with Path("/run/netns/lan").open() as namespace:
            os.setns(namespace.fileno(), os.CLONE_NEWNET)
        Path("/run/bench-latency").write_text(str(latency(port)))
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        raise Failed(f"port {port} cannot be asked from the LAN")
    return float(Path("/run/bench-latency").read_text())


def commands() -> None:
    """Publishing on a running machine against the floor of every command."""
    publish, unpublish, floor = [], [], []
    for _ in range(15):
        floor.append(sh("machctl version"))
        publish.append(sh(f"machctl publish {MACHINE} 7399:80"))
        unpublish.append(sh(f"machctl unpublish {MACHINE} 7399:80"))
    version = statistics.median(floor) * 1000
    report("publish / version", statistics.median(publish) * 1000, version, limit=3)
    report("unpublish / version", statistics.median(unpublish) * 1000, version, limit=3)


def paths() -> None:
    """What a packet takes to a port, tool by tool in turn."""
    of: dict[tuple[str, str], list[float]] = defaultdict(list)

    def each(row: str, rounds: int, take: Callable[[str], float], tools: tuple[str, ...], limit: float = 1.05) -> None:
        for number in range(rounds):
            first = number % len(tools)
            for tool in tools[first:] + tools[:first]:
                of[row, tool].append(take(tool))
        for other in tools[1:]:
            mine, theirs = (statistics.median(of[row, tool]) for tool in (tools[0], other))
            report(f"{row} / {other}", mine, theirs, limit=limit, digits=3)

    alike = tuple(PORTS)
    each("GiB from the LAN", ROUNDS_OF_DATA, lambda tool: transfer(PORTS[tool][0]), alike)
    each("answer on the LAN", ROUNDS_OF_QUESTIONS, lambda tool: latency_on_lan(PORTS[tool][1]), alike)
    # nspawn's ports do not answer on 127.0.0.1 (systemd#6106); machctl's go through a proxy there, as on [::1].
    local = ("machctl", "podman")
    each("GiB on 127.0.0.1", ROUNDS_OF_DATA, lambda tool: transfer(PORTS[tool][0], "127.0.0.1", on_lan=False), local, 2)
    each("answer on 127.0.0.1", ROUNDS_OF_QUESTIONS, lambda tool: latency(PORTS[tool][1], "127.0.0.1"), local, 3)


def on_demand() -> None:
    """The first byte of a stopped machine, against a start until its server answers."""
    sh(f"machctl create debian {LAZY} --bridge br0 -p {LAZY_PORT}:80 --on-demand --package nginx-light")
    ask = f"curl -sS --max-time 30 -o /dev/null http://{HERE}:{LAZY_PORT}"
    first, ready = [], []
    for _ in range(ROUNDS):
        sh(f"machctl stop {LAZY}", check=False)
        first.append(sh(ask))
        sh(f"machctl stop {LAZY}")
        ready.append(sh(f"sh -c 'machctl start {LAZY}; until {ask} 2>/dev/null; do sleep 0.005; done'"))
    report("first byte on demand / start", statistics.median(first) * 1000, statistics.median(ready) * 1000, limit=1.3)


if __name__ == "__main__":
    if sys.argv[1:] != ["prepare"]:
        head(KIND, "peer")
    prepare()
    if sys.argv[1:] != ["prepare"]:
        commands()
        with servers():
            paths()
        on_demand()
