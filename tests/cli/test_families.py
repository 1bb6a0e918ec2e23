"""Every family of models goes the whole way: train, eval, generate, doctor, and once more from its config."""

import json
from pathlib import Path

import pytest

from elman.settings import from_toml
from elman.text_model import load
from tests.cli.test_train import KEYS, everything_in
from tests.command_line import SMALL

FAMILIES = {
    "transformer": ["--model", "transformer", "--num-heads", "2", "--context", "8"],
    "transformer, tied": ["--model=transformer", "--mlp=gelu", "--context=40", "--tie-embeddings"],
    "window": ["--model", "window", "--order", "3"],
    "recurrent": ["--model", "recurrent", "--cell", "gru"],
    "mingru": ["--cell", "mingru"],
    "minlstm": ["--cell", "minlstm", "--block", "plain"],
    "slstm": ["--cell", "slstm", "--num-heads", "2"],
    "mlstm": ["--cell", "mlstm", "--num-heads", "2"],
    "every dropout": [
        *("--cell", "elman", "--block", "residual", "--dropout", "0.2", "--locked-dropout"),
        *("--embedding-dropout", "0.1", "--weight-dropout", "0.3"),
    ],
    "ngram": ["--model", "ngram", "--order", "3"],
    "ngram, pruned": ["--model", "ngram", "--order", "4", "--prune", "0,0,1"],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_goes_the_whole_way(elman, texts, family):
    command = ["train", "good.txt", *FAMILIES[family], *SMALL, "-q", "--json"]
    trained = elman(*command, "--out", "one").document
    assert set(trained) == KEYS
    assert Path("one/report.html").is_file()
    assert family.partition(",")[0] in ("every dropout", load("one").config.family, load("one").config.cell)
    scored = elman("eval", "one", "--json").document
    assert scored["nats"] == pytest.approx(trained["valid"]["nats"], rel=1e-6)
    assert elman("eval", "one", "good.txt", "--batch-size", 1, "--json").document["nats"] > 0
    (sample,) = elman("generate", "one", "the", "--max-tokens", 9, "--json").document["samples"]
    assert 0 < sample["tokens"] <= 9
    checks = elman("doctor", "one", "--json").document["checks"]
    assert [check["name"] for check in checks if not check["pass"]] == []
    assert ("padding row" in [check["name"] for check in checks]) == ("ngram" not in family)
    # The config of a run is the run.
    again = elman("train", "--config", "one/config.toml", "--out", "two", "-q", "--json").document
    assert from_toml(Path("two/config.toml")) == from_toml(Path("one/config.toml"))
    assert again["valid"]["nats"] == trained["valid"]["nats"]


@pytest.mark.parametrize(
    ("cell", "block"), [("lstm", "plain"), ("mingru", "residual"), ("slstm", "xlstm"), ("mlstm", "xlstm")]
)
def test_a_cell_is_tried_in_the_block_that_suits_it(elman, texts, cell, block):
    assert elman("train", "good.txt", "--cell", cell, *SMALL, "--out", "one", "-q").code == 0
    assert load("one").config.block == block


# Counts


def test_counting_has_no_steps_and_no_yardstick_but_counts_everything(elman, texts):
    options = ["--model", "ngram", "--tokenizer", "byte", "--device", "cpu"]
    outcome = elman("train", "good.txt", *options, "--out", "out", "--json")
    document = outcome.document
    assert (document["steps"], document["yardstick"]) == (0, None)
    assert "ngram, order 5, on cpu" in outcome.err
    assert document["tokens"] + document["valid"]["targets"] == len(texts["good.txt"].read_bytes()) + 2
    assert document["parameters"] > document["tokens"]
    assert not Path("out/metrics.jsonl").exists()
    table = elman("train", "good.txt", *options, "--out", "other", "-q")
    assert "ngram" in table.out
    assert "sample 1" in table.out


def test_counting_twice_gives_the_same_folder(elman, texts):
    for out in ("one", "two"):
        assert elman("train", "good.txt", "--model", "ngram", *SMALL, "--out", out, "-q").code == 0
    weights = [Path(out, "model/model.safetensors").read_bytes() for out in ("one", "two")]
    assert weights[0] == weights[1]


def test_a_higher_order_predicts_better_what_it_has_seen(elman, texts):
    bits = []
    for order in (1, 2, 5):
        options = ["--model", "ngram", "--order", order, *SMALL, "-q", "--json"]
        bits.append(elman("train", "good.txt", *options).document["valid"]["bits_per_byte"])
    assert bits == sorted(bits, reverse=True)
    assert bits[-1] < 0.8 * bits[0]


def test_without_out_the_family_names_the_run(elman, texts):
    for number in (1, 2):
        document = elman("train", "good.txt", "--model", "ngram", *SMALL, "-q", "--json").document
        assert document["run"] == f"runs/good-ngram-{number}"


def test_a_text_shorter_than_the_order_is_refused_and_leaves_nothing(elman, texts):
    Path("tiny.txt").write_text("ab")
    before = everything_in(Path())
    options = ["--model", "ngram", "--tokenizer", "byte", "--valid", "good.txt", "--out", "out"]
    elman("train", "tiny.txt", *options, "--order", "5").refuses(4, "3 tokens", "order 5")
    assert everything_in(Path()) == before
    assert elman("train", "tiny.txt", *options, "--order", "3", "-q").code == 0


@pytest.mark.parametrize("name", ["order_2.keys", "order_3.probs"])
def test_damaged_counts_are_one_line(elman, texts, name):
    import safetensors.torch

    assert elman("train", "good.txt", "--model=ngram", "--order=3", *SMALL, "--out=out", "-q").code == 0
    path, config = Path("out/model/model.safetensors"), Path("out/model/config.json")
    settings = json.loads(config.read_text())
    for name_of_sum in ("sha256", "weights_sha256"):
        assert settings.pop(name_of_sum)  # which would be reason enough
    config.write_text(json.dumps(settings))
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({key: t for key, t in tensors.items() if key != name}, path)
    elman("eval", "out", "good.txt").refuses(5, name, "missing")
    tensors[name] = tensors[name].flip(0)[:-1].contiguous()
    safetensors.torch.save_file(tensors, path)
    elman("eval", "out", "good.txt").refuses(5, f"order {name[6]}", "do not fit")
