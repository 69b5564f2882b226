# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is said about a failed bootstrap, about a request that cannot be run, and what is left in the tree."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import pytest

from machines.errors import Conflict, InvalidValue, NotFound, Unsupported
from machines.host.bootstrap import debian, debootstrap, mmdebstrap, registry
from machines.host.bootstrap.causes import explain
from machines.host.interfaces import BootstrapRequest

MIRROR = "http://m.example/debian"
REQUEST = BootstrapRequest("debian", "trixie", ("dbus",), Path("/pool/.#deb"), Path("/var/log/x.log"), mirror=MIRROR)
RAN = "E: apt-get update --error-on=any -oAPT::Status-Fd=<$fd> -oDpkg::Use-Pty=false failed"
FAILED = ["I: main() received signal PIPE: waiting for setup...", "E: mmdebstrap failed to run"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [
                "tar: ./usr/bin/perl: Cannot write: No space left on device",
                "E: Tried to extract package, but file already exists.",
            ],
            "no space left in /pool",
        ),
        (["E: cannot create /pool/.#deb/etc: Read-only file system"], "/pool is read-only"),
        (
            [
                "  The following signatures couldn't be verified because the public key is not available: "
                "NO_PUBKEY 6ED0E7B82643E131 NO_PUBKEY 78DBA3BC47EF2265",
                "E: The repository 'http://m.example/debian trixie InRelease' is not signed.",
                RAN,
            ],
            "the release of trixie is signed by a key that is not in the keyring (6ED0E7B82643E131)",
        ),
        (
            [
                "E: Release signed by unknown key (key id 762F67A0B2C39DE4)",
                "   The specified keyring /x may be incorrect or out of date.",
            ],
            "the release of trixie is signed by a key that is not in the keyring (762F67A0B2C39DE4)",
        ),
        (
            ["  The following signatures were invalid: BADSIG 6ED0E7B82643E131 Debian Archive", RAN],
            "the signature of the release of trixie is wrong",
        ),
        (["E: Invalid Release signature (key id 762F)"], "the signature of the release of trixie is wrong"),
        (
            ["  The following signatures were invalid: EXPKEYSIG 6ED0E7B82643E131 Debian Archive"],
            "the release of trixie is signed by a key that has expired or was revoked",
        ),
        (
            [
                "E: Release file for http://m.example/debian/dists/trixie/InRelease is expired (invalid since"
                " 3d 2h 1min 4s). Updates for this repository will not be applied."
            ],
            "the release file of trixie is outside its time of validity",
        ),
        (
            [
                "E: Failed to fetch http://m.example/x/dists/trixie/InRelease  400  Bad Request [IP: ::1 80]",
                "E: The repository 'http://m.example/x trixie InRelease' is not signed.",
                RAN,
                *FAILED,
            ],
            "the mirror refuses what is asked of it: http://m.example/x/dists/trixie/InRelease  400  Bad Request",
        ),
        (
            [
                "Err:1 http://m.example/debian trixie InRelease",
                "  Could not resolve 'm.example'",
                "E: The repository 'http://m.example/debian trixie Release' does not have a Release file.",
            ],
            "the mirror's name cannot be resolved: m.example",
        ),
        (
            ["  Could not connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)", RAN],
            "the mirror cannot be reached: Could not connect to 127.0.0.1:9 (127.0.0.1). - connect (111:"
            " Connection refused)",
        ),
        (
            [
                "Connecting to 127.0.0.1:9... failed: Connection refused.",
                "E: Failed getting release file http://127.0.0.1:9/dists/trixie/Release",
            ],
            "the mirror cannot be reached: Connection refused",
        ),
        (
            [
                "E: The repository 'http://m.example/debian trixie Release' does not have a Release file.",
                RAN,
            ],
            f"the suite trixie is not known at {MIRROR}",
        ),
        (
            ["E: No such script: /usr/share/debootstrap/scripts/trixie"],
            f"the suite trixie is not known at {MIRROR}",
        ),
        (
            ["E: Failed getting release file http://m.example/debian/dists/trixie/Release"],
            "no release file of the suite trixie could be got (http://m.example/debian/dists/trixie/Release)",
        ),
        (
            ["E: Unable to locate package nope", "E: Unable to locate package neither", *FAILED],
            "unknown package in trixie: nope, neither",
        ),
        (["E: Couldn't find these debs: nope neither"], "unknown package in trixie: nope neither"),
        (
            ["dpkg: error processing package x", "I: more", "E: setup failed", *FAILED],
            "dpkg: error processing package x",
        ),
        (["something odd", "W: and a warning"], "something odd"),
        ([], "it printed nothing"),
    ],
)
def test_the_cause_is_named(lines: list[str], message: str) -> None:
    error = explain(lines, REQUEST, tool="mmdebstrap")
    assert error.message == f"mmdebstrap could not make a tree of debian trixie: {message}"
    assert error.hint.endswith("the full log is /var/log/x.log")
    assert error.exit_code == 1


