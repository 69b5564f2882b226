# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compose files with variables, in YAML as compose reads it, and with what compose would not take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from machines.declare.foreign.compose import read_compose
from machines.declare.foreign.compose_text import load, read_variables, substitute
from machines.declare.foreign.compose_values import port, seconds
from machines.declare.foreign.found import Found, settle
from machines.errors import InvalidFile

SET = {"PW": "secret", "EMPTY": ""}


def read(service: Mapping[str, Any], variables: Mapping[str, str] | None = None, **rest: Any) -> Found:
    text = json.dumps({"services": {"web": {"image": "nginx", **service}}, **rest})
    return read_compose(text, where="/srv/app/compose.json", variables=variables)["web"]


def left(found: Found) -> list[str]:
    return [each.what for each in found.unmapped]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a$$b", "a$b"), ("$PW", "secret"), ("x-${PW}-y", "x-secret-y"), ("$$PW ${PW}", "$PW secret"),
        ("${NO-else}", "else"), ("${EMPTY-else}", ""), ("${EMPTY:-else}", "else"), ("${PW:-else}", "secret"),
        ("${PW:+there}", "there"), ("${EMPTY+there}", "there"), ("${EMPTY:+there}", ""), ("${PW?no}", "secret"),
        ("${NO:-${EMPTY:-${PW}}}!", "secret!"), ("${NO-$$}", "$"), ("", ""), ("$PW$PW", "secretsecret"),
    ],
)  # fmt: skip
def test_variables_are_filled_in(text: str, wanted: str) -> None:
    assert substitute(text, SET, []) == wanted


@pytest.mark.parametrize("text", ["$", "a $ b", "${", "${PW", "${PW!}", "${}", "${1}", "${NO?}", "${EMPTY:?say it}"])
def test_what_is_no_variable_is_said_once(text: str) -> None:
    with pytest.raises(ValueError, match=r"\$|has to be set"):
        substitute(text, SET, [])
    with pytest.raises(InvalidFile, match=r"services\.web\.environment\.A: ") as caught:
        read({"environment": {"A": text}}, SET)
    assert "\n" not in caught.value.message
    assert "$$" in (caught.value.hint or "")


def test_what_is_not_set_is_empty_and_noted() -> None:
    found = read({"environment": {"A": "x${NO}$NO"}, "healthcheck": {"test": "pg_isready -U $$PGUSER"}})
    assert found.values["environment"] == {"A": "x"}
    assert found.values["health"] == {"exec": ["sh", "-c", "pg_isready -U $PGUSER"]}
    assert [(each.what, each.why.split()[0]) for each in found.unmapped] == [("services.web.environment.A", "NO")]


def test_variables_in_numbers_and_in_what_is_declared_elsewhere() -> None:
    found = read(
        {"scale": "${N}", "cpus": "${C}", "secrets": ["token"], "environment": ["PW", "NO"], "read_only": "${R}"},
        {"N": "3", "C": "0.5", "FILE": "/run/token", "PW": "x", "R": "yes"},
        secrets={"token": {"file": "$FILE"}},
    )
    assert found.values == {
        "source": "oci:nginx", "replicas": 3, "cpus": 0.5, "secrets": {"token": "file:/run/token"},
        "environment": {"PW": "x"}, "read-only": True,
    }  # fmt: skip


