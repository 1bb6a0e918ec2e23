"""A language model with its tokenizer: text in, text out. What `elman.load` returns.

A model folder holds `config.json`, `model.safetensors`, `tokenizer.json` and `README.md`, and needs nothing
else; that of a mixture holds a model folder for each part. A run folder is accepted wherever a model folder is.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from elman.config import DataConfig, ModelConfig
from elman.data.prepare import prepare_text
from elman.data.store import TokenStore
from elman.data.tokenizer import TokenDecoder, Tokenizer
from elman.data.tokenizer_file import LARGEST_FILE, parse_tokenizer_file
from elman.errors import ConfigError, InputError, ModelError
from elman.evaluate.mix import fit_weights
from elman.evaluate.score import Score, StateRule, score_store, token_nats
from elman.files import write_atomically
from elman.generate.engine import Generation
from elman.generate.sampling import Sampling
from elman.models.base import LanguageModel
from elman.models.build import restore, tensors_of
from elman.models.mixture import Mixture
from elman.models.neural import NeuralLanguageModel
from elman.models.ngram import NgramModel
from elman.models.quantize import QuantizedLanguageModel, SmallWeights, quantize
from elman.models.store import (
    find_model,
    read_part,
    read_settings,
    read_settled,
    read_tensors,
    refuse_escape,
    write_model,
)
from elman.ranks import ALONE, Ranks
from elman.settings import read_section


@dataclass(frozen=True, slots=True)
class Sample:
    """One continuation of a prompt."""

    text: str
    """What follows the prompt, the space between two words for instance, up to the stop string that ended it. Where
    the last tokens are a part of a character, that is left out."""
    tokens: int
    """Tokens drawn, the end token included."""
    nats: float
    """Minus the log-probability of those tokens under the model itself."""
    finish_reason: Literal["end", "length", "stop"]
    """The end token, `max_tokens`, or a stop string."""


Weights = Literal["float32", SmallWeights]
"""What the large matrices of a model are kept in: as they were trained, or smaller."""

PARTS = "parts"
"""Where the folder of a mixture keeps those of its models."""

OnText = Callable[[int, str], None]
"""Told the number of a sample and the text it has just gained."""


class TextModel:
    """A language model, in evaluation mode, and the tokenizer it was trained with."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, config: ModelConfig) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.config = config

    def generate(
        self,
        prompt: str = "",
        *,
        max_tokens: int = 200,
        samples: int = 1,
        seed: int = 0,
        stop: Sequence[str] = (),
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        on_text: OnText | None = None,
    ) -> list[Sample]:
        """Continuations of `prompt`, drawn token by token in constant memory and time a token.

        Args:
            prompt: The text to continue; empty starts a document.
            max_tokens: Tokens drawn for each sample at most.
            samples: How many; each depends on `seed` and its number only.
            seed: Same seed, same text.
            stop: A sample ends before the first of these strings.
            temperature: See `Sampling`, as for the four after it.
            top_k: Keep the k most likely tokens.
            top_p: Keep the fewest tokens that hold this share of the mass.
            min_p: Keep the tokens at least this share as likely as the most likely.
            repetition_penalty: Above 1 makes tokens that were seen less likely.
            on_text: Called with every piece of text as it appears.

        Raises:
            TokenizerError: The prompt holds something outside the vocabulary.
            ConfigError: A setting is out of range.
        """
        if any(not string for string in stop):
            raise ConfigError("stop: an empty string would stop before the first token; leave it out")
        sampling = Sampling(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
        )
        prompt_ids = self.tokenizer.encode_prompt(prompt)
        generation = Generation(
            self.model,
            [prompt_ids],
            sampling=sampling,
            max_tokens=max_tokens,
            samples=samples,
            end_id=self.tokenizer.end_id,
            banned=sorted(self.tokenizer.special_ids - {self.tokenizer.end_id}),
            seed=seed,
        )
        decoded = partial(self.tokenizer.decoder, prompt_ids[1:])  # without the start token
        said = _unsaid_white_space(prompt, self.tokenizer.decode(prompt_ids))
        writers = [
            _Writer(decoded(), self.tokenizer.end_id, said, stop, on_text, row) for row in range(samples)
        ]
        for steps in generation:
            for step in steps:
                writer = writers[step.row]
                writer.take(step.token, step.nats, step.finish_reason)
                if writer.finish_reason == "stop":
                    generation.stop(step.row)
        return [writer.finish() for writer in writers]

    def score(
        self,
        text: str | Path,
        *,
        documents: Literal["line", "paragraph", "file", "record"] | None = None,
        batch_size: int = 32,
        state: StateRule = "reset",
        **data_settings: Any,
    ) -> Score:
        """The score of a corpus: a file, a folder, or anything else that `--help` of `elman eval` lists."""
        data = DataConfig(corpus=str(text), documents=documents, **data_settings)
        store = prepare_text(data, self.tokenizer)
        return self.score_store(store, batch_size=batch_size, state=state)

    def score_store(
        self,
        store: TokenStore,
        *,
        batch_size: int = 32,
        state: StateRule = "reset",
        ranks: Ranks = ALONE,
    ) -> Score:
        """The score of tokens that were prepared with this model's tokenizer, found by all `ranks` together."""
        return score_store(
            self.model,
            store,
            pad_id=self.tokenizer.pad_id,
            unknown_id=self.tokenizer.unknown_id,
            batch_size=batch_size,
            state=state,
            ranks=ranks,
        )

    def token_nats(self, store: TokenStore, *, ranks: Ranks = ALONE) -> NDArray[np.float64]:
        """Nats of every target of tokens that were prepared with this model's tokenizer, [N]."""
        return token_nats(self.model, store, pad_id=self.tokenizer.pad_id, ranks=ranks)

    def save(self, folder: Path, card: str) -> None:
        """Write a self-contained model folder, with `card` as its README.md.

        Raises:
            ConfigError: The weights were made smaller; a folder holds what was trained.
        """
        self._require_trained_weights()
        settings: dict[str, Any] = {"model": asdict(self.config)}
        if isinstance(self.model, NgramModel):
            settings["excluded_ids"] = list(self.model.excluded_ids)
        self._write(folder, card, settings, tensors_of(self.model))

    def _require_trained_weights(self) -> None:
        if isinstance(self.model, QuantizedLanguageModel):
            raise ConfigError(f"a model with {self.model.weights} weights is not saved; load it with float32")

    def _write(
        self, folder: Path, card: str, settings: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        settings |= {
            "vocab_size": self.tokenizer.vocab_size,
            "pad_index": self.tokenizer.pad_id,
            "tokenizer_sha256": self.tokenizer.sha256,
        }
        write_atomically(folder / "tokenizer.json", self.tokenizer.to_json())
        write_atomically(folder / "README.md", card)
        write_model(folder, settings, tensors)


class MixedTextModel(TextModel):
    """Models of one tokenizer and their weights: a model like any other. Its folder holds theirs, in `parts/`."""

    def __init__(self, parts: Sequence[TextModel], weights: Sequence[float]) -> None:
        """`weights` are positive and sum to one.

        Raises:
            InputError: The models have different tokenizers.
        """
        require_one_tokenizer(parts)
        super().__init__(
            Mixture([part.model for part in parts], weights), parts[0].tokenizer, parts[0].config
        )
        self.parts, self.weights = tuple(parts), tuple(weights)

    @classmethod
    def fit(cls, parts: Sequence[TextModel], store: TokenStore, *, ranks: Ranks = ALONE) -> "MixedTextModel":
        """The mixture that predicts `store` best.

        Raises:
            InputError: The models have different tokenizers, or all rule out some target.
        """
        require_one_tokenizer(parts)
        return cls(
            parts, fit_weights(np.stack([part.token_nats(store, ranks=ranks) for part in parts])).tolist()
        )

    def save(self, folder: Path, card: str) -> None:
        """Write the parts, then the weights.

        Raises:
            ConfigError: The weights of a part were made smaller; nothing is written then.
        """
        self._require_trained_weights()
        for number, part in enumerate(self.parts, start=1):
            part.save(folder / PARTS / str(number), f"# Part {number} of a mixture\n")
        self._write(folder, card, {"weights": list(self.weights)}, {})

    def _require_trained_weights(self) -> None:
        for part in self.parts:
            part._require_trained_weights()


def require_one_tokenizer(parts: Sequence[TextModel]) -> None:
    """Raise InputError unless the models divide text into the same tokens."""
    sizes = {part.tokenizer.sha256: part.tokenizer.vocab_size for part in parts}
    if len(sizes) > 1:
        raise InputError(
            f"a mixture needs models of one tokenizer, and these have {len(sizes)} different ones, of"
            f" {' and '.join(f'{size:,}' for size in sizes.values())} entries; train the second with --tokenizer"
            " FIRST/model/tokenizer.json"
        )


def load(path: str | Path, *, device: str = "cpu", weights: Weights = "float32") -> TextModel:
    """The model in a model folder or a run folder.

    Args:
        path: The folder.
        device: Where a network computes; counts stay on the CPU.
        weights: What its large matrices are kept in, see `models.quantize`. Of a mixture, those of its networks.

    Raises:
        ModelError: A file is missing, damaged, or does not fit the others.
        ConfigError: There are no such weights; they cannot be used on the device, or the model has no matrices.
    """
    if weights not in get_args(Weights):
        raise ConfigError(f"weights {weights!r} must be one of {', '.join(get_args(Weights))}")
    text_model = _load(path, device)
    return text_model if weights == "float32" else _smaller(text_model, weights)


def _smaller(text_model: TextModel, weights: SmallWeights) -> TextModel:
    """The same with smaller weights; the model that is given cannot be used any more."""
    if isinstance(text_model, MixedTextModel):
        networks = [part for part in text_model.parts if isinstance(part.model, NeuralLanguageModel)]
        if networks:
            parts = [_smaller(part, weights) if part in networks else part for part in text_model.parts]
            return MixedTextModel(parts, text_model.weights)
    return TextModel(quantize(text_model.model, weights), text_model.tokenizer, text_model.config)


def _load(path: str | Path, device: str) -> TextModel:
    """The model as it was trained."""
    folder = find_model(Path(path).expanduser())
    return read_settled(folder, lambda: _read(folder, device))


def _read(folder: Path, device: str) -> TextModel:
    settings = read_settings(folder)
    tokenizer = _load_tokenizer(folder, settings)
    if "weights" in settings:
        return _load_mixture(folder, settings["weights"], device)
    try:
        config = read_section("model", settings.get("model"), "model")
        model = restore(
            config,
            tokenizer.vocab_size,
            pad_index=tokenizer.pad_id,
            excluded_ids=_excluded_ids(folder, settings),
            read=partial(read_tensors, folder, sha256=settings.get("weights_sha256")),
        )
    except ConfigError as error:
        raise ModelError(f"{folder / 'config.json'}: {error}") from error
    if isinstance(model, torch.nn.Module):  # counts stay on the CPU
        model.to(device)
    return TextModel(model, tokenizer, config)


def _excluded_ids(folder: Path, settings: dict[str, Any]) -> list[int]:
    """What an n-gram model never predicts; nothing for the others."""
    found = settings.get("excluded_ids", [])
    if not isinstance(found, list) or not all(type(index) is int for index in found):
        raise ModelError(f"{folder / 'config.json'}: excluded_ids {found!r} are not token ids")
    return found


def _load_mixture(folder: Path, weights: object, device: str) -> MixedTextModel:
    sound = (
        isinstance(weights, list)
        and len(weights) > 0
        and all(isinstance(weight, float) and 0 < weight <= 1 for weight in weights)
        and abs(sum(weights) - 1) < 1e-6
    )
    if not sound or not isinstance(weights, list):
        raise ModelError(f"{folder / 'config.json'}: weights {weights!r} are not positive numbers of sum one")
    places = [folder / PARTS / str(number) for number in range(1, len(weights) + 1)]
    parts = [_load(refuse_escape(folder, place), device) for place in places]
    try:
        return MixedTextModel(parts, weights)
    except InputError:
        raise ModelError(
            f"{folder}: its parts have different tokenizers; restore the original folder"
        ) from None


def _load_tokenizer(folder: Path, settings: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a model folder, compared with what the settings say of it."""
    content = read_part(folder, "tokenizer.json", LARGEST_FILE)
    try:
        tokenizer = Tokenizer(parse_tokenizer_file(content, str(folder / "tokenizer.json")))
    except InputError as error:
        raise ModelError(str(error)) from error
    if tokenizer.vocab_size != settings.get("vocab_size") or tokenizer.sha256 != settings.get(
        "tokenizer_sha256"
    ):
        raise ModelError(
            f"{folder}: tokenizer.json (vocabulary {tokenizer.vocab_size:,}) is not the one that the model was"
            f" trained with (vocabulary {settings.get('vocab_size')}); restore the original file"
        )
    if tokenizer.pad_id != settings.get("pad_index"):
        raise ModelError(
            f"{folder / 'config.json'}: pad_index {settings.get('pad_index')!r} is not that of tokenizer.json,"
            f" {tokenizer.pad_id}; restore the original file"
        )
    return tokenizer


class _Writer:
    """Collects the text of one sample and notices stop strings."""

    def __init__(
        self,
        decoder: TokenDecoder,
        end_id: int,
        said: str,
        stop: Sequence[str],
        on_text: OnText | None,
        row: int,
    ) -> None:
        self._decoder, self._end_id = decoder, end_id
        self._said = said  # of what comes, at the end of the prompt already
        self._stop, self._on_text, self._row = stop, on_text, row
        self._text, self._told = "", 0
        self._tokens, self._nats = 0, 0.0
        self.finish_reason: Literal["end", "length", "stop"] = "length"

    def take(self, token: int, nats: float, finish_reason: Literal["end", "length"] | None) -> None:
        self._tokens += 1
        self._nats += nats
        self.finish_reason = finish_reason or self.finish_reason
        if token != self._end_id:
            self._gain(self._decoder.step(token))

    def finish(self) -> Sample:
        if self.finish_reason != "stop":
            self._gain(self._decoder.rest())
        self._tell(len(self._text))
        return Sample(self._text, self._tokens, self._nats, self.finish_reason)

    def _gain(self, text: str) -> None:
        if text:
            text, self._said = text[_shared(text, self._said) :], ""
        before = len(self._text)
        self._text += text
        longest = max((len(string) for string in self._stop), default=1)
        found = [
            at for string in self._stop if (at := self._text.find(string, max(0, before - longest + 1))) >= 0
        ]
        if found:
            self._text, self.finish_reason = self._text[: min(found)], "stop"
        else:
            self._tell(len(self._text) - longest + 1)  # what may be the beginning of a stop string waits

    def _tell(self, until: int) -> None:
        if self._on_text is not None and until > self._told:
            self._on_text(self._row, self._text[self._told : until])
            self._told = until


def _unsaid_white_space(prompt: str, decoded: str) -> str:
    """White space at the end of a prompt that its tokens do not say; that before the next word may be the same."""
    white, kept = (text[len(text.rstrip()) :] for text in (prompt, decoded))
    return white[len(kept) :] if white.startswith(kept) else ""


def _shared(one: str, other: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
