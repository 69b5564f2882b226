# SPDX-License-Identifier: LGPL-2.1-or-later
"""Words to model: what was typed or written in a file becomes a Machine, or errors that say where and why."""
