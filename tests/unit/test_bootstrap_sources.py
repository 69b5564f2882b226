# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bootstrappers of Ubuntu, Arch and Fedora: what they run, with whose keys, and what they say of failures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from machines.errors import InvalidValue, MachctlError, Unsupported
from machines.host.bootstrap import arch, checks, debian, debootstrap, fedora, mmdebstrap, registry
from machines.host.bootstrap.causes import explain
from machines.host.bootstrap.packages import base_packages, ssh_package
from machines.host.bootstrap.scratch import clean
from machines.host.interfaces import BootstrapRequest

MIRROR = "https://m.example/arch"
ARCH = BootstrapRequest("arch", "", ("base",), Path("/pool/.#a"), Path("/var/log/x.log"), mirror=MIRROR)
FEDORA = BootstrapRequest("fedora", "42", ("systemd", "dnf"), Path("/pool/.#f"), Path("/var/log/x.log"), mirror=MIRROR)
UBUNTU = BootstrapRequest("ubuntu", "noble", ("dbus",), Path("/pool/.#u"), Path("/var/log/x.log"))


def test_arch_takes_a_mirror_an_address_with_variables_or_a_directory_of_databases(tmp_path: Path) -> None:
    server = "Server = https://m.example/arch/$repo/os/$arch"
    assert arch.repositories(MIRROR + "/") == {"core": server, "extra": server}
    other = "https://m.example/$arch/$repo"
    assert arch.repositories(other) == dict.fromkeys(("core", "extra"), f"Server = {other}")
    top = f"file://{tmp_path}"
    assert arch.repositories(top)["extra"] == f"Server = {top}/$repo/os/$arch"
    for name in ("mine.db", "core.db", "core.files"):
        (tmp_path / name).touch()
    assert list(arch.repositories(f"file:{tmp_path}").items()) == [
        ("core", f"Server = {top}"),
        ("mine", f"Server = {top}"),
    ]
    (tmp_path / "local.db").touch()
    with pytest.raises(InvalidValue, match="'local' cannot be the name"):
        arch.repositories(top)


def test_arch_without_a_mirror_takes_the_servers_of_an_arch_host(tmp_path: Path) -> None:
    mirrorlist = tmp_path / "mirrorlist"
    for text in (None, "#Server = https://m.example\n"):
        if text:
            mirrorlist.write_text(text)
        with pytest.raises(Unsupported) as caught:
            arch.repositories(None, mirrorlist=mirrorlist)
        assert "--mirror URL" in caught.value.hint
    mirrorlist.write_text("## all\nServer = https://m.example/$repo/os/$arch\n")
    assert arch.repositories(None, mirrorlist=mirrorlist)["core"] == f"Include = {mirrorlist}"


def test_pacman_checks_signatures_unless_told_not_to() -> None:
    found = {"core": "Server = https://m.example"}
    checked = arch.configuration(found, keyring=Path("/run/k"))
    assert "SigLevel = Required DatabaseOptional\n" in checked
    assert "GPGDir = /run/k\n" in checked
    assert "DownloadUser" not in checked
    assert checked.endswith("\n[core]\nServer = https://m.example\n")
    insecure = arch.configuration(found, keyring=None)
    assert "SigLevel = Never\n" in insecure
    assert "GPGDir" not in insecure
    assert arch.command(replace(ARCH, packages=("nano", "base")), Path("/c")) == [
        "pacstrap", "-C", "/c", "-G", "-M", "/pool/.#a", "base", "nano",
    ]  # fmt: skip


def test_pacstraps_copies_of_the_configuration_are_removed_and_no_others(tmp_path: Path) -> None:
    for name, text in (("pacman.conf.a", "# mine\n[options]\n"), ("pacman.conf.b", "# not mine\n"), ("c", "# mine\n")):
        (tmp_path / name).write_text(text)
    (tmp_path / "pacman.conf.link").symlink_to("c")
    arch.remove_copies("# mine\n", directory=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "pacman.conf.b", "pacman.conf.link"]