def test_the_file_with_variables() -> None:
    text = "# a comment\nA=1 # one\nexport B='$A #'\nC=\"x $A\"\nnothing\n1=2\nD=${\n E = e#f \nF=\n"
    assert read_variables(text) == {"A": "1", "B": "$A #", "C": "x 1", "D": "${", "E": "e#f", "F": ""}


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("8080:80", "8080:80"), ("127.0.0.1:5353:53/UDP", "127.0.0.1:5353:53/udp"), ("[::1]:80:80", "[::1]:80:80"),
        ("::1:6001:6001", "[::1]:6001:6001"), ("9000", "9000:9000"), (9000, "9000:9000"),
        ("3000-3005", "3000-3005:3000-3005"),
        ("127.0.0.1::80", "127.0.0.1:80:80"), ("8000-8010:80", "8000:80"),
        ("8000-8010:8000-8010/tcp", "8000-8010:8000-8010"),
        ({"target": 80}, "80:80"), ({"target": 80, "published": "0"}, "80:80"),
        ({"target": 80, "published": 8080, "host_ip": "fd00::1", "protocol": "udp"}, "[fd00::1]:8080:80/udp"),
    ],
)  # fmt: skip
def test_ports(value: Any, wanted: str) -> None:
    assert port(value)[0] == wanted
    found = read({"ports": [value]})
    settle("web", found, file="/etc/machctl/fleet.d/web.toml")
    assert found.values["publish"] == [wanted]
    assert bool(found.unmapped) == bool(port(value)[1])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("30s", 30), ("1m30s", 90), ("1h1m", 3660), ("1.5m", 90), ("100ms", 1), ("0s", 0), ("0", 0), ("1d", 86400)],
)
def test_times(text: str, wanted: int) -> None:
    assert seconds(text) == wanted


def test_a_probe_with_odd_parts_is_a_probe() -> None:
    probe = {"test": ["CMD", "x"], "interval": "1m30s", "timeout": "soon", "retries": "${N}", "start_interval": "1s"}
    found = read({"healthcheck": {**probe, "start_period": "0s"}}, {"N": "four"})
    assert found.values["health"] == {"exec": ["x"], "interval": "90s"}
    assert left(found) == [f"services.web.healthcheck.{key}" for key in ("timeout", "retries", "start_interval")]


@pytest.mark.parametrize("key", [
    "image", "ports", "volumes", "environment", "depends_on", "restart", "deploy", "scale", "networks", "network_mode",
    "healthcheck", "secrets", "hostname", "mem_limit", "cpus", "pids_limit", "cap_add", "cap_drop", "devices", "tmpfs",
    "read_only", "privileged",
])  # fmt: skip
@pytest.mark.parametrize("value", [
    "", "x", "\n", 7, -1, 1e400, float("nan"), 10**300, True, [], {}, [None], [[]], [{}], ["", 3], {"x": None},
    {"x": []},
    {"test": ["CMD-SHELL"]}, {"test": ["CMD"]}, {"resources": []}, {"resources": {"limits": {"memory": []}}},
    {"replicas": "x", "restart_policy": 3}, [{"target": []}], [{"source": None}], [{"type": "tmpfs", "tmpfs": 3}],
])  # fmt: skip
def test_odd_values_are_noted_and_the_rest_is_read(key: str, value: object) -> None:
    rest = {"tmpfs": ["/run"]} if key != "tmpfs" else {"cap_add": ["net_admin"]}
    found = read({**rest, key: value}, secrets={"x": 3}, networks=[])
    if key != "image":
        settle("web", found, file="/etc/machctl/fleet.d/web.toml")
    assert found.values.get("tmpfs") == ["/run"] or found.values.get("capabilities") == ["net_admin"]
    assert all("\n" not in str(each) for each in found.unmapped)


def test_what_is_of_our_own_environment_is_told() -> None:
    text = json.dumps(
        {
            "services": {
                "web": {
                    "image": "nginx:$TAG", "volumes": ["$HOME/x:/x"], "healthcheck": {"test": "check ${KEY:-none}"},
                    "environment": {"PW": "${PW:?has to be}", "A": "${A:-a}", "B": "$B", "NONE": None},
                },
                "db": {"image": "postgres", "environment": ["PW=x"]},
            }
        }
    )  # fmt: skip
    own = {"TAG": "1", "HOME": "/root", "PW": "secret", "KEY": "k", "NONE": "n"}
    found = read_compose(text, where="/srv/compose.json", variables={**own, "A": "1", "B": "2"}, own=own)
    # Of others it is no secret where they lead, and those of .env stand in a file.
    assert set(found["web"].inherited) == {"PW", "KEY", "NONE"}
    assert found["web"].values["environment"] == {"PW": "secret", "A": "1", "B": "2", "NONE": "n"}
    assert not found["db"].inherited


