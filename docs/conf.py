"""How Sphinx builds the documentation: ``python -m sphinx -W --keep-going -n -b html docs docs/_build/html``.

Nothing is fetched while it builds, nor when its pages are read: a page that loads what is not in the build is an error.
sphinx-gallery runs the examples, once, and takes the pictures that they save.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import shutil
import sys
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

from docutils.parsers.rst.states import Inliner
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.inspect import stringify_signature
from sphinx_gallery.scrapers import figure_rst

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

import convmat  # noqa: E402

project = "convmat"
author = "the convmat developers"
project_copyright = author
version = release = convmat.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery/*.py", "gallery/*.md5", "gallery/*.zip"]
templates_path = ["_templates"]
default_role = "autolink"  # in docstrings, `Conv2d` is a link where there is such an object, and italic elsewhere
nitpick_ignore_regex = [
    ("py:obj", ".*"),  # what autolink found, but is not in the reference
    ("py:(class|func)", r"(numpy|scipy)\..*"),
]

# -- text ------------------------------------------------------------------------------------------------------------
myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "attrs_inline"]
myst_heading_anchors = 3
mathjax_path = "tex-svg.js"  # draws formulas as paths: one file, which needs no fonts and no other scripts
mathjax3_config = {"options": {"enableMenu": False}}  # its menu would
suppress_warnings = ["config.cache"]  # the scraper below is a function, which Sphinx cannot pickle

# -- reference -------------------------------------------------------------------------------------------------------
autosummary_generate = True
autodoc_typehints = "none"  # numpydoc says more than they do
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = True
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
numpydoc_validation_checks = {  # what makes a docstring read or render wrongly; ruff and mypy check the rest
    "GL03", "GL05", "GL06", "GL07", "GL09", "GL10",  # blank lines, tabs, unknown sections, their order, directives
    "SS01", "SS02", "SS04",  # a summary, that begins with a capital
    "PR05", "PR10", "RT01", "YD01",  # types, returns
}  # fmt: skip

# -- gallery ---------------------------------------------------------------------------------------------------------
PICTURES = DOCS / "_build" / "pictures"


def picture_arguments(_: Any, script: dict[str, Any]) -> list[str]:
    """The command line of an example: its picture goes to a folder of its own."""
    return ["--out", str(PICTURES / Path(script["src_file"]).stem), "--dpi", "80"]


def saved_pictures(block: Any, script: dict[str, Any], gallery: dict[str, Any]) -> str:
    """The pictures that an example saved since the last block, as reST: a scraper of sphinx-gallery."""
    folder, found = PICTURES / Path(script["src_file"]).stem, []
    pictures = sorted(folder.rglob("*.*"), key=lambda picture: (len(picture.parts), picture.name))
    for picture, place in zip(pictures, script["image_path_iterator"], strict=False):
        target = Path(place).with_suffix(picture.suffix)
        shutil.move(picture, target)
        found.append(str(target))
    return figure_rst(found, gallery["src_dir"])


def runnable(example: Path) -> bool:
    """Whether everything that an example imports, or looks for by find_spec("..."), is installed."""
    wanted = set()
    for node in ast.walk(ast.parse(example.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wanted |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            wanted.add(node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("find_spec"):
            wanted |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return all(name.startswith("_") or find_spec(name.partition(".")[0]) for name in wanted)


RUN = [example.stem for example in sorted((ROOT / "examples").glob("[0-9]*.py")) if runnable(example)]

sphinx_gallery_conf = {
    "examples_dirs": [str(ROOT / "examples")],
    "gallery_dirs": ["gallery"],
    "filename_pattern": rf"[\\/]({'|'.join(RUN)})\.py$",  # the others are shown, and not run
    "ignore_pattern": r"(^|[\\/])_",
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": (saved_pictures,),
    "reset_argv": picture_arguments,
    "download_all_examples": False,
    "notebook_extensions": set(),
    "show_signature": False,
    "show_memory": False,
    "capture_repr": (),
    "write_computation_times": False,
    "min_reported_time": 10_000,
    "remove_config_comments": True,
    "default_thumb_file": str(DOCS / "images" / "transposed_is_not_inverse.png"),
    "thumbnail_size": (400, 250),
}

# -- pages -----------------------------------------------------------------------------------------------------------
html_theme = "furo"
html_title = f"convmat {version}"
html_static_path = ["_static", str(files("sphinx-mathjax-offline") / "static" / "mathjax" / mathjax_path)]
html_css_files = ["convmat.css"]
html_copy_source = False
html_show_sourcelink = False


def trim_blocks(app: Sphinx, page: str, source: list[str]) -> None:
    """Drop the empty line at the end of a block of Python, without which doctest takes the fence for output."""
    source[0] = re.sub(r"^(```python\n.*?)\n+(```)$", r"\1\n\2", source[0], flags=re.DOTALL | re.MULTILINE)


def hide_folders(app: Sphinx, page: str, source: list[str]) -> None:
    """Show the place of a picture as the user of an example sees it."""
    if page.startswith("gallery/"):
        source[0] = re.sub(re.escape(f"{PICTURES}{os.sep}") + r"[^/\\]+", "pictures", source[0])


def bar(inliner: Inliner, match: re.Match[str], line: int) -> tuple[str, list[Any], str, list[Any]]:
    """A bar is a bar: in our docstrings |x| is a norm and not a substitution of reST."""
    end = match.end("start")
    return match.string[:end], [], match.string[end:], []


def plain_text(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """A shape (*batch, *input_shape) is no emphasis, and the initial of "V. Dumoulin" no number of a list."""
    stars = [re.sub(r"(?<=[(\s])\*(?=[\w.]+[,)])", r"\*", line) for line in lines]
    lines[:] = [re.sub(r"^(\s*\.\. \[\d+\] [A-Z])\. ", r"\1\. ", line) for line in stars]


def signature(app: Sphinx, what: str, name: str, thing: Any, options: Any, given: str, returns: str) -> Any:
    """The signature of __init__, where scipy's LinearOperator hides it behind a __new__ of its own."""
    if what != "class" or given != "(*args, **kwargs)":
        return None
    _first, *rest = inspect.signature(thing.__init__).parameters.values()
    return stringify_signature(inspect.Signature(rest), show_annotation=False), None


