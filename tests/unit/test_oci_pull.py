# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images of registries: what skopeo is run with, whose logins it finds, and what is said where it has none."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from machines.errors import CommandFailed, MachctlError, NotFound, NotPermitted
from machines.host import streaming
from machines.host.archive import oci
from machines.host.run import environment

NO_LOGIN = 'time="x" level=fatal msg="reading manifest 1 in h:5/a: authentication required"'
BROKEN = r'time="x" level=fatal msg="getting username and password: reading JSON file \"/a.json\": invalid"'


class Skopeo:
    """Stands in for skopeo, which says ``line`` and ends with ``status``."""

    def __init__(self, line: str = "", status: int = 0) -> None:
        self.line, self.status = line, status
        self.argv: list[str] = []
        self.env: dict[str, str] = {}

    async def __call__(self, argv, *, on_line, log, contained, env):  # type: ignore[no-untyped-def]
        self.argv, self.env = argv, environment(env)
        on_line(self.line)
        return self.status


def pull(skopeo: Skopeo, reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "stream", skopeo)
    asyncio.run(oci.pull(reference, Path("/d"), log="/l", progress=lambda *_: None))


def test_skopeo_finds_the_logins_of_who_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    callers = {
        "REGISTRY_AUTH_FILE": "/a.json", "XDG_RUNTIME_DIR": "/run/user/0", "XDG_CONFIG_HOME": "/c",
        "DOCKER_CONFIG": "/d", "HOME": "/home/me",
    }  # fmt: skip
    for name, value in {**callers, "LD_PRELOAD": "/evil"}.items():
        monkeypatch.setenv(name, value)
    skopeo = Skopeo()
    pull(skopeo, "h:5/a:1", monkeypatch)
    assert skopeo.argv[-2:] == ["docker://h:5/a:1", "oci:/d:latest"]
    assert callers.items() <= skopeo.env.items()
    assert "LD_PRELOAD" not in skopeo.env
    for name in callers:
        monkeypatch.delenv(name)
    pull(skopeo, "h:5/a:1", monkeypatch)
    assert not skopeo.env.keys() & (callers.keys() - {"HOME"})


@pytest.mark.parametrize(
    ("reference", "line", "kind", "said", "hint"),
    [
        ("h:5/a:1", NO_LOGIN, NotPermitted, "wants a login", "skopeo login h:5 "),
        ("docker://r.example/a", NO_LOGIN, NotPermitted, "wants a login", "skopeo login r.example "),
        ("localhost/a", NO_LOGIN, NotPermitted, "wants a login", "skopeo login localhost "),
        ("team/a:1", "requested access to the resource is denied", NotPermitted, "login", "skopeo login docker.io "),
        ("debian:13", "unauthorized", NotPermitted, "wants a login", "--authfile ~/.config/containers/auth.json"),
        ("docker-daemon:a:1", "docker.sock: permission denied", CommandFailed, "permission denied", "see /l"),
        ("h:5/a", BROKEN, CommandFailed, 'pulled: getting username and password: reading JSON file "/a.json"', "/l"),
        ("h:5/a", "x509: unknown authority", CommandFailed, "TLS failed", "/etc/containers/certs.d/h:5/ca.crt"),
        ("h:5/a", "server gave HTTP response to HTTPS client", CommandFailed, "no TLS", "insecure = true"),
        ("h:5/a", "manifest unknown", NotFound, "no such image or tag", "/l"),
    ],
)
def test_what_the_registry_wants_is_said(
    reference: str, line: str, kind: type[MachctlError], said: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(kind) as caught:
        pull(Skopeo(line, 1), reference, monkeypatch)
    assert said in caught.value.message
    assert hint in caught.value.hint
