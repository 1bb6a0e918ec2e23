"""A model folder gives back the model bit for bit; text streams as it is kept; stop strings never appear."""

import json
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elman.config import DataConfig, ModelConfig
from elman.data.prepare import prepare_text
from elman.data.store import store_from_ids
from elman.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from elman.errors import ConfigError, ElmanError, InputError, ModelError, TokenizerError
from elman.evaluate.score import score_store
from elman.models.build import build
from elman.text_model import MixedTextModel, Sample, TextModel, load

FILES = {"config.json", "model.safetensors", "tokenizer.json", "README.md"}


def make(tokenizer: Tokenizer, **shape) -> TextModel:
    torch.manual_seed(0)
    config = ModelConfig(**{"cell": "lstm", "embedding_dim": 8, "hidden_size": 6, "num_layers": 2} | shape)
    model = build(config, tokenizer.vocab_size, tokenizer.pad_id)
    with torch.no_grad():
        model.head.bias.normal_(std=0.5)
        if tokenizer.unknown_id is not None:
            model.head.bias[tokenizer.unknown_id] = -50.0  # its text is that of five characters
    return TextModel(model.eval(), tokenizer, config)


@pytest.fixture(scope="module")
def letters() -> TextModel:
    """Few characters, so that every short string turns up soon."""
    return make(train_tokenizer("char", ["ab\nab\n"], vocab_size=None))


@pytest.fixture(scope="module")
def octets() -> TextModel:
    """Text of many bytes a character, much of it broken."""
    return make(train_tokenizer("byte", [], vocab_size=None))


@pytest.fixture
def folder(letters, tmp_path):
    letters.save(tmp_path / "model", "# A card\n")
    return tmp_path / "model"


# ---- the folder -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["elman", "lstm"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("width", [8, 6])
def test_what_is_saved_is_what_is_loaded(letters, tmp_path, cell, tied, width):
    one = make(letters.tokenizer, cell=cell, tie_embeddings=tied, hidden_size=width, dropout=0.5)
    one.save(tmp_path / "model", "# A card\n")
    other = load(tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == FILES
    assert (tmp_path / "model" / "README.md").read_text() == "# A card\n"
    assert other.config == one.config
    assert other.tokenizer.sha256 == one.tokenizer.sha256
    assert not other.model.training

    tokens = torch.randint(one.tokenizer.vocab_size, (3, 9))
    states = [model.initial_state(3) for model in (one.model, other.model)]
    (before, _), (after, _) = (
        text_model.model.log_probs(tokens, state)
        for text_model, state in zip((one, other), states, strict=True)
    )
    assert torch.equal(before, after)
    assert other.generate(seed=3, max_tokens=20) == one.generate(seed=3, max_tokens=20)


def test_a_loaded_tied_model_is_still_tied(letters, tmp_path):
    make(letters.tokenizer, tie_embeddings=True, hidden_size=8).save(tmp_path / "model", "")
    model = load(tmp_path / "model").model
    assert model.head.weight is model.embedding.weight
    assert not model.embedding.weight[model.pad_index].any()


def test_a_run_folder_is_as_good(folder):
    assert load(folder.parent).config == load(folder).config
    assert load(str(folder)).config == load(folder).config


def test_a_model_is_saved_over_an_older_one(letters, octets, folder):
    octets.save(folder, "# Another\n")
    assert load(folder).tokenizer.sha256 == octets.tokenizer.sha256
    assert {path.name for path in folder.iterdir()} == FILES


def refused(path) -> str:
    """The one line that `load` refuses a folder with."""
    with pytest.raises(ModelError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", sorted(FILES - {"README.md"}))
def test_a_file_that_is_missing_or_cut_short_is_named(folder, name):
    content = (folder / name).read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"\0" * 100):
        (folder / name).write_bytes(damaged)
        assert name in refused(folder)
    (folder / name).unlink()
    assert name in refused(folder)


def test_the_card_is_not_needed(folder):
    (folder / "README.md").unlink()
    assert load(folder)


def test_there_must_be_a_folder(tmp_path):
    assert "no such model or run folder" in refused(tmp_path / "missing")
    assert "not a model folder" in refused(tmp_path)


def test_another_tokenizer_is_refused(letters, folder):
    other = json.loads(letters.tokenizer.to_json())
    vocabulary = other["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]  # as many entries, other meanings
    (folder / "tokenizer.json").write_text(json.dumps(other))
    assert load_tokenizer(str(folder)).vocab_size == letters.tokenizer.vocab_size
    assert "not the one that the model was trained with" in refused(folder)

    (folder / "tokenizer.json").write_text(train_tokenizer("byte", [], vocab_size=None).to_json())
    assert "(vocabulary 259) is not the one" in refused(folder)


def test_a_tokenizer_laid_out_otherwise_is_the_same(letters, folder):
    (folder / "tokenizer.json").write_text(json.dumps(json.loads(letters.tokenizer.to_json()), indent=4))
    assert load(folder).tokenizer.sha256 == letters.tokenizer.sha256


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "elman.model/2"},
        {"vocab_size": 8},
        {"vocab_size": None},
        {"pad_index": 0},
        {"pad_index": 10_000},
        {"pad_index": -1},
        {"pad_index": "x"},
        {"pad_index": None},
        {"tokenizer_sha256": "0"},
        {"model": None},
        {"model": []},
        {"model": {"cell": "gru"}},
        {"model": {"cell": "elman"}},
        {"model": {"hidden_size": 7}},
        {"model": {"hidden_size": 10**9}},
        {"model": {"hidden_size": 10**9, "embedding_dim": 10**9}},
        {"model": {"hidden_size": 0}},
        {"model": {"hidden_size": "6"}},
        {"model": {"num_layers": 3}},
        {"model": {"num_layers": 1.5}},
        {"model": {"num_layers": 10**12}},
        {"model": {"dropout": 2}},
        {"model": {"tie_embeddings": True}},
        {"model": {"unheard_of": 1}},
    ],
    ids=str,
)
def test_settings_that_were_tampered_with_are_refused(folder, change):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    assert content.pop("sha256")  # which would be reason enough
    changed = content | change
    if isinstance(change.get("model"), dict):
        changed["model"] = content["model"] | change["model"]
    path.write_text(json.dumps(changed))
    refused(folder)


