# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images without an init: what they run in place of one, and what is run in them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from oci_image import write_layout
from terminal import Terminal
from throwaway import Host, Roads, read_until, until

# A shell and a few programs, in $1/$2 or, where that is bin, in a tree that has no /usr: "FROM scratch".
IMAGE = r"""
set -e
tree=$1/tree
rm -rf "$1"
mkdir -p "$tree/$2" "$tree/etc" "$tree/tmp"
for program in sh cat true sleep id; do cp -L "/bin/$program" "$tree/$2"; done
ldd "$tree/$2"/* | grep -oE '/[^ ]+ \(' | tr -d ' (' | sort -u |
    while read -r library; do mkdir -p "$tree${library%/*}"; cp -L "$library" "$tree${library%/*}"; done
echo 'root:x:0:0::/:/bin/sh' >"$tree/etc/passwd"
"""
SOURCE = "oci:/root/small/layout"


def make_image(host: Host, *, programs: str = "usr/bin", **config: object) -> None:
    """Make an image that lies at SOURCE."""
    host.sh(IMAGE, "/root/small", programs)
    config = {"Env": [f"PATH=/{programs}", "GREETING=good day"], **config}
    write_layout(host, "/root/small", "tree", **config)


@pytest.fixture(params=["trixie", "bookworm"])
def host(request: pytest.FixtureRequest, roads: Roads) -> Iterator[Host]:
    """A host that is in the end as it was, but for bases."""
    with roads.get(request.param).ready().host.only_debian() as found:
        yield found
        found.run("rm", "-rf", "/root/small")


def test_a_command_runs_in_place_of_an_init(host: Host) -> None:
    make_image(host, Cmd=["sh", "-c", "echo of the image; exit 3"])
    assert host.machctl("run", SOURCE, status=3).stdout == "of the image\n"
    for status in (0, 1, 5, 125, 255):
        words = ("sh", "-c", f'echo "$GREETING"; echo bad >&2; exit {status}')
        done = host.machctl("--quiet", "run", SOURCE, "--", *words, status=status)
        assert (done.stdout, done.stderr) == ("good day\n", "bad\n")
    # It has ended before its links are looked at.
    for _ in range(5):
        assert host.machctl("--quiet", "run", "--bridge", "br0", SOURCE, "--", "true").stderr == ""
    assert host.machctl("run", SOURCE, "--", "cat", stdin="words\n").stdout == "words\n"
    host.machctl("run", SOURCE, "--", "nosuch", status=127).says("nosuch")
    host.machctl("run", SOURCE, "--", "/etc/passwd", status=126).says("/etc/passwd")
    script = "echo ready; read -r word; echo +$word+; exit 4"
    with Terminal(host.argv("machctl", "run", SOURCE, "--", "sh", "-c", script)) as terminal:
        terminal.expect("ready")
        terminal.type("typed\n")
        terminal.expect(r"\+typed\+")
        assert terminal.ended() == 4


def test_what_nspawn_cannot_set_up_is_no_status_of_the_command(host: Host) -> None:
    make_image(host, Cmd=["sh"], WorkingDir="/nosuch")
    host.machctl("run", SOURCE, "--", "true", status=125).says("not run", "/nosuch")


def test_an_image_that_has_no_usr_runs(host: Host) -> None:
    make_image(host, programs="bin", Cmd=["sleep", "600"])
    assert not host.exists("/root/small/tree/usr")
    done = host.machctl("run", SOURCE, "--", "sh", "-c", "echo here; exit 7", status=7)
    assert done.stdout == "here\n"
    host.machctl("create", SOURCE, "web", "--start")
    assert until(lambda: host.inside("web", "id -u"), bool) == "0"
    root, usr = host.sh("cd $1 && stat -c %u . && stat -c '%u %a' usr", host.tree("web")).split("\n")
    assert usr == f"{root} 755"


def test_what_it_prints_is_its_log(host: Host) -> None:
    make_image(host, Cmd=["sh", "-c", "echo begun; echo bad >&2; while :; do sleep 1; echo again; done"])
    host.machctl("create", SOURCE, "web", "--start")
    host.machctl("create", SOURCE, "web2")
    assert until(lambda: host.machctl("logs", "web").stdout, lambda text: "again" in text)
    lines = [line.partition("]: ")[2] for line in host.machctl("logs", "web").stdout.splitlines()]
    assert {"begun", "bad", "again"} <= set(lines)
    # None of systemd's own.
    assert not any(line.startswith(("Starting", "Started")) for line in lines), lines
    assert len(host.machctl("logs", "web", "-n", "1").stdout.splitlines()) == 1
    assert "begun" not in host.machctl("logs", "web", "--since", "now").stdout
    with host.background("machctl", "logs", "web", "web2", "-f", "-n", "0") as process:
        read_until(process.stdout, "again")
        host.machctl("start", "web2")
        said = read_until(process.stdout, "begun")
        assert any("web2" in line for line in said.splitlines()[-1:]), said
    host.machctl("stop", "web", "web2")
    merged = host.machctl("logs", "web*", "--json").stdout.splitlines()
    assert {json.loads(line)["MACHINE"] for line in merged} == {"web", "web2"}
    host.machctl("logs", "web", "-u", "nginx", status=4).says("web", "no units")


def test_options_may_stand_between_the_source_and_the_command(host: Host) -> None:
    make_image(host, Cmd=["sleep", "600"])
    assert host.machctl("run", SOURCE, "--name", "job", "--keep", "--", "sh", "-c", "echo hi").stdout == "hi\n"
    assert host.state("job") == "stopped"
    host.machctl("rm", "--force", "job")
    host.machctl("create", SOURCE, "web", "--start")
    assert host.machctl("exec", "web", "-e", "A=1", "--", "sh", "-c", "echo $A").stdout == "1\n"
    host.machctl("run", SOURCE, "--nmae", "job", "--", "true", status=2).says("--nmae", "--name")
    host.machctl("run", SOURCE, "--name", "job", "true", "--", "x", status=2).says("'true' is no option")
    assert host.state("job") == ""


def test_what_is_not_there_to_run_in_is_no_status_of_the_command(host: Host) -> None:
    host.machctl("run", "nosuch:x", "--", "true", status=2).says("nosuch:x")
    host.machctl("run", "image:nosuch", "--", "true", status=4).says("no image nosuch")
    host.machctl("run", "oci:/root/nosuch", "--", "true", status=4).says("/root/nosuch")
    host.machctl("exec", "nosuch", "--", "true", status=4).says("no machine nosuch")
