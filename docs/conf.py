"""How `make docs` makes a site of this folder: Sphinx, pages in Markdown by MyST, `darp`'s API from its docstrings."""

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
about = (ROOT / "pyproject.toml").read_text(encoding="utf-8")

project = "darp-wandb"
author = "The maintainers"
version = release = re.findall(r'^version = "(.+)"', about, re.M)[0]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"{project} {release}"
exclude_patterns = ["_build"]

myst_heading_anchors = 3  # `page.md#a-heading` is checked
default_role = "code"  # docstrings write `name`, as in Markdown

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "description"
autodoc_preserve_defaults = True
autoclass_content = "class"


def link_files_outside(app: object, page: str, source: list[str]) -> None:
    """A link to a Markdown file outside this folder leads to the file itself: it is no page of the site."""
    source[0] = re.sub(r"\]\((?=(\.\./)+[^)#]*\.md\))", "](path:", source[0])


def setup(app: Any) -> None:
    app.connect("source-read", link_files_outside)
