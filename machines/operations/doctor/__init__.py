# SPDX-License-Identifier: LGPL-2.1-or-later
"""What keeps machines from working, and what mends it."""

from machines.operations.doctor.finding import Finding as Finding
from machines.operations.doctor.host import examine as examine
from machines.operations.doctor.mend import mend as mend
from machines.operations.doctor.mend import mending as mending
from machines.operations.doctor.path import examine_machine as examine_machine