# ---- generation -----------------------------------------------------------------------------------------


def streamed(text_model: TextModel, **arguments) -> list[Sample]:
    """Samples, whose pieces as they came are what they hold."""
    pieces: dict[int, str] = {}

    def on_text(row: int, text: str) -> None:
        assert text
        pieces[row] = pieces.get(row, "") + text

    samples = text_model.generate(on_text=on_text, **arguments)
    assert [pieces.get(row, "") for row in range(len(samples))] == [sample.text for sample in samples]
    return samples


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1000),
    stop=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
    samples=st.integers(1, 3),
)
def test_a_sample_is_the_free_one_before_its_first_stop(letters, seed, stop, samples):
    arguments = {"seed": seed, "samples": samples, "max_tokens": 25}
    free = streamed(letters, **arguments)
    stopped = streamed(letters, stop=stop, **arguments)
    for before, after in zip(free, stopped, strict=True):
        places = [at for string in stop if (at := before.text.find(string)) >= 0]
        assert after.text == before.text[: min(places, default=None)]
        assert not any(string in after.text for string in stop)
        assert after.finish_reason == ("stop" if places else before.finish_reason)
        assert (after.tokens < before.tokens) <= bool(places)


def test_a_model_that_has_generated_survives_a_pickle(letters):
    expected = letters.generate("ab", samples=3, max_tokens=12)
    assert letters.tokenizer.encode("ab").size == 2
    assert pickle.loads(pickle.dumps(letters)).generate("ab", samples=3, max_tokens=12) == expected


def test_there_are_ends_of_every_kind(letters):
    reasons = {
        sample.finish_reason
        for stop in ([], ["ab"])
        for sample in letters.generate(samples=30, max_tokens=6, stop=stop)
    }
    assert reasons == {"end", "length", "stop"}


def test_what_may_become_a_stop_string_waits(letters):
    told: list[tuple[int, str]] = []
    arguments = {"samples": 40, "stop": ["bbb"], "max_tokens": 20}
    letters.generate(on_text=lambda row, text: told.append((row, text)), **arguments)
    for row in range(40):
        assert "bbb" not in "".join(text for of_row, text in told if of_row == row)
    assert any(len(text) > 1 for _, text in told)  # "bb" was held back until another letter followed


def test_text_appears_at_once_where_nothing_can_stop_it(letters):
    told: list[str] = []
    (sample,) = letters.generate(seed=3, max_tokens=9, on_text=lambda row, text: told.append(text))
    assert told == list(sample.text)


def test_broken_characters_stream_as_they_are_kept(octets):
    for seed in range(5):
        streamed(octets, seed=seed, max_tokens=80)


class Reciting:
    """A model that is certain of one sequence of tokens."""

    device = torch.device("cpu")

    def __init__(self, vocab_size: int, sequence: list[int]) -> None:
        self.vocab_size = vocab_size
        self._sequence = torch.tensor([*sequence, sequence[-1]])

    def initial_state(self, batch_size: int) -> torch.Tensor:
        return torch.zeros(batch_size, dtype=torch.int64)

    def score(self, tokens, targets, state, reset=None):
        return torch.zeros(tokens.shape), state + tokens.shape[1]

    def log_probs(self, tokens, state, reset=None):
        certain = torch.full((len(tokens), 1, self.vocab_size), -math.inf)
        certain[torch.arange(len(tokens)), 0, self._sequence[state + 1]] = 0.0
        return certain, state + 1


