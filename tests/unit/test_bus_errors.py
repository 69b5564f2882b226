# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import pytest

from machines.errors import (
    CommandFailed,
    Conflict,
    InvalidValue,
    NotFound,
    NotPermitted,
    NotRunning,
    TimedOut,
    Unsupported,
)
from machines.host.bus import errors
from machines.host.bus.errors import translate

DBUS = "org.freedesktop.DBus.Error."
MACHINED = "org.freedesktop.machine1"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (DBUS + "AccessDenied", NotPermitted),
        (DBUS + "InteractiveAuthorizationRequired", NotPermitted),
        (DBUS + "InvalidArgs", InvalidValue),
        (DBUS + "NoReply", TimedOut),
        (DBUS + "UnknownMethod", Unsupported),
        ("org.freedesktop.systemd1.NoSuchUnit", NotFound),
        ("org.freedesktop.systemd1.UnitMasked", Conflict),
        ("org.freedesktop.machine1.NoSuchMachine", NotRunning),
        ("System.Error.EBUSY", Conflict),
        ("org.example.Whatever", CommandFailed),
        ("", CommandFailed),
    ],
)
def test_each_name_has_a_kind(name, kind):
    error = translate(name, "Some text.\n", doing="start x.service", service="org.freedesktop.systemd1")
    assert type(error) is kind
    assert error.message == "cannot start x.service: Some text"


def test_the_name_stands_in_for_a_missing_text():
    assert translate("org.example.X", "", doing="do it").message == "cannot do it: org.example.X"


def test_machined_that_is_not_there():
    error = translate(DBUS + "ServiceUnknown", "The name was not provided", doing="list", service=MACHINED)
    assert type(error) is Unsupported
    assert "systemd-machined is not there" in error.message
    assert "apt install systemd-container" in error.hint


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("org.freedesktop.systemd1.UnitMasked", "Unit dbus-org.freedesktop.machine1.service is masked."),
        (DBUS + "NoSuchUnit", "Unit systemd-machined.service is masked."),
    ],
)
def test_machined_that_is_masked(name, text):
    error = translate(name, text, doing="list", service=MACHINED)
    assert type(error) is Unsupported
    assert error.hint == "systemctl unmask systemd-machined.service"


def test_machined_that_is_masked_on_262():
    text = "Unit dbus-org.freedesktop.machine1.service failed to load properly, please adjust/correct: File exists"
    error = translate("System.Error.EEXIST", text, doing="list", service=MACHINED)
    assert type(error) is Unsupported
    assert error.hint.startswith("systemctl unmask systemd-machined.service")


def test_permission_says_sudo_only_to_others_than_root(monkeypatch):
    monkeypatch.setattr(errors.os, "geteuid", lambda: 1000)
    assert "sudo" in translate(DBUS + "AccessDenied", "no", doing="x").hint
    monkeypatch.setattr(errors.os, "geteuid", lambda: 0)
    assert translate(DBUS + "AccessDenied", "no", doing="x").hint == ""


def test_a_host_without_systemd_is_told_from_one_without_a_bus(monkeypatch):
    monkeypatch.delenv("DBUS_SYSTEM_BUS_ADDRESS", raising=False)
    monkeypatch.setattr(errors.os.path, "isdir", lambda path: False)
    assert "not booted with systemd" in errors.no_bus("No such file").message
    monkeypatch.setattr(errors.os.path, "isdir", lambda path: True)
    assert "No such file" in errors.no_bus("No such file").message
