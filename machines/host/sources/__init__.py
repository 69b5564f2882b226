# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where trees come from: each kind of source in a file of its own, all behind machines.host.interfaces.SourceMaker."""
