"""The documents are true: tests and files that they name exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
IS_SDIST = (ROOT / "PKG-INFO").exists()  # a source distribution, which holds no benchmarks
PAGES = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
DOCUMENTS = [
    *("README.md", "SECURITY.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "RESULTS.md"),
    *PAGES,
]


def written_tests():
    """The names of all test functions, by the file that holds them."""
    return {
        path.name: {
            node.name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        }
        for path in sorted((ROOT / "tests").glob("test_*.py"))
    }


def named_tests(text):
    """The tests that a document names, such as `test_a_kill_leaves_a_good_checkpoint`."""
    return set(re.findall(r"`(test_\w+)`", text))


def named_paths(document):
    """The files of the project that a document names in code or links to."""
    text = (ROOT / document).read_text(encoding="utf-8")
    named = re.findall(r"`((?:omnidali|pipelines|configs|tests|benchmarks|docs)/[\w./]+)`", text)
    linked = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    folder = Path(document).parent
    return {path.rstrip("/") for path in named + [str(folder / path) for path in linked]}


@pytest.mark.parametrize("document", ["README.md", "SECURITY.md", *PAGES])
def test_every_named_test_exists(document):
    existing = set().union(*written_tests().values())
    named = named_tests((ROOT / document).read_text(encoding="utf-8"))
    assert len(named) > 20 or document in PAGES
    assert named - existing == set()


@pytest.mark.parametrize("heading", ["What resume and faults promise"])
def test_every_promise_names_a_test(heading):
    """Each paragraph of README's promises that begins with a bold word names its tests."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split(f"## {heading}\n")[1]
    section = section.split("\n## ")[0]
    promises = re.split(r"\n\n(?=\*\*)", section)[1:]
    assert len(promises) >= 6
    for promise in promises:
        assert named_tests(promise), promise[:80]


def test_every_threat_names_a_test():
    table = (ROOT / "SECURITY.md").read_text(encoding="utf-8").split("|---|---|---|\n")[1]
    rows = table.split("\n\n")[0].splitlines()
    assert len(rows) > 15
    for row in rows:
        assert named_tests(row), row[:80]


def test_a_missing_test_is_noticed():
    """The control of the tests above."""
    existing = set().union(*written_tests().values())
    assert named_tests("shown by `test_that_nobody_wrote`") - existing == {"test_that_nobody_wrote"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_named_file_exists(document):
    missing = [
        path
        for path in named_paths(document)
        if not (ROOT / path).exists() and not (IS_SDIST and path.startswith("benchmarks"))
    ]
    assert not missing


def headings(document):
    """The anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", (ROOT / document).read_text(encoding="utf-8"), flags=re.S)
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_linked_heading_exists(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    folder = Path(document).parent
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", text):
        target = folder / path if path else document
        assert anchor in headings(target), f"{path}#{anchor}"