def test_odd_parts_leave_the_others() -> None:
    found = read(
        {
            "depends_on": {"my_db": None, "x": {"condition": "service_healthy"}},
            "networks": [{"front": {"ipv4_address": "10.0.0.5"}}, "back"],
            "secrets": ["a", "b"],
            "deploy": {"resources": {"limits": {"memory": "1g", "what": 1}, "reservations": {"memory": "1g"}}},
        },
        secrets={"a": "x"},
    )
    assert found.values == {"source": "oci:nginx", "after": ["my-db", "x:healthy"], "memory": "1G"}
    assert left(found) == [
        "services.web.networks", "services.web.secrets", "secret b", "services.web.deploy.resources.limits.what",
        "services.web.deploy.resources.reservations",
    ]  # fmt: skip


def test_names_that_no_host_has() -> None:
    text = json.dumps({"services": {"my_db": {"image": "x"}, "Web": {"image": "y"}}})
    found = read_compose(text, where="compose.json")
    assert list(found) == ["my-db", "web"]
    assert left(found["my-db"]) == ["services.my_db"]
    with pytest.raises(InvalidFile, match="two services"):
        read_compose('{"services": {"a_b": {}, "a-b": {}}}', where="compose.json")


def test_what_is_in_another_place_has_a_remedy() -> None:
    found = read({"extends": {"service": "x"}, "env_file": ".env"}, include=["other.yaml"])
    assert left(found) == ["include", "services.web.extends", "services.web.env_file"]
    assert all("docker compose config" in each.why for each in found.unmapped)


YAML = """\
x: &more {A: yes, B: off, C: 22:22, D: 0o17, E: 017, F: 1_000, G: 1.10, H: 08, I: 2024-01-01, J: true, K: 1:20.5, L: ~}
y:
  <<: *more
  M: 1e3
  N: -0x10
"""


def test_yaml_is_what_compose_takes_it_for() -> None:
    pytest.importorskip("yaml")
    assert load(YAML, "x")["y"] == {
        "A": "yes", "B": "off", "C": "22:22", "D": 15, "E": 15, "F": 1000, "G": 1.1, "H": "08", "I": "2024-01-01",
        "J": True, "K": "1:20.5", "L": None, "M": 1000.0, "N": -16,
    }  # fmt: skip
    text = "services: {web: {image: nginx, restart: no, ports: [22:22, 80:80], environment: {A: yes, B: 3.0, C: true}}}"
    assert read_compose(text, where="x")["web"].values == {
        "source": "oci:nginx", "restart": "no", "publish": ["22:22", "80:80"],
        "environment": {"A": "yes", "B": "3", "C": "true"},
    }  # fmt: skip


BOMB = "\n".join(
    [
        "a0: &a0 [x, x]",
        *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)),
        "services: {web: {ports: *a8}}",
    ]
)


@pytest.mark.parametrize(
    "text",
    ["a: b: c", "\t", "services: {web: {image: !!int x}}", "services: {web: &w {image: x, labels: *w}}",
     "a: &a [*a]\nb", "services: {? [a] : b}", "services: !!python/object:os.system x", BOMB],
)  # fmt: skip
def test_what_no_file_should_be_is_one_line(text: str) -> None:
    pytest.importorskip("yaml")
    with pytest.raises(InvalidFile) as caught:
        read_compose(text, where="/x/compose.yml")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("text", ["[" * 100_000, '{"services": {"web": {"image": "\\ud800"}}}'])
def test_json_that_nobody_writes(text: str) -> None:
    with pytest.raises(InvalidFile):
        read_compose(text, where="/x/compose.json")
