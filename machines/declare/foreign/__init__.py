# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines that others described, in their own files, to what machctl would have declared of them."""
