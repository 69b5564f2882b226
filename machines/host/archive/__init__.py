# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trees, tar archives and OCI images as one stream of entries, each taken for hostile until it is written."""
