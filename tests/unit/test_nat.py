# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether the table that nft lists is the one that the files describe."""

from __future__ import annotations

import pytest

from machines.model.machine import Machine, Publish
from machines.plan.nat import is_loaded
from samples import host_with, machine

WEB = machine(publish=(Publish(8080, 80),))
PORT = "fib daddr type local ip daddr != 127.0.0.0/8 tcp dport 8080 dnat ip to 10.64.7.2:80"
OUT = "ip saddr 10.64.7.0/24 ip daddr != 10.64.7.0/24 masquerade"
HAIRPIN = "ip saddr 10.64.7.0/24 ip daddr 10.64.7.0/24 ct status dnat masquerade"


def listed(*, prerouting: tuple[str, ...] = (), output: tuple[str, ...] = (), postrouting: tuple[str, ...] = ()) -> str:
    """A table as "nft list table inet machctl" shows it."""
    chains = {
        "prerouting": ("type nat hook prerouting priority dstnat; policy accept;", *prerouting),
        "output": ("type nat hook output priority -100; policy accept;", *output),
        "postrouting": ("type nat hook postrouting priority srcnat; policy accept;", *postrouting),
    }
    shown = [
        "\tchain {} {{\n{}\n\t}}\n".format(name, "\n".join(f"\t\t{rule}" for rule in chains[name])) for name in chains
    ]
    return "table inet machctl {\n" + "\n".join(shown) + "}\n"


WHOLE = listed(prerouting=(PORT,), output=(PORT,), postrouting=(OUT, HAIRPIN))


def test_table_as_nft_lists_it_is_loaded() -> None:
    assert is_loaded(host_with(WEB).files, WHOLE)


def test_no_table_is_not_loaded() -> None:
    assert not is_loaded(host_with(WEB).files, "")
    assert not is_loaded({}, "")


@pytest.mark.parametrize(
    ("declared", "rule"),
    [
        (
            machine(publish=(Publish(25, 2525, "192.0.2.1"),)),
            "ip daddr 192.0.2.1 tcp dport 25 dnat ip to 10.64.7.2:2525",
        ),
        (machine(publish=(Publish(8080, 80),)), PORT),
    ],
)
def test_port_of_one_address_or_of_all(declared: Machine, rule: str) -> None:
    table = listed(prerouting=(rule,), output=(rule,), postrouting=(OUT, HAIRPIN))
    assert is_loaded(host_with(declared).files, table)
    other = "192.0.2.2" if "192.0.2.1" in rule else "192.0.2.1"
    moved = (
        rule.replace("192.0.2.1", other)
        if "192.0.2.1" in rule
        else rule.replace("ip daddr != 127.0.0.0/8", f"ip daddr {other}")
    )
    assert not is_loaded(host_with(declared).files, table.replace(rule, moved))


@pytest.mark.parametrize(
    "table",
    [
        listed(),
        listed(prerouting=(PORT,), postrouting=(OUT, HAIRPIN)),
        listed(prerouting=(PORT,), output=(PORT,), postrouting=(OUT,)),
        listed(prerouting=(PORT,), output=(PORT,), postrouting=(HAIRPIN,)),
        listed(prerouting=(PORT,), output=(PORT,), postrouting=(OUT, HAIRPIN, OUT)),
        WHOLE.replace("10.64.7.2:80", "10.64.7.3:80"),
        WHOLE.replace("10.64.7.2:80", "10.64.7.2:81"),
        WHOLE.replace("dport 8080", "dport 8081"),
        WHOLE.replace("10.64.7.0/24", "10.64.8.0/24"),
    ],
)
def test_table_with_other_rules_is_not_loaded(table: str) -> None:
    assert not is_loaded(host_with(WEB).files, table)


def test_rules_of_a_machine_that_is_gone_are_too_many() -> None:
    assert not is_loaded(host_with(machine()).files, WHOLE)
    assert is_loaded(host_with(machine()).files, listed(postrouting=(OUT, HAIRPIN)))


def test_several_machines_and_ports_in_any_order() -> None:
    db = machine("db", publish=(Publish(5432, 5432), Publish(53, 53, "::1")))
    second = PORT.replace("8080", "5432").replace("10.64.7.2:80", "10.64.7.3:5432")
    table = listed(prerouting=(second, PORT), output=(PORT, second), postrouting=(HAIRPIN, OUT))
    assert is_loaded(host_with(WEB, db).files, table)


def test_only_files_of_the_table_count() -> None:
    files = {**host_with(WEB).files, "/etc/nftables.conf": f"add rule inet machctl output {PORT}\n"}
    assert is_loaded(files, WHOLE)
