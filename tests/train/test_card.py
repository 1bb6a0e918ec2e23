"""The card of a model holds its provenance, whatever the settings are."""

import math

import pytest

from elman.evaluate.score import Score
from elman.settings import resolve, to_toml
from elman.train.card import model_card

ENVIRONMENT = {
    "elman": "0.1.0",
    "packages": {"torch": "2.99.1"},
    "python": "3.14.1",
    "device": "cuda:3",
    "threads": 17,
    "product_dtype": "torch.bfloat16",
    "ranks": 4,
}


@pytest.mark.parametrize("nats", [123.4, 1e9])
def test_a_card_tells_where_a_model_comes_from_and_how_good_it_is(nats):
    config = resolve("default", overrides={"corpus": "{curly} texts/a.txt", "num_layers": 3})
    score = Score(nats=nats, targets=100, characters=90, bytes=95, words=20, documents=4)
    sizes = {"bytes": 123_456, "documents": 78}
    data = {"vocab_size": 512, "train": sizes, "content_sha256": "c0ffee", "tokenizer_sha256": "7ea"}
    result = {
        "run": "runs/a-lstm-1",
        "parameters": 1_234_567,
        "steps": 1000,
        "tokens": 64_000,
        "seconds": 90.4,
    }
    command = "elman train '{curly} texts/a.txt'"
    card = model_card(config, data, result | {"valid": score.as_dict()}, command, ENVIRONMENT)
    assert card.startswith("# a-lstm-1\n")
    assert to_toml(config) in card
    for told in (
        *("lstm, 3 x 320", "1,234,567", "123,456 bytes", "78 documents", "1,000 steps", "64,000 tokens"),
        *("90 seconds", "4 documents, 95 bytes, 100 targets", "elman train '{curly} texts/a.txt'"),
        *("torch 2.99.1", "Python 3.14.1", "cuda:3", "threads: 17", "bfloat16;", "processes: 4", "seed: 0"),
        *("c0ffee", "7ea", f"{nats / 95 / math.log(2):.4f}", f"{score.perplexity:.2f}"),
    ):
        assert told in card, told


def test_a_card_without_a_command_says_what_was_called():
    score = Score(nats=1.0, targets=1, characters=1, bytes=1, words=1, documents=1)
    data = {
        "vocab_size": 5,
        "train": {"bytes": 1, "documents": 1},
        "content_sha256": "",
        "tokenizer_sha256": "",
    }
    result = {"run": "r", "parameters": 1, "steps": 1, "tokens": 1, "seconds": 1.0, "valid": score.as_dict()}
    assert "`elman.train(...)`" in model_card(resolve(), data, result, "", ENVIRONMENT)