def test_without_keys_or_the_tools_to_use_them_arch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = {"gpg"}
    monkeypatch.setattr("machines.host.run.which", lambda tool: None if tool in lacking else f"/usr/bin/{tool}")
    monkeypatch.setattr(arch, "KEY_SCRIPTS", tmp_path / "util")
    monkeypatch.setattr(arch, "KEYRINGS", (tmp_path / "archlinux.gpg",))
    with pytest.raises(Unsupported) as caught:
        arch.check_keyring(ARCH)
    assert caught.value.hint == "apt install makepkg gnupg"
    lacking.clear()
    (tmp_path / "util").mkdir()
    with pytest.raises(Unsupported) as caught:
        arch.check_keyring(ARCH)
    assert "apt install archlinux-keyring" in caught.value.hint
    arch.check_keyring(replace(ARCH, keyring=tmp_path / "own.gpg"))
    (tmp_path / "archlinux.gpg").touch()
    arch.check_keyring(ARCH)


def test_only_primary_keys_are_signed() -> None:
    lines = ("pub:-:255:22:A:1:", "fpr:::::::::AAAA:", "uid:-::::1::H::me:", "sub:-:255:18:B:1:", "fpr:::::::::BBBB:")
    assert arch.fingerprints("\n".join(lines)) == ["AAAA"]


def test_fedora_runs_dnf_with_a_configuration_of_its_own_or_the_hosts() -> None:
    own = fedora.command(FEDORA, tool="dnf5", configuration=Path("/run/d"))
    assert own == [
        "dnf5", "-y", "--installroot=/pool/.#f", "--releasever=42",
        "--setopt=install_weak_deps=False", "--setopt=tsflags=nodocs", "--setopt=keepcache=False",
        "--config=/run/d/dnf.conf", "--setopt=reposdir=/run/d", "install", "systemd", "dnf",
    ]  # fmt: skip
    assert fedora.command(FEDORA, tool="dnf5", configuration=None)[-5:-2] == [
        "--use-host-config", "--setopt=*.gpgcheck=1", "install",
    ]  # fmt: skip
    assert fedora.command(FEDORA, tool="dnf", configuration=None)[-5:-2] == [
        "--setopt=reposdir=/etc/yum.repos.d", "--setopt=*.gpgcheck=1", "install",
    ]  # fmt: skip


def test_fedoras_repositories_are_those_of_the_mirror_and_checked(tmp_path: Path) -> None:
    def text(request: BootstrapRequest) -> str | None:
        return fedora.repositories(request, host=tmp_path, keys=(tmp_path,))

    with pytest.raises(Unsupported) as caught:
        text(FEDORA)
    assert "distribution-gpg-keys" in caught.value.hint
    key = tmp_path / "RPM-GPG-KEY-fedora-42-primary"
    key.touch()
    assert text(FEDORA) == (
        "[fedora]\nname=fedora\nbaseurl=https://m.example/arch/releases/$releasever/Everything/$basearch/os/\n"
        f"gpgcheck=1\ngpgkey=file://{key}\n\n"
        "[updates]\nname=updates\nbaseurl=https://m.example/arch/updates/$releasever/Everything/$basearch/\n"
        f"gpgcheck=1\ngpgkey=file://{key}\n"
    )
    (tmp_path / "repodata").mkdir()
    local = replace(FEDORA, mirror=f"file:{tmp_path}", insecure=True)
    assert text(local) == f"[fedora]\nname=fedora\nbaseurl=file://{tmp_path}\ngpgcheck=0\n"
    with pytest.raises(Unsupported, match="no mirror of Fedora"):
        text(replace(FEDORA, mirror=None))
    (tmp_path / "fedora.repo").touch()
    assert text(replace(FEDORA, mirror=None)) is None


