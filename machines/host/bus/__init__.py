# SPDX-License-Identifier: LGPL-2.1-or-later
"""D-Bus, one file per bus service: machine1 and job signals over dbus-next, systemd1 over pystemd."""
