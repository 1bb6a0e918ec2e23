"""`elman generate`: the same text for the same seed, and nothing on stdout for a request that is refused."""

import re

import pytest

from elman.text_model import load
from tests.command_line import small


def test_json_is_one_document_with_what_is_promised(elman, desk):
    options = ["--samples", "3", "--max-tokens", "7", "--temperature", "0.8", "--seed", "5"]
    filters = ["--top-k", "50", "--top-p", "0.9", "--min-p", "0.01", "--repetition-penalty", "1.1"]
    outcome = elman("generate", desk / "run", "the", *options, *filters, "--json")
    document = outcome.document
    assert set(document) == {"schema", "samples"}
    assert document["schema"] == "elman.generate/1"
    assert outcome.err == ""
    assert len(document["samples"]) == 3
    for sample in document["samples"]:
        assert set(sample) == {"text", "tokens", "nats", "finish_reason"}
        assert 0 < sample["tokens"] <= 7
        assert sample["nats"] > 0
        assert sample["finish_reason"] in ("end", "length")
    assert outcome.out.isascii()  # any terminal and any locale can carry it


def test_what_streams_is_the_prompt_and_the_sample(elman, desk):
    (sample,) = elman("generate", desk / "run", "the", "--max-tokens", 20, "--json").document["samples"]
    assert elman("generate", desk / "run", "the", "--max-tokens", 20).out == f"the{sample['text']}\n"
    assert sample["text"] == load(desk / "run").generate("the", max_tokens=20)[0].text


def test_words_are_printed_apart(elman, texts):
    assert elman("train", "good.txt", *small(tokenizer="word", batch_size=2), "--out", "out", "-q").code == 0
    options = ["--max-tokens", 9, "--temperature", 0]
    (sample,) = elman("generate", "out", "the cat", *options, "--json").document["samples"]
    assert re.match(r" [^ ]", sample["text"])
    printed = elman("generate", "out", "the cat", *options).out
    assert printed == f"the cat{sample['text']}\n"
    two = elman("generate", "out", "the cat", *options, "--samples", 2).out
    assert two.count(printed) == 2


def test_several_samples_are_told_apart(elman, desk):
    outcome = elman("generate", desk / "run", "the", "--samples", 2, "--max-tokens", 3)
    assert outcome.out.count("tokens, length)\nthe") == 2


def test_the_seed_decides(elman, desk):
    texts = [
        elman("generate", desk / "run", "--seed", seed, "--max-tokens", 30).out for seed in (1, 1, 2, -1)
    ]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


def test_an_empty_prompt_begins_a_document(elman, desk):
    assert elman("generate", desk / "run", "", "--max-tokens", 5).out
    assert elman("generate", desk / "run", "--max-tokens", 5) == elman(
        "generate", desk / "run", "", "--max-tokens", 5
    )


def test_no_tokens_are_legal(elman, desk):
    assert elman("generate", desk / "run", "the", "--max-tokens", 0).out == "the\n"
    (sample,) = elman("generate", desk / "run", "--max-tokens", 0, "--json").document["samples"]
    assert sample == {"text": "", "tokens": 0, "nats": 0.0, "finish_reason": "length"}


def test_a_stop_string_ends_before_itself(elman, desk):
    free = elman("generate", desk / "run", "--max-tokens", 40, "--json").document["samples"][0]["text"]
    options = ["--max-tokens", 40, "--stop", free[5], f"--stop={free[9]}"]
    (stopped,) = elman("generate", desk / "run", *options, "--json").document["samples"]
    assert stopped["text"] == free[: min(free.index(free[5]), free.index(free[9]))]
    assert stopped["finish_reason"] == "stop"


def test_a_prompt_from_standard_input_and_one_with_hyphens(elman, desk):
    assert elman("generate", desk / "run", "-", "--max-tokens", 0, stdin="née".encode()).out == "née\n"
    assert elman("generate", desk / "run", "--max-tokens", 0, "--", "--debug -x").out == "--debug -x\n"


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_small_weights_are_told_with_their_bytes_and_how_to_measure_their_cost(elman, desk, weights):
    outcome = elman("generate", desk / "run", "the", "--max-tokens", 5, "--weights", weights, "--json")
    (line,) = outcome.err.splitlines()
    model = load(desk / "run", weights=weights)
    before, after = (
        # a matrix that is tied is held once
        sum({tensor.data_ptr(): tensor.nbytes for tensor in network.state_dict().values()}.values())
        for network in (load(desk / "run").model, model.model.network)
    )
    assert 0 < after < before < 1_000_000
    assert line.startswith(f"weights: {weights}, {after / 1e3:.1f} kB instead of {before / 1e3:.1f} kB;")
    (sample,) = outcome.document["samples"]
    expected = model.generate("the", max_tokens=5)[0]
    assert (sample["text"], sample["nats"]) == (expected.text, expected.nats)
    command = line.partition("bits per byte: elman ")[2].split()
    assert "bits per byte" in elman(*command).out
    plain = elman("generate", desk / "run", "the", "--max-tokens", 5, "--weights", "float32")
    assert (plain.code, plain.err) == (0, "")


@pytest.mark.parametrize(
    ("options", "code", "parts"),
    [
        (["--temperature", "nan"], 4, ["temperature (nan)"]),
        (["--temperature", "-1"], 4, ["temperature (-1.0)"]),
        (["--temperature", "hot"], 2, ["--temperature", "hot"]),
        (["--temprature", "1"], 2, ["did you mean --temperature?"]),
        (["--samples", "0"], 4, ["samples (0) must be at least 1"]),
        (["--samples", "1000000000"], 4, ["samples (1000000000)", "at most"]),
        (["--max-tokens", "-1"], 4, ["max_tokens (-1)"]),
        (["--max-tokens", "1.5"], 2, ["'1.5' is not a whole number"]),
        (["--top-k", "0"], 4, ["top_k (0) must be", "leave it out to keep all"]),
        (["--top-p", "0"], 4, ["top_p (0.0)"]),
        (["--top-p", "1.5"], 4, ["top_p (1.5)"]),
        (["--min-p", "2"], 4, ["min_p (2.0)"]),
        (["--repetition-penalty", "0"], 4, ["repetition_penalty (0.0)"]),
        (["--stop", ""], 4, ["stop"]),
        (["--weights", "int4"], 2, ["int4", "int8"]),
        (["a second prompt"], 2, ["unexpected argument 'a second prompt'"]),
        (["-x"], 2, ["unknown option -x", "after --"]),
    ],
)
def test_a_refused_request_prints_nothing(elman, desk, options, code, parts):
    elman("generate", desk / "run", "the", *options).refuses(code, *parts)


def test_a_prompt_outside_the_vocabulary_is_refused(elman, texts):
    options = small(tokenizer="char")
    assert elman("train", "good.txt", *options, "--out", "out", "-q").code == 0
    elman("generate", "out", "the Ω").refuses(4, "'Ω' at character 4 is not in the vocabulary")
    elman("generate", "out", "the \udcff").refuses(4, "'the \\udcff' is not UTF-8")


def test_no_model(elman):
    elman("generate").refuses(2, "elman generate needs MODEL")
    elman("generate", "nowhere", "the").refuses(5, "nowhere: no such model or run folder")
