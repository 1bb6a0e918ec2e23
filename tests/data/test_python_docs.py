"""The corpus inside Python: there, in English, the same each time, without warnings or imports."""

import subprocess
import sys
import textwrap
import warnings

import pytest

from elman.data import python_docs as module
from elman.data.corpora import open_corpus
from elman.data.python_docs import docstrings_of_source, python_docs


def test_every_document_is_text_and_none_comes_twice():
    documents = python_docs()
    assert all(text.strip() for text in documents)
    assert len(set(documents)) == len(documents)
    assert all(text.encode() for text in documents)


def test_it_holds_about_two_megabytes_of_both_parts():
    documents = python_docs()
    assert 1_500_000 < sum(map(len, documents)) < 6_000_000
    assert any("Boolean operations" in text for text in documents)
    assert any(text.startswith("JSON (JavaScript Object Notation)") for text in documents)


def test_a_docstring_comes_once_and_with_those_of_its_module(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text('''"""A."""\ndef f(): "Same."\ndef g(): "Other."\ndef h(): "Same."''')
    (tmp_path / "b.py").write_text('''"""B."""\ndef f(): "Same."''')
    (tmp_path / "c.py").write_text("def f(): 'Other.'")
    monkeypatch.setattr(module.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert python_docs.__wrapped__() == ("A.\n\nSame.\n\nOther.", "B.")


def test_another_process_finds_the_same_without_warnings_or_imports():
    script = textwrap.dedent("""
        import hashlib, sys
        from elman.data.python_docs import python_docs
        text = "\\0".join(python_docs())
        assert "turtle" not in sys.modules and "antigravity" not in sys.modules
        print(hashlib.sha256(text.encode()).hexdigest())
    """)
    digests = {
        subprocess.run(
            [sys.executable, "-W", "error", "-c", script],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_docstrings_come_in_the_order_of_the_source():
    source = b'''
"""Module."""
class A:
    """Class.

    Second.
        Indented.
    """
    def method(self):
        """Method."""
        def inner(): "Inner."
    "no docstring"
if True:
    async def f():
        """Conditional."""
else:
    def g():
        """Otherwise."""
try:
    pass
except ImportError:
    def h():
        """Handler."""
x = lambda: """Value."""
'''
    assert list(docstrings_of_source(source)) == [
        "Module.",
        "Class.\n\nSecond.\n    Indented.",
        "Method.",
        "Inner.",
        "Conditional.",
        "Otherwise.",
        "Handler.",
    ]


@pytest.mark.parametrize(
    "source", [b"print 'old'", b"\x00", b"# coding: no-such\n", b"'\xff'", b"(" * 10_000]
)
def test_source_that_cannot_be_parsed_has_none(source):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert list(docstrings_of_source(source)) == []


def test_other_peoples_code_and_tests_are_left_out(tmp_path):
    for folder in ("", "package", "site-packages", "test", "package/tests", "config-3.11", "lib2to3"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "a.py").write_text(f'"""In {folder}."""')
    (tmp_path / "b.txt").write_text('"""Not a source."""')
    (tmp_path / "package" / "bad.py").write_text("print 'old'")
    assert list(module._library(tmp_path)) == [["In ."], ["In package."], []]


def test_as_a_corpus_each_is_a_document():
    corpus = open_corpus("python-docs")
    begins = sum(piece.begins for piece in corpus.pieces())
    assert begins == len(python_docs())
    assert "".join(piece.text for piece in corpus.pieces()) == "".join(python_docs())
