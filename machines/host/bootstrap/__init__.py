# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tools that fill an empty directory with a distribution, one file each; see registry for the choice."""
