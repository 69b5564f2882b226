# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether the table that nft lists is the one that the files describe."""

from __future__ import annotations

import dataclasses
import re

import pytest

from machines.model.machine import Publish
from machines.model.publish import Egress
from machines.plan.nat import is_loaded
from machines.render import paths
from samples import host_with, machine

WEB = machine(publish=(Publish(8080, 80),))


def listed(text: str) -> str:
    """Rules as nft(8) prints them: in words of its own, but for the comments."""
    rules = [line for line in text.splitlines() if line.startswith("add rule ")]
    words = [re.sub(r"^add rule \w+ machctl \w+ ", "", rule).replace("meta nfproto ipv4 ", "") for rule in rules]
    return "table inet machctl {\n\tchain all {\n" + "".join(f"\t\t{rule}\n" for rule in words) + "\t}\n}\n"


def table(*machines: object) -> str:
    files = host_with(*machines).files  # type: ignore[arg-type]
    return listed("\n".join(text for path, text in sorted(files.items()) if path.startswith(paths.NAT_DIRECTORY[:-4])))


def test_table_as_nft_lists_it_is_loaded() -> None:
    assert is_loaded(host_with(WEB).files, table(WEB))


def test_no_table_is_not_loaded() -> None:
    assert not is_loaded(host_with(WEB).files, "")
    assert not is_loaded({}, "")


@pytest.mark.parametrize(
    "other",
    [
        machine(),
        machine(publish=(Publish(8080, 81),)),
        machine(publish=(Publish(8081, 80),)),
        machine(publish=(Publish(8080, 80, protocol="udp"),)),
        machine(publish=(Publish(8080, 80, "192.0.2.1"),)),
        machine(publish=(Publish(8080, 80, count=2),)),
        machine(publish=(Publish(8080, 80),), isolated=True),
        machine(publish=(Publish(8080, 80),), egress=(Egress(443, 443),)),
        machine(publish=(Publish(8080, 80),), egress=()),
    ],
)
def test_table_with_other_rules_is_not_loaded(other: object) -> None:
    assert not is_loaded(host_with(WEB).files, table(other))
    assert not is_loaded(host_with(other).files, table(WEB))  # type: ignore[arg-type]


def test_rule_that_was_deleted_or_doubled_is_missed() -> None:
    whole = table(WEB)
    rules = [line for line in whole.splitlines() if "comment" in line]
    assert len(rules) == len(set(rules)) > 10
    for rule in rules:
        assert not is_loaded(host_with(WEB).files, whole.replace(rule + "\n", ""))
        assert not is_loaded(host_with(WEB).files, whole.replace(rule, f"{rule}\n{rule}"))


def test_network_with_another_mode_or_reach_is_another_table() -> None:
    host = host_with(WEB)
    network = dataclasses.replace(host.networks["br0"], reach=("lab",))
    from machines.render.networks import render_bridge

    files = {**host.files, **render_bridge(network, networkd=True, dns=())}
    assert not is_loaded(files, table(WEB))


def test_only_files_of_the_table_count() -> None:
    files = {**host_with(WEB).files, "/etc/nftables.conf": 'add rule inet machctl output drop comment "x-00000000"\n'}
    assert is_loaded(files, table(WEB))