def request_for(target: Path) -> BootstrapRequest:
    return replace(REQUEST, target=target, log=target.parent / "log")


@pytest.mark.parametrize(
    "change",
    [
        {"suite": "-x"},
        {"suite": "trixie main"},
        {"mirror": "deb http://m.example/debian x"},
        {"mirror": "/srv/mirror"},
        {"mirror": "http://m.example/ x"},
        {"packages": ("-oDir=/",)},
        {"packages": ("a,b",)},
        {"packages": ("./x.deb",)},
        {"variant": "min base"},
    ],
)
def test_a_word_that_would_be_syntax_is_refused(tmp_path: Path, change: dict[str, str]) -> None:
    with pytest.raises(InvalidValue):
        debian.check(replace(request_for(tmp_path), **change))  # type: ignore[arg-type]


def test_the_target_is_an_empty_directory(tmp_path: Path) -> None:
    target = tmp_path / "t"
    with pytest.raises(NotFound):
        debian.check(request_for(target))
    target.mkdir()
    debian.check(request_for(target))
    (target / "x").touch()
    with pytest.raises(Conflict):
        debian.check(request_for(target))


def test_without_a_keyring_nothing_is_installed(tmp_path: Path) -> None:
    with pytest.raises(Unsupported) as caught:
        debian.archive_keyring(REQUEST, directory=tmp_path)
    assert caught.value.hint.startswith("apt install debian-archive-keyring")
    (tmp_path / "debian-archive-keyring.pgp").touch()
    assert debian.archive_keyring(REQUEST, directory=tmp_path) == tmp_path / "debian-archive-keyring.pgp"
    (tmp_path / "t").mkdir()
    with pytest.raises(NotFound):
        debian.check(replace(request_for(tmp_path / "t"), keyring=tmp_path / "none.gpg"))


@pytest.mark.parametrize("comment", [b"", b"Comment: mine\n"])
def test_an_armored_keyring_is_decoded(comment: bytes) -> None:
    key = bytes(range(256))
    body = base64.encodebytes(key)
    armored = (
        b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n"
        + comment
        + b"\n"
        + body
        + b"=njUN\n-----END PGP PUBLIC KEY BLOCK-----\n"
    )
    assert debian.binary_keyring(armored) == key
    assert debian.binary_keyring(armored * 2) == key * 2
    assert debian.binary_keyring(key) == key


def test_the_keyring_is_alone_in_a_directory_that_all_can_read(tmp_path: Path) -> None:
    keyring = tmp_path / "k.gpg"
    keyring.write_bytes(b"k")
    keyring.chmod(0o600)
    with debian.readable_keyring(keyring) as copy:
        assert [path.name for path in copy.parent.iterdir()] == ["archive.gpg"]
        assert copy.read_bytes() == b"k"
        assert (copy.parent.stat().st_mode & 0o777, copy.stat().st_mode & 0o777) == (0o755, 0o644)
    assert not copy.parent.exists()


def test_mmdebstrap_trusts_one_keyring_only() -> None:
    argv = mmdebstrap.command(replace(REQUEST, mirror="file:/srv/m"), Path("/k/archive.gpg"))
    assert {"--keyring=/k/archive.gpg", "--keyring=/k", "--skip=check/signed-by"} <= set(argv)
    assert argv[-4:] == ["--include=dbus", "trixie", "/pool/.#deb", "copy:///srv/m"]
    plain = mmdebstrap.command(replace(REQUEST, mirror=None, packages=()), Path("/k/archive.gpg"))
    assert plain[-2:] == ["trixie", "/pool/.#deb"]


