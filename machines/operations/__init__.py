# SPDX-License-Identifier: LGPL-2.1-or-later
"""Doing the steps of a plan, and the verbs that lead to one."""