def recited(tokenizer: Tokenizer, prompt: str, ids: list[int], **arguments) -> Sample:
    """What a model says after `prompt` that is certain of `ids`."""
    model = Reciting(tokenizer.vocab_size, [*tokenizer.encode_prompt(prompt), *ids, tokenizer.end_id])
    return streamed(TextModel(model, tokenizer, ModelConfig()), prompt=prompt, **arguments)[0]


LIGHT = "Φως και με\n καρδιά Φως € 😀 \ufffd και με καρδιά \n"
KINDS = {kind: train_tokenizer(kind, [LIGHT] * 2, vocab_size=None) for kind in ("byte", "char", "word")}
KINDS["bpe"] = train_tokenizer("bpe", [LIGHT] * 2, vocab_size=280)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=50)
@given(data=st.data())
def test_prompt_and_continuation_are_the_text_of_their_tokens(kind, data):
    tokenizer = KINDS[kind]
    entries = st.integers(0, tokenizer.vocab_size - 1).filter(lambda i: i not in tokenizer.special_ids)
    words = st.lists(st.sampled_from(LIGHT.split() if kind == "word" else LIGHT), max_size=30)
    prompt = (" " if kind == "word" else "").join(data.draw(words))
    prompt_ids = tokenizer.encode_prompt(prompt)
    assert tokenizer.decode(prompt_ids) == prompt
    pieces = data.draw(st.lists(entries, max_size=12) | st.just(tokenizer.encode("€ και 😀").tolist()))
    together = tokenizer.decode([*prompt_ids, *pieces])
    said = recited(tokenizer, prompt, pieces, max_tokens=99).text
    assert together in (prompt + said, f"{prompt}{said}\ufffd")  # a part of a character at the very end


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("", "με καρδιά"),
        ("Φως και", " με καρδιά"),
        ("Φως και ", "με καρδιά"),
        ("Φως  και   ", "με καρδιά"),
        ("Φως και\n", " με καρδιά"),
        ("Φως \n και", " με καρδιά"),
    ],
)
def test_words_are_continued_with_one_space(prompt, text):
    tokenizer = KINDS["word"]
    assert recited(tokenizer, prompt, tokenizer.encode("με καρδιά").tolist()).text == text


@pytest.mark.parametrize("kind", ["byte", "bpe", "char"])
def test_the_white_space_that_a_model_says_is_its_own(kind):
    tokenizer = KINDS[kind]
    for prompt in ("Φως" + " " * 30, "Φως\n"):
        assert recited(tokenizer, prompt, tokenizer.encode("  με\n").tolist()).text == "  με\n"


def test_tokens_and_nats_are_those_of_the_text(letters):
    model, tokenizer = letters.model, letters.tokenizer
    for sample in letters.generate("ab", samples=8, max_tokens=12, seed=4, temperature=0.7):
        ids = tokenizer.encode(sample.text).tolist()
        assert len(ids) == len(sample.text)  # one character a token, none of them special
        ids += [tokenizer.end_id] * (sample.finish_reason == "end")
        assert sample.tokens == len(ids)
        assert sample.tokens <= 12
        framed = torch.tensor([[*tokenizer.encode_prompt("ab"), *ids]])
        nats, _ = model.score(framed[:, :-1], framed[:, 1:], model.initial_state(1))
        assert sample.nats == pytest.approx(nats[0, -len(ids) :].sum().item(), rel=1e-5)


def test_the_same_seed_says_the_same(letters):
    one = letters.generate(seed=1, max_tokens=40)
    assert letters.generate(seed=1, max_tokens=40) == one
    assert letters.generate(seed=2, max_tokens=40) != one


def test_a_sample_does_not_depend_on_its_neighbours(letters):
    four = letters.generate("a", seed=7, samples=4, max_tokens=30)
    (one,) = letters.generate("a", seed=7, max_tokens=30)
    assert one.text == four[0].text
    assert one.nats == pytest.approx(four[0].nats, rel=1e-5)
    assert len({sample.text for sample in four}) > 1


@pytest.mark.parametrize("prompt", ["", "a", "ab\nab"])
def test_any_prompt_is_continued_and_not_repeated(letters, prompt):
    sample = letters.generate(prompt, max_tokens=5, temperature=0)[0]
    model, ids = letters.model, letters.tokenizer.encode_prompt(prompt)
    log_probs, _ = model.log_probs(torch.tensor([ids]), model.initial_state(1))
    last = log_probs[0, -1]
    last[[letters.tokenizer.start_id, letters.tokenizer.pad_id]] = -math.inf
    first = int(last.argmax())
    assert letters.tokenizer.decode([first]) == sample.text[:1]