LOADED = {
    ".html": re.compile(r'<(?:script|img|source|iframe|link)\b[^>]*?\s(?:src|href)="([^"]*)"'),
    ".css": re.compile(r"""(?:url\(|@import)\s*["']?([^"')\s;]+)"""),
}
"""Suffix -> what a browser loads by itself when it opens such a file."""


def not_in_the_build(folder: Path) -> list[str]:
    """What the pages and style sheets in a folder load and is not there, such as the file of another host."""
    return [
        f"{file.relative_to(folder)} loads {link}"
        for file in sorted(folder.rglob("*"))
        if file.suffix in LOADED
        for link in LOADED[file.suffix].findall(file.read_text(encoding="utf-8"))
        if not link.startswith(("data:", "#"))
        and not (file.parent / unquote(urldefrag(link).url.partition("?")[0])).is_file()
    ]


def check_loaded(app: Sphinx, error: Exception | None) -> None:
    """Refuse pages that cannot be read offline."""
    if error is None and app.builder.format == "html" and (lacking := not_in_the_build(Path(app.outdir))):
        raise ExtensionError("not in the build:\n" + "\n".join(lacking))


def setup(app: Sphinx) -> None:
    """What Sphinx calls."""
    shutil.rmtree(DOCS / "generated", ignore_errors=True)  # it may have pages of names that are gone
    Inliner.dispatch = {**Inliner.dispatch, "|": bar}
    app.connect("source-read", trim_blocks)
    app.connect("source-read", hide_folders)
    app.connect("autodoc-process-docstring", plain_text, priority=100)  # before numpydoc
    app.connect("autodoc-process-signature", signature, priority=100)
    app.connect("build-finished", check_loaded, priority=900)  # when all is written
