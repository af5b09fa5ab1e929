"""The documentation keeps its word: its code runs, its commands work, its links lead somewhere, no name is missing."""

import ast
import doctest
import importlib
import importlib.util
import itertools
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import convmat

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.ja.md", "CONTRIBUTING.md")),
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts),
]
"""Pages whose blocks of Python run here. README.md and the docstrings are collected by pytest itself."""

TEXTS = [*PAGES, ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "RESULTS.md"]
BLOCK = re.compile(r"^(`{3,})(\w+)\n(.*?)^\1$", re.DOTALL | re.MULTILINE)


def name(path):
    return str(path.relative_to(ROOT))


def blocks(path, language):
    return [body for _, kind, body in BLOCK.findall(path.read_text(encoding="utf-8")) if kind == language]


def sections(text):
    """The parts of a page, each from one heading of the second level to the next: (number of its first line, text)."""
    starts = [0, *(match.start() for match in re.finditer(r"^## ", text, re.MULTILINE)), len(text)]
    for start, stop in itertools.pairwise(starts):
        yield text.count("\n", 0, start), text[start:stop]


def missing(examples):
    """The packages that examples import and that are not installed."""
    imported = set()
    for example in examples:
        for node in ast.walk(ast.parse(example.source)):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
    return {package for package in imported if importlib.util.find_spec(package) is None}


def run_page(path):
    """Run the examples of a page in its order, in one namespace: (number of examples run, failures, what is missing).

    A section that imports what is not installed is left out.
    """
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    namespace, lacking, report = {}, set(), []
    for line, text in sections(path.read_text(encoding="utf-8")):
        test = parser.get_doctest(text, namespace, name(path), str(path), line)
        if absent := missing(test.examples):
            lacking |= absent
            continue
        runner.run(test, out=report.append, clear_globs=False)
        namespace = test.globs
    return runner.summarize(verbose=False).attempted, report, lacking


@pytest.mark.filterwarnings("ignore:::(?!convmat)")  # what frameworks warn of when they are imported is theirs
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_code_of_the_page_runs(page):
    attempted, report, lacking = run_page(page)
    assert not report, "".join(report)
    if lacking:
        pytest.skip(f"{attempted} examples ran; sections that need {', '.join(sorted(lacking))} did not")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_of_python_is_a_doctest(page):
    for block in blocks(page, "python"):
        assert block.startswith(">>> "), block
        assert block.endswith("\n\n"), f"without an empty line at its end, doctest takes the fence for output:\n{block}"


def test_a_wrong_page_is_found(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("# A\n\n```python\n>>> a = 1\n\n```\n\n## B\n\n```python\n>>> a + 1\n3\n\n```\n\n"
                    "## C\n\n```python\n>>> import no_such_package\n>>> 1\n2\n\n```\n")  # fmt: skip
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    attempted, report, lacking = run_page(page)
    assert attempted == 2
    assert "line 11" in "".join(report)
    assert lacking == {"no_such_package"}


def commands(page):
    """The lines of the blocks of shell."""
    return [line for block in blocks(page, "sh") for line in block.splitlines()]


CONVMAT = [(page, line) for page in PAGES for line in commands(page) if line.startswith("convmat ")]
NEEDS_FILES = {"layers", "bench"}
"""Commands that are parsed, and not run: they need a model, or all the machine."""


def test_there_are_commands_to_check():
    assert {line.split()[1] for _, line in CONVMAT} >= {"show", "animate", "spectrum", "layers", "bench", "demo"}


@pytest.mark.parametrize(("page", "line"), CONVMAT, ids=[line for _, line in CONVMAT])
def test_command_of_the_page_works(page, line, tmp_path, monkeypatch, capsys):
    from convmat import cli

    words = shlex.split(line)[1:]
    if words[0] in NEEDS_FILES:
        parsed = cli._parser().parse_args(words)
        assert parsed.command == words[0]
        return
    if words[0] in ("animate", "demo"):
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=name)
def test_scripts_that_the_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    for script in re.findall(r"python ((?:examples|benchmarks)/\S+?\.py)", text):
        assert (ROOT / script).is_file(), script
    for place in re.findall(r"`((?:tests|docs|convmat|benchmarks|examples|\.ci)/[\w./]*\w/?)`", text):
        assert (ROOT / place).exists(), place


def test_modules_of_the_design_page_exist():
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    table = text[text.index("## The house") : text.index("Rules that keep it simple")]
    named = [
        word
        for row in table.splitlines()
        if row.startswith("| `")
        for word in re.findall(r"`([\w/]+)`", row.split("|")[1])
    ]
    for module in named:
        assert (ROOT / "convmat" / f"{module}.py").is_file() or (ROOT / "convmat" / module).is_dir(), module
    rooms = {place.partition("/")[0] for place in named if place.partition("/")[2]}
    here = {
        "/".join(path.relative_to(ROOT / "convmat").with_suffix("").parts)
        for folder in (ROOT / "convmat", *(ROOT / "convmat" / room for room in rooms))
        for path in folder.iterdir()
        if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").is_file()
    }
    assert here - rooms == {place.rstrip("/") for place in named}


