# SPDX-License-Identifier: LGPL-2.1-or-later
"""What machctl talks about: frozen values, no I/O."""
