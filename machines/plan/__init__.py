# SPDX-License-Identifier: LGPL-2.1-or-later
"""Declared times observed to steps with reasons; pure."""