def test_debootstrap_checks_signatures_and_borrows_a_script_only_with_a_mirror(tmp_path: Path) -> None:
    (tmp_path / "sid").touch()
    (tmp_path / "trixie").touch()

    def tail(request: BootstrapRequest) -> list[str]:
        argv = debootstrap.command(request, Path("/k/archive.gpg"), scripts=tmp_path)
        assert {"--force-check-gpg", "--keyring=/k/archive.gpg", "--variant=minbase"} <= set(argv)
        return argv[argv.index("--include=dbus") + 1 :]

    assert tail(REQUEST) == ["trixie", "/pool/.#deb", MIRROR]
    assert tail(replace(REQUEST, suite="forky")) == ["forky", "/pool/.#deb", MIRROR, f"{tmp_path}/sid"]
    assert tail(replace(REQUEST, suite="forky", mirror=None)) == ["forky", "/pool/.#deb"]


def test_sources_list_of_the_machine() -> None:
    text = "deb copy:///srv/m trixie main\n# note\n"
    assert debian.own_sources(text, keyring=None) == "deb file:///srv/m trixie main\n# note\n"
    signed = debian.own_sources(text, keyring="/etc/apt/keyrings/k.gpg")
    assert signed.splitlines()[0] == "deb [signed-by=/etc/apt/keyrings/k.gpg] file:///srv/m trixie main"


def test_no_leftovers(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    gone = (
        "dev/null",
        "dev/pts/x",
        "etc/hostname",
        "etc/resolv.conf",
        "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
        "run/x/y",
        "tmp/x",
        "var/cache/apt/archives/a.deb",
        "var/lib/apt/lists/x",
        "var/log/bootstrap.log",
        "debootstrap/debootstrap.log",
    )
    kept = ("etc/machine-id", "run/lock/x", "var/lib/apt/lists/lock", "var/log/faillog")
    for name in (*gone, *kept):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    keyring = tmp_path / "mine.asc"
    keyring.write_bytes(b"k")
    (tree / "etc/apt").mkdir()
    (tree / "etc/apt/sources.list").write_text(f"deb {MIRROR} trixie main\n")
    debian.finish(replace(request_for(tree), keyring=keyring))
    assert [name for name in gone if (tree / name).exists()] == []
    assert [name for name in kept if not (tree / name).exists()] == []
    assert (tree / "dev").is_dir()
    assert (tree / "etc/apt/keyrings/mine.gpg").read_bytes() == b"k"
    assert (tree / "etc/apt/sources.list").read_text() == (
        f"deb [signed-by=/etc/apt/keyrings/mine.gpg] {MIRROR} trixie main\n"
    )


def test_a_link_to_the_resolver_stays_and_a_link_out_of_the_tree_is_not_followed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "dpkg.log").touch()
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    debian.finish(request_for(tree))
    assert (tree / "etc/resolv.conf").is_symlink()
    (tree / "var").mkdir()
    (tree / "var/log").symlink_to(outside)
    with pytest.raises(Exception, match="leads out of the new tree"):
        debian.finish(request_for(tree))
    assert (outside / "dpkg.log").exists()


def test_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking: set[str] = set()
    monkeypatch.setattr("machines.host.run.which", lambda tool: None if tool in lacking else f"/usr/bin/{tool}")
    assert registry.choose().name == "mmdebstrap"
    lacking.add("mmdebstrap")
    assert registry.choose("auto").name == "debootstrap"
    with pytest.raises(Unsupported, match="lacks mmdebstrap"):
        registry.choose("mmdebstrap")
    lacking.add("debootstrap")
    with pytest.raises(Unsupported) as caught:
        registry.choose("auto")
    assert caught.value.exit_code == 7
    assert "apt install mmdebstrap" in caught.value.hint
    with pytest.raises(InvalidValue):
        registry.choose("yum")
