# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verbs, a few to a file; app.py says which file has which."""
