# SPDX-License-Identifier: LGPL-2.1-or-later
"""A command of machctl run in an image without an init: the unit it runs in, and its exit status."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fakes import FakeHost
from machines.cli.verbs import run as verb
from machines.errors import MachctlError
from machines.host import guest
from machines.model.base import Payload
from machines.render import paths

PAYLOAD = Payload(command=("sh",), environment=("PATH=/bin",))
DROPIN = """\
[Service]
TimeoutStartSec=5min
MemoryMax=1073741824
ExecStartPost=-/bin/sh -c 'stat -fc %%T "$$leader"'
ExecStartPost=/bin/sh -ec 'leader=1'
"""


@pytest.fixture
def ran(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Run the command, which ends with that status while nspawn says that; give the words of systemd-run."""
    host.units.allowed_devices = lambda unit: (("/dev/net/tun", "rwm"), ("char-pts", "rw"))
    host.files.write_file(paths.dropin_file("web"), DROPIN)
    monkeypatch.setattr(verb, "_check_command", lambda *_: None)

    def run(status: int = 0, *, said: Sequence[tuple[str, dict[str, str]]] = ()) -> list[str]:
        started: list[str] = []

        def attached(argv: Sequence[str]) -> int:
            started.extend(argv)
            return status

        def tool(argv: Sequence[str], *, check: bool = True) -> Any:
            (mark,) = [word.rpartition("=")[2] for word in started if word.startswith("--property=LogExtraFields=")]
            texts = [json.dumps({"MESSAGE": message, **fields}).replace("MINE", mark) for message, fields in said]
            return SimpleNamespace(returncode=0, stdout="".join(f"{text}\n" for text in texts), stderr="")

        monkeypatch.setattr(verb, "attached", attached)
        monkeypatch.setattr(host.tools, "run", tool)
        assert verb._run_payload("web", PAYLOAD, host) == status  # type: ignore[arg-type]
        return started

    return run


def test_it_may_use_the_devices_that_the_machines_own_unit_may(ran: Callable[..., list[str]]) -> None:
    words = ran()
    assert "--property=DevicePolicy=closed" in words
    assert {"--property=DeviceAllow=/dev/net/tun rwm", "--property=DeviceAllow=char-pts rw"} <= {*words}


def test_it_has_the_limits_and_the_links_of_the_machine(ran: Callable[..., list[str]]) -> None:
    words = ran()
    assert "--property=MemoryMax=1073741824" in words
    cat = "--property=ExecStartPost=-/usr/bin/systemd-cat /bin/sh"
    assert [word for word in words if "ExecStartPost" in word] == [
        f"""{cat} -c 'stat -fc %T "$$leader"'""",
        f"{cat} -ec 'leader=1'",
    ]


MINE = {"MACHCTL_RUN": "MINE", "_SYSTEMD_UNIT": "machctl-run-web.service"}
OTHERS = {"MACHCTL_RUN": "other", "_SYSTEMD_UNIT": "machctl-run-db.service"}
UNIT = {"_SYSTEMD_UNIT": "systemd-nspawn@db.service"}


@pytest.mark.parametrize(
    ("status", "said"),
    [(0, []), (1, []), (1, [("of another", OTHERS), ("of a unit", UNIT)]), (5, [("veth is gone", MINE)]), (125, [])],
)
def test_the_status_is_the_commands(
    status: int, said: list[tuple[str, dict[str, str]]], ran: Callable[..., list[str]]
) -> None:
    ran(status, said=said)


# journald is late now and then, and does not find out whose it was.
@pytest.mark.parametrize("fields", [MINE, {}])
def test_what_nspawn_cannot_do_is_machctls_own_failure(fields: dict[str, str], ran: Callable[..., list[str]]) -> None:
    others = [("of another", OTHERS), ("of a unit", UNIT)]
    with pytest.raises(MachctlError) as caught:
        ran(1, said=[*others, ("Failed to mknod(/dev/net/tun)", fields), ("Child died too early.", fields)])
    assert caught.value.exit_code == 125
    assert caught.value.message == "the command was not run in web: Failed to mknod(/dev/net/tun)"


@pytest.mark.parametrize(("command", "status"), [("yes", 0), ("/bin/yes", 0), ("no", 126), ("bin", 127), ("/bin", 126)])
def test_what_is_no_command(
    command: str, status: int, tmp_path: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/yes").touch(0o755)
    (tmp_path / "bin/no").touch(0o644)
    monkeypatch.setattr(paths, "tree", lambda name: str(tmp_path))
    host.guests = guest
    payload = PAYLOAD._replace(command=(command,))
    if not status:
        verb._check_command("web", payload, host)
        verb._check_command("web", payload._replace(command=("./yes",), directory="/bin"), host)
        return
    with pytest.raises(MachctlError) as caught:
        verb._check_command("web", payload, host)
    assert caught.value.exit_code == status