def test_padding_and_start_are_never_drawn(letters):
    unlikely = make(letters.tokenizer)
    with torch.no_grad():
        unlikely.model.head.bias[[letters.tokenizer.start_id, letters.tokenizer.pad_id]] = 50.0
    for sample in unlikely.generate(samples=5, max_tokens=10):
        ids = letters.tokenizer.encode(sample.text)
        assert sample.tokens == len(ids) + (sample.finish_reason == "end")


def test_no_tokens_are_no_text(letters):
    assert letters.generate(max_tokens=0) == [Sample("", 0, 0.0, "length")]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"stop": [""]}, ConfigError, "^stop: an empty string"),
        ({"stop": ["a", ""]}, ConfigError, "^stop: an empty string"),
        ({"temperature": -1}, ConfigError, "temperature"),
        ({"top_p": 1.5}, ConfigError, "top_p"),
        ({"top_k": 0}, ConfigError, "top_k"),
        ({"min_p": 2}, ConfigError, "min_p"),
        ({"samples": 0}, ConfigError, "samples"),
        ({"max_tokens": -1}, ConfigError, "max_tokens"),
        ({"prompt": "xyz"}, TokenizerError, "'x' at character 0"),
        ({"prompt": "a\ud800"}, TokenizerError, "at character 1"),
    ],
)
def test_what_cannot_be_generated_is_refused(letters, arguments, error, message):
    with pytest.raises(error, match=message):
        letters.generate(**arguments)


# ---- scoring --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["reset", "carry"])
def test_a_text_is_scored_whole(letters, tmp_path, state):
    (tmp_path / "text.txt").write_text("abba\nx\nbab\n")
    score = letters.score(tmp_path / "text.txt", documents="line", state=state, batch_size=2)
    assert (score.documents, score.targets, score.characters) == (3, 4 + 1 + 3 + 3, 8)
    assert score.unknown == 1
    assert score.state == state

    data = DataConfig(corpus=str(tmp_path / "text.txt"), documents="line")
    store = prepare_text(data, letters.tokenizer)
    direct = score_store(letters.model, store, pad_id=letters.tokenizer.pad_id, state=state)
    assert score.nats == pytest.approx(direct.nats, rel=1e-6)


def test_settings_of_the_data_are_passed_on(letters, tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text('{"body": "ab"}\n')
    assert letters.score(path, text_field="body").characters == 2
    with pytest.raises(ElmanError, match="text"):
        letters.score(path)


# ---- mixtures -------------------------------------------------------------------------------------------


def test_a_mixture_comes_back_from_its_folder(letters, tmp_path):
    parts = [letters, make(letters.tokenizer, cell="elman", hidden_size=9)]
    mixture = MixedTextModel(parts, [0.25, 0.75])
    mixture.save(tmp_path / "mixed", "# A card\n")
    assert (tmp_path / "mixed" / "README.md").read_text() == "# A card\n"
    other = load(tmp_path / "mixed")
    assert isinstance(other, MixedTextModel)
    assert other.weights == (0.25, 0.75)
    tokens = torch.randint(letters.tokenizer.vocab_size, (3, 9))
    before, after = (m.model.log_probs(tokens, m.model.initial_state(3))[0] for m in (mixture, other))
    assert torch.equal(before, after)
    assert other.generate(seed=3, max_tokens=20) == mixture.generate(seed=3, max_tokens=20)


def test_models_of_different_tokenizers_do_not_mix(letters, octets):
    store = store_from_ids([[3]], start_id=letters.tokenizer.start_id, end_id=letters.tokenizer.end_id)
    with pytest.raises(InputError, match="one tokenizer"):
        MixedTextModel([letters, octets], [0.5, 0.5])
    with pytest.raises(InputError, match="one tokenizer"):
        MixedTextModel.fit([letters, octets], store)


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_smaller_weights_are_loaded_and_never_saved(letters, tmp_path, weights):
    letters.save(tmp_path / "model", "# a\n")
    small = load(tmp_path / "model", weights=weights)
    assert small.generate("ab", max_tokens=9) == load(tmp_path / "model", weights=weights).generate(
        "ab", max_tokens=9
    )
    with pytest.raises(ConfigError, match=f"{weights} weights is not saved"):
        small.save(tmp_path / "again", "# b\n")
    assert not (tmp_path / "again").exists()
    for parts in ([letters, small], [MixedTextModel([letters, small], [0.5, 0.5]), letters]):
        with pytest.raises(ConfigError, match=f"{weights} weights is not saved"):
            MixedTextModel(parts, [0.25, 0.75]).save(tmp_path / "mixed", "# c\n")
        assert not (tmp_path / "mixed").exists()
    with pytest.raises(ConfigError, match="'int4' must be one of float32, bfloat16, int8"):
        load(tmp_path / "model", weights="int4")