def test_ubuntu_is_main_and_universe_and_needs_a_mirror_where_none_is_known(tmp_path: Path) -> None:
    for command in (mmdebstrap.command, debootstrap.command):
        assert "--components=main,universe" in command(UBUNTU, Path("/k/archive.gpg"))
    (tmp_path / "gutsy").touch()
    (tmp_path / "noble").symlink_to("gutsy")
    (tmp_path / "info").write_text("version,codename,series\n26.04 LTS,Resolute Raccoon,resolute,2025-10-09\n")
    for suite, known in (("noble", True), ("resolute", True), ("gutsy", False), ("trixie", False)):
        assert mmdebstrap.knows_ubuntu(suite, suites=tmp_path / "info", scripts=tmp_path) is known
    with pytest.raises(InvalidValue) as caught:
        debian.check_mirror(UBUNTU, known=False)
    assert "--mirror URL" in caught.value.hint
    newer = replace(UBUNTU, suite="newer", mirror="http://m.example")
    debian.check_mirror(newer, known=False)
    assert debootstrap.command(newer, Path("/k/archive.gpg"), scripts=tmp_path)[-1] == f"{tmp_path}/gutsy"
    with pytest.raises(Unsupported) as lacking:
        debian.archive_keyring(UBUNTU, directory=tmp_path)
    assert "apt install ubuntu-keyring" in lacking.value.hint


@pytest.mark.parametrize(("machine", "name"), [("x86_64", "amd64"), ("armv7l", "armhf"), ("ppc64le", "ppc64el")])
def test_debootstrap_without_dpkg_is_told_the_architecture(
    machine: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(machine=machine))
    for dpkg in (None, "/usr/bin/dpkg"):
        monkeypatch.setattr(debootstrap.run, "which", lambda _, dpkg=dpkg: dpkg)
        assert (f"--arch={name}" in debootstrap.command(UBUNTU, Path("/k/archive.gpg"))) is (dpkg is None)


@pytest.mark.parametrize(
    ("tool", "lines", "message"),
    [
        ("pacstrap", ["error: target not found: nope", "error: target not found: no"], "unknown package: nope, no"),
        ("pacstrap", ["error: core: missing required signature"], "core is not signed"),
        (
            "pacstrap",
            ["error: failed retrieving file 'a-1-any.pkg.tar.zst.sig' from disk : Couldn't open file /srv/a.sig"],
            "a-1-any.pkg.tar.zst is not signed",
        ),
        (
            "pacstrap",
            ['error: key "17574551" could not be looked up remotely', "error: required key missing from keyring"],
            "a package or database is signed by a key that is not in the keyring (17574551)",
        ),
        (
            "pacstrap",
            [
                'error: bash: signature from "Me <me@example.org>" is invalid',
                "error: failed to commit transaction (invalid or corrupted package)",
            ],
            "the signature of bash is wrong",
        ),
        (
            "pacstrap",
            ["error: failed retrieving file 'core.db' from 127.0.0.1:9 : Failed to connect to 127.0.0.1 port 9"],
            "the mirror cannot be reached: Failed to connect to 127.0.0.1 port 9",
        ),
        (
            "pacstrap",
            ["error: failed retrieving file 'core.db' from disk : Couldn't open file /srv/core.db"],
            f"{MIRROR} has no core.db",
        ),
        (
            "pacstrap",
            ["error: Partition /pool too full: 39474 blocks needed, 10499 blocks free"],
            "no space left in /pool",
        ),
        (
            "pacstrap",
            [
                "error: failed to prepare transaction (could not satisfy dependencies)",
                "Errors occurred, no packages were upgraded.",
                "==> ERROR: Failed to install packages to new root",
            ],
            "failed to prepare transaction (could not satisfy dependencies)",
        ),
        (
            "dnf",
            ["No match for argument: nope", "No match for argument: no", "Error: Unable to find a match: nope no"],
            "unknown package in 42: nope, no",
        ),
        (
            "dnf",
            ["Package hello-1-1.noarch.rpm is not signed", "Error: GPG check FAILED"],
            "the signature of hello-1-1.noarch.rpm could not be checked",
        ),
        (
            "dnf",
            [
                "Transaction failed: Signature verification failed.",
                'OpenPGP check for package "hello" (/x.rpm) from repo "fedora" has failed: The package is not signed.',
            ],
            "the signature of hello could not be checked",
        ),
        (
            "dnf",
            ["  - Curl error (6): Could not resolve hostname for http://x/ [Could not resolve host: m.example]"],
            "the mirror's name cannot be resolved: m.example",
        ),
        (
            "dnf",
            ["  - Status code: 404 for https://m.example/x (IP: 1.1.1.1)", "Error: Failed to download metadata"],
            f"the release 42 is not known at {MIRROR}",
        ),
    ],
)
def test_the_cause_is_named(tool: str, lines: list[str], message: str) -> None:
    request, causes = (ARCH, arch.CAUSES) if tool == "pacstrap" else (FEDORA, fedora.CAUSES)
    error = explain(lines, request, tool=tool, causes=causes)
    assert error.message.split(": ", 1)[1] == message
    assert error.message.startswith(f"{tool} could not make a tree of {request.distribution}")


