"""How the site is built: ``python -m sphinx -W --keep-going docs docs/_build``, offline."""

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "tinygrad_rnn"
author = "tinygrad_rnn contributors"
copyright = author
version = release = installed("tinygrad_rnn")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "elsewhere",
    "myst_nb",
    "public_names",
    "typeset_math",
]
exclude_patterns = ["_build", "_ext", "_static"]
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# Tutorials run whenever the site is built, and an error in one of them stops the build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
add_module_names = False

html_math_renderer = "katex"
html_theme = "furo"
html_title = f"tinygrad_rnn {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
