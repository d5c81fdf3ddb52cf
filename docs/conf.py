# SPDX-License-Identifier: Apache-2.0
"""How the site is made of these pages: 'make docs' builds it, with warnings as errors."""

project = "csi-addons-rbd"
author = "the csi-addons-rbd authors"
copyright = author

extensions = ["myst_parser"]
# the pages are plain Markdown, so that a forge shows them well; only the menu is Sphinx's own
root_doc = "menu"
exclude_patterns = ["_build"]
nitpicky = True
smartquotes = False
myst_heading_anchors = 3
# links to files of the repository outside of docs/ become downloads
html_theme = "furo"
html_title = project
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