@pytest.mark.parametrize("page", TEXTS, ids=name)
def test_relative_links_and_pictures_exist(page):
    text = re.sub(BLOCK, "", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)[^)]*\)", text):
        assert (page.parent / link).exists(), link
    for link in re.findall(r"\{doc\}`(?:[^`<]*<)?([^`>]+)>?`", text):
        example = re.fullmatch(r"(?:\.\./)?gallery/(\d.*)", link)
        target = ROOT / "examples" / f"{example[1]}.py" if example else page.parent / f"{link}.md"
        assert target.exists() or link.endswith("gallery/index"), link


def test_every_public_name_is_in_the_reference():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^   ([\w.]+)$", text, re.MULTILINE)
    assert len(set(listed)) == len(listed)
    assert set(convmat.__all__) <= {entry.rpartition(".")[2] for entry in listed}
    pytest.importorskip("matplotlib")
    plot = importlib.import_module("convmat.plot")
    assert {entry.removeprefix("plot.") for entry in listed if entry.startswith("plot.")} == set(plot.__all__)


def test_names_that_the_pages_refer_to_exist():
    for page in PAGES:
        for reference in re.findall(r"\{(?:func|class)\}`~?convmat\.([\w.]+)`", page.read_text(encoding="utf-8")):
            thing = convmat
            for part in reference.split("."):
                thing = getattr(thing, part)
            assert thing.__doc__, reference


def test_translation_has_the_commands_of_the_readme():
    assert blocks(ROOT / "README.ja.md", "sh") == blocks(ROOT / "README.md", "sh")


def test_citation_has_the_version_of_the_package():
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == convmat.__version__
    assert citation["license"] == "BSD-3-Clause"
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def test_changelog_has_the_version_of_the_package():
    newest = re.search(r"^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest
    assert newest[1].strip(",") == convmat.__version__


def test_every_example_has_a_page_of_the_gallery():
    """sphinx-gallery makes one of a title, underlined, in the docstring."""
    for example in sorted((ROOT / "examples").glob("[0-9]*.py")):
        title, underline = ast.get_docstring(ast.parse(example.read_text(encoding="utf-8"))).splitlines()[:2]
        assert re.fullmatch("=+", underline), example.name
        assert len(underline) >= len(title), example.name


CONF = """
    import runpy, sys
    conf = runpy.run_path(sys.argv[1])
    print(conf["release"], *conf["RUN"])
"""


def test_configuration_loads_and_runs_the_examples():
    pytest.importorskip("sphinx_gallery")
    code = [sys.executable, "-c", textwrap.dedent(CONF), str(ROOT / "docs" / "conf.py")]
    done = subprocess.run(code, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    version, *examples = done.stdout.split()
    assert version == convmat.__version__
    assert "01_transpose_is_the_transpose" in examples


LOADED = """
    import pathlib, runpy, sys
    for lacking in runpy.run_path(sys.argv[1])["not_in_the_build"](pathlib.Path(sys.argv[2])):
        print(lacking)
"""


def not_in_the_build(folder):
    code = [sys.executable, "-c", textwrap.dedent(LOADED), str(ROOT / "docs" / "conf.py"), str(folder)]
    done = subprocess.run(code, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_pages_that_cannot_be_read_offline_are_found(tmp_path):
    """docs/conf.py refuses them at the end of a build."""
    pytest.importorskip("sphinx_gallery")
    (tmp_path / "sub").mkdir()
    (tmp_path / "math.js").write_text("")
    (tmp_path / "icon.svg").write_text("")
    page = tmp_path / "sub" / "page.html"
    page.write_text(
        '<script defer="defer" src="../math.js?v=1"></script><script>"local"</script><img src="../icon.svg#part"/>'
        '<a href="https://elsewhere.example">a link is not loaded</a><code>&lt;img src="x.png"&gt;</code>'
    )
    style = tmp_path / "style.css"
    style.write_text('a { background: url(icon.svg) } b { background: url("data:image/svg+xml,x") }')
    assert not_in_the_build(tmp_path) == []
    page.write_text(
        '<script async src="https://cdn.example/math.js"></script>\n<link rel="preload" href="//fonts.example/a.css">'
        '<img alt=""\n src="gone.png"><script src="../math.js"></script>'
    )
    style.write_text('@import "https://fonts.example/b.css"; @font-face { src: url(https://fonts.example/c.woff2) }')
    assert not_in_the_build(tmp_path) == [
        "style.css loads https://fonts.example/b.css",
        "style.css loads https://fonts.example/c.woff2",
        "sub/page.html loads https://cdn.example/math.js",
        "sub/page.html loads //fonts.example/a.css",
        "sub/page.html loads gone.png",
    ]
