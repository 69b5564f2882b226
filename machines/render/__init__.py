# SPDX-License-Identifier: LGPL-2.1-or-later
"""Model to the text of files, through the templates of templates/; pure."""
