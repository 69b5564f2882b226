# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where root trees live and how they come and go."""