@pytest.mark.parametrize(
    ("request_", "change"),
    [
        (ARCH, {"mirror": "https://m.example/\nSigLevel=Never"}),
        (ARCH, {"mirror": "m.example"}),
        (ARCH, {"packages": ("-U",)}),
        (ARCH, {"packages": ("a b",)}),
        (FEDORA, {"mirror": "https://m.example/\ngpgcheck=0"}),
        (FEDORA, {"packages": ("--nogpgcheck",)}),
        (FEDORA, {"packages": ("*",)}),
    ],
)
def test_a_word_that_would_be_syntax_is_refused(
    tmp_path: Path, request_: BootstrapRequest, change: dict[str, str]
) -> None:
    module = arch if request_ is ARCH else fedora
    wrong = replace(request_, target=tmp_path, **change)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue):
        checks.check(wrong, package=module._PACKAGE, mirror=module._MIRROR)
    checks.check(replace(request_, target=tmp_path), package=module._PACKAGE, mirror=module._MIRROR)


def test_a_finished_arch_tree_has_its_mirror_and_no_leftovers(tmp_path: Path) -> None:
    gone = ("etc/pacman.d/gnupg/S.gpg-agent", "var/cache/pacman/pkg/a.pkg.tar.zst", "var/lib/pacman/sync/core.db")
    kept = ("etc/pacman.d/gnupg/pubring.gpg", "var/lib/pacman/local/ALPM_DB_VERSION")
    for name in (*gone, *kept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    arch.finish(replace(ARCH, target=tmp_path), arch.repositories(MIRROR))
    assert [name for name in gone if (tmp_path / name).exists()] == []
    assert [name for name in kept if not (tmp_path / name).exists()] == []
    assert (tmp_path / "etc/pacman.d/mirrorlist").read_text() == f"Server = {MIRROR}/$repo/os/$arch\n"


def test_a_link_out_of_the_tree_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/x").touch()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/tmp").symlink_to(tmp_path / "outside")
    with pytest.raises(MachctlError, match="leads out of the new tree"):
        clean(tmp_path / "tree", ("tmp/*",))
    assert (tmp_path / "outside/x").exists()


def test_a_tool_fits_its_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking: set[str] = set()
    monkeypatch.setattr("machines.host.run.which", lambda tool: None if tool in lacking else f"/usr/bin/{tool}")
    for distribution, name in (("ubuntu", "mmdebstrap"), ("arch", "pacstrap"), ("fedora", "dnf")):
        assert registry.choose("auto", distribution).name == name
        assert registry.choose(name, distribution).name == name
    for preference, distribution in (("pacstrap", "debian"), ("debootstrap", "arch"), ("auto", "gentoo")):
        with pytest.raises(InvalidValue):
            registry.choose(preference, distribution)
    lacking |= {"pacman", "dnf"}
    assert registry.choose("auto", "fedora").name == "dnf"
    with pytest.raises(Unsupported) as caught:
        registry.choose("auto", "arch")
    assert (caught.value.exit_code, caught.value.hint) == (7, "apt install pacman-package-manager")
    lacking.add("dnf5")
    with pytest.raises(Unsupported, match="lacks dnf"):
        registry.choose("auto", "fedora")


def test_packages_of_a_machine() -> None:
    assert base_packages("arch", "") == ("base",)
    assert "systemd-resolved" in base_packages("debian", "trixie")
    assert "systemd-resolved" not in base_packages("debian", "bullseye")
    assert "systemd-resolved" not in base_packages("ubuntu", "jammy")
    assert base_packages("ubuntu", "noble") == base_packages("debian", "trixie")
    assert {"systemd-networkd", "dnf"} <= set(base_packages("fedora", "42"))
    assert [ssh_package(name) for name in ("debian", "arch", "fedora")] == [
        "openssh-server",
        "openssh",
        "openssh-server",
    ]
