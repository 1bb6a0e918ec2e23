"""The corpus is cut at ends of lines, and what cannot be used is one line."""

from benchmarks import brown


def test_parts_are_whole_lines_and_nothing_is_lost(monkeypatch):
    monkeypatch.setattr(brown, "PARTS", {"train": 5, "valid": 2, "test": None})
    lines = ["a b c\n", "d e f\n", "\n", "g\n", "h i\n", "j\n"]
    parts = brown.cut("".join(lines))
    assert "".join(parts.values()) == "".join(lines)
    assert parts == {"train": "a b c\nd e f\n", "valid": "\ng\nh i\n", "test": "j\n"}


def test_a_corpus_without_words_is_one_line_and_4(tmp_path, capsys):
    (tmp_path / "brown.txt").write_text("\n")
    assert brown.main([str(tmp_path / "brown.txt"), str(tmp_path / "work")]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
