# SPDX-License-Identifier: LGPL-2.1-or-later
"""What updates of machines need of the host (machines.host.protocols.Upkeep)."""

from machines.host.inside import run_inside as run_inside
from machines.host.loop import looped as looped
from machines.host.stale import stale_units as stale_units
from machines.host.storage.volumes import drop_volume as drop_volume
from machines.host.storage.volumes import find_volume as find_volume
from machines.host.storage.volumes import real_path as real_path
from machines.host.storage.volumes import restore_volume as restore_volume
from machines.host.storage.volumes import save_volume as save_volume
