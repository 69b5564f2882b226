# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python3 -m machines`` is ``machctl``."""

import sys

from machines.cli import main

sys.exit(main())
