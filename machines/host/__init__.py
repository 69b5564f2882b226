# SPDX-License-Identifier: LGPL-2.1-or-later
"""The only room that touches the host; each outside library and each tool has one door in here."""
