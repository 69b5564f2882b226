# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl: the machine manager that systemd-nspawn and systemd-machined lack."""

__version__ = "0.1.0"
