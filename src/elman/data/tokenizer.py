"""Text to token ids and back: byte, character, word and BPE vocabularies trained here, and pretrained ones.

Every tokenizer is one `tokenizer.json` of the `tokenizers` library, and everything that shapes the ids is in
it, digit masking included, so training, scoring and generation agree. Three tokens frame documents and
batches: a start token (context of a document's first token), an end token (its last target) and a padding
token, which never stands for text. A pretrained vocabulary that lacks one of them is given it. Text that
spells a special token, "</s>" say, is text.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as TokenizerFile

from elman.config import suggestion
from elman.data.tokenizer_file import one_line_errors, read_tokenizer_file, require_harmless
from elman.data.units import UnitEncoder, cuts_before_white_space, unit_rule
from elman.errors import ElmanError, TokenizerError, first_line

Kind = Literal["byte", "char", "word", "bpe"]

PAD, START, END, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"

START_NAMES = (START, "<|startoftext|>", "<|begin_of_text|>", "<bos>", "[BOS]", "[CLS]")
END_NAMES = (END, "<|endoftext|>", "<|end_of_text|>", "<eos>", "[EOS]", "[SEP]")
PAD_NAMES = (PAD, "[PAD]", "<|pad|>", "<|padding|>", "<|endoftext|>")
"""Names that pretrained vocabularies use, in order of preference; the three roles never share a token."""

SPLITTERS = {"char": r"[\s\S]", "word": r"\n|\S+"}
"""What one entry of the vocabulary is. Words keep line ends and drop other white space."""

REPLACEMENT = "\ufffd"
"""What bytes that are no character, or not yet, are decoded to."""

DECODED_BEHIND = 8
"""Last tokens of a text that the next ones are decoded behind: more than a character has bytes."""

_FAILED = "the tokenizer fails on this text; use another one"

_WORDS = re.compile(r"\n|[\S\x1c-\x1f]+")
"""The same words in Python, to which the separators \\x1c-\\x1f are white space, and to the splitter they are not."""


class Tokenizer:
    """A vocabulary with its rules, and the three framing tokens."""

    def __init__(self, file: TokenizerFile) -> None:
        """Take `file` over, with the framing tokens that it lacks.

        Raises:
            TokenizerError: It refuses a framing token, or has an id beyond its size.
        """
        with one_line_errors("the tokenizer cannot be used"):
            self._take(file)

    def _take(self, file: TokenizerFile) -> None:
        file.no_truncation()
        file.no_padding()
        self._file = file
        vocabulary = file.get_vocab(with_added_tokens=True)
        taken: list[str] = []
        for names in (START_NAMES, END_NAMES, PAD_NAMES):
            present = [name for name in names if name in vocabulary and name not in taken]
            taken.append(present[0] if present else names[0])
        file.add_special_tokens([name for name in taken if name not in vocabulary])
        file.encode_special_tokens = True
        self.start_id, self.end_id, self.pad_id = (self._id(name) for name in taken)
        self.unknown_id: int | None = file.token_to_id(UNKNOWN)
        self.vocab_size: int = file.get_vocab_size(with_added_tokens=True)
        largest = max(file.get_vocab(with_added_tokens=True).values())
        if largest >= self.vocab_size:
            raise TokenizerError(
                f"the tokenizer has {self.vocab_size:,} entries, and one of them the id {largest:,}; number them"
                " from 0 without gaps"
            )

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[TokenizerFile]]:
        """The file alone: what it forgets of itself is set again, and what is remembered stays behind."""
        return Tokenizer, (self._file,)

    def _id(self, name: str) -> int:
        found: int | None = self._file.token_to_id(name)
        if found is None:
            raise TokenizerError(f"the tokenizer refuses the special token {name!r}")
        return found

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Every id that is not text: framing tokens and whatever else the file marks as special."""
        added = self._file.get_added_tokens_decoder()
        return frozenset(index for index, token in added.items() if token.special)

    @cached_property
    def sha256(self) -> str:
        """Of the file's content: two tokenizers with the same sum give the same ids."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @cached_property
    def cuts_safely(self) -> bool:
        """Whether cutting a text before white space that follows a character leaves its tokens the same."""
        with one_line_errors(_FAILED):
            return cuts_before_white_space(self._file)

    @property
    def dtype(self) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
        """The smallest unsigned type that holds every id."""
        return np.dtype(np.uint16) if self.vocab_size <= 1 << 16 else np.dtype(np.uint32)

    def encode(self, text: str) -> NDArray[np.unsignedinteger]:
        """Ids of `text`, without framing."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.unsignedinteger]]:
        """Ids of each text, without framing.

        Each distinct unit, a word with the white space before it, is encoded once where the vocabulary has such
        units (see `units`): natural text repeats itself, so that this is several times as fast.
        """
        with one_line_errors(_FAILED):
            if self._units is not None:
                return self._units.encode(texts)
            encodings = self._file.encode_batch_fast(list(texts), add_special_tokens=False)
            return [np.array(encoding.ids, dtype=self.dtype) for encoding in encodings]

    @cached_property
    def _units(self) -> UnitEncoder | None:
        rule = unit_rule(self._file)
        return None if rule is None else UnitEncoder(rule, self.dtype)

    def encode_prompt(self, text: str) -> list[int]:
        """Start token and ids of `text`, refusing what the vocabulary cannot say.

        Raises:
            TokenizerError: The text holds a character or a word outside the vocabulary.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"prompt: {text[error.start]!a} at character {error.start} is no character; give it in UTF-8"
            ) from None
        with one_line_errors(_FAILED):
            encoding = self._file.encode(text, add_special_tokens=False)
        for index, (begin, end) in zip(encoding.ids, encoding.offsets, strict=True):
            piece = text[begin:end]
            if index == self.unknown_id and piece != UNKNOWN:
                sayable = self.encode(UNKNOWN).tolist() == [self.unknown_id]  # not character by character
                raise TokenizerError(
                    f"prompt: {piece!r} at character {begin} is not in the vocabulary of {self.vocab_size:,};"
                    f" leave it out{f', or write {UNKNOWN} for it' if sayable else ''}"
                )
        return [self.start_id, *encoding.ids]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens have none."""
        with one_line_errors(_FAILED):
            text: str = self._file.decode([int(i) for i in ids], skip_special_tokens=True)
            return text

    def decoder(self, after: Sequence[int] = ()) -> "TokenDecoder":
        """Text as ids arrive behind those of `after`, each character as soon as its bytes are complete."""
        return TokenDecoder(self, after)

    def token(self, index: int) -> str:
        """How the vocabulary writes an entry."""
        name: str | None = self._file.id_to_token(index)
        return "" if name is None else name

    def to_json(self) -> str:
        """The content of `tokenizer.json`."""
        return json.dumps(json.loads(self._file.to_str()), ensure_ascii=False, sort_keys=True)


class TokenDecoder:
    """Turns ids into text one at a time, in constant memory.

    What an id says may depend on those before it: a word has a space before it, unless it is the first. So its text is
    that of the last ids together with it, less theirs.
    """

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._waiting: list[int] = []
        self._follow(after[-DECODED_BEHIND:])

    def step(self, index: int) -> str:
        """The text that `index` completes, often the token's own, sometimes none yet."""
        self._waiting.append(index)
        text = self._untold()
        if not text or text.endswith(REPLACEMENT):
            return ""
        self._follow(self._waiting)
        self._waiting = []
        return text

    def rest(self) -> str:
        """The text of the ids since then, without a character that is incomplete at its end."""
        return self._untold().removesuffix(REPLACEMENT)

    def _follow(self, ids: Sequence[int]) -> None:
        self._behind = list(ids)
        self._told = len(self._tokenizer.decode(ids))

    def _untold(self) -> str:
        return self._tokenizer.decode([*self._behind, *self._waiting])[self._told :]


def load_tokenizer(name: str, *, mask_digits: bool = False) -> Tokenizer:
    """A tokenizer from a `tokenizer.json`, a model or run folder, or a name on the Hugging Face hub.

    Raises:
        TokenizerError: Nothing there, not a tokenizer, or no hub can be reached.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        in_model, in_run = path / "tokenizer.json", path / "model" / "tokenizer.json"
        path = in_run if in_run.exists() else in_model
        if not path.exists():
            raise TokenizerError(f"tokenizer {name!r}: this folder has no tokenizer.json")
    if path.exists():
        file = read_tokenizer_file(path)
    elif "/" in name and not name.endswith(".json"):
        try:
            file = TokenizerFile.from_pretrained(name)
        except (ElmanError, MemoryError):  # a signal that asks to stop, for instance
            raise
        except Exception as error:  # connection, absence and refusal come as a dozen unrelated types
            raise TokenizerError(
                f"tokenizer {name!r}: no such file, and the Hugging Face hub did not give it"
                f" ({first_line(error)}); download its tokenizer.json and pass --tokenizer PATH"
            ) from error
        require_harmless(file, name)
    else:
        kinds = [*get_args(Kind), "auto"]
        raise TokenizerError(
            f"tokenizer {name!r}: no such file{suggestion(name, kinds)}; kinds trained here: {', '.join(kinds)}"
        )
    if mask_digits:
        earlier = [] if file.normalizer is None else [file.normalizer]
        file.normalizer = normalizers.Sequence([_digit_mask(), *earlier])
    return Tokenizer(file)


def train_tokenizer(
    kind: Kind, texts: Iterable[str], *, vocab_size: int | None, mask_digits: bool = False
) -> Tokenizer:
    """A vocabulary for `texts`.

    Args:
        kind: "byte" (no training), "char", "word" (whole words and line ends) or "bpe" (byte-level).
        texts: Pieces of the training text, each read once.
        vocab_size: Most entries, special tokens included. None keeps every character or word that is seen
            twice or more, and gives BPE no merges.
        mask_digits: Read every digit as `#`.
    """
    if kind in ("byte", "bpe"):
        file = TokenizerFile(models.BPE())
        file.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        file.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        smallest = len(alphabet) + 3
        size = smallest if kind == "byte" or vocab_size is None else vocab_size
        if size < smallest:
            raise TokenizerError(
                f"vocab_size ({vocab_size}) must be at least {smallest} for bpe: 256 bytes and 3 special"
            )
        if mask_digits:
            file.normalizer = _digit_mask()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            initial_alphabet=alphabet,
            special_tokens=[PAD, START, END],
            show_progress=False,
        )
        file.train_from_iterator(texts if kind == "bpe" else [], trainer)
        return Tokenizer(file)

    mask = _digit_mask()
    counts: Counter[str] = Counter()
    for text in texts:
        text = mask.normalize_str(text) if mask_digits else text
        counts.update(text if kind == "char" else _WORDS.findall(text))
    special = (PAD, START, END, UNKNOWN)  # where a text spells one, it is a word like any other unknown one
    entries = [entry for entry, count in counts.most_common() if count > 1 and entry not in special]
    if vocab_size is not None:
        entries = entries[: max(0, vocab_size - 4)]
    file = _word_level([UNKNOWN, *entries], SPLITTERS[kind])
    if kind == "char":
        file.decoder = decoders.Fuse()
    if mask_digits:
        file.normalizer = mask
    return Tokenizer(file)


def vocabulary_tokenizer(words: Sequence[str], *, unknown: str = UNKNOWN) -> Tokenizer:
    """The tokenizer of a vocabulary that is given, that of an ARPA file for instance.

    Words are what stands between white space, as for `train_tokenizer("word", ...)`, and the ids are laid out as
    there: the unknown word, the others in their order, and the padding, start and end tokens. A line end is a
    token only if it is among the words; else let each line of a text be a document.

    Args:
        words: The vocabulary. Names of the framing tokens and of the unknown word are those tokens.
        unknown: How the vocabulary calls the unknown word.

    Raises:
        TokenizerError: A word stands there twice, or holds white space, so that no text would have it.
    """
    entries = [UNKNOWN, *(word for word in words if word not in (PAD, START, END, unknown))]
    repeated = [word for word, count in Counter(entries).items() if count > 1]
    if repeated:
        raise TokenizerError(f"the word {repeated[0]!r} is twice in the vocabulary; keep one of them")
    spaced = [word for word in entries if word != "\n" and (not word or re.search(r"[ \t-\r]", word))]
    if spaced:
        raise TokenizerError(
            f"{spaced[0]!r} is no word between white space: this is a vocabulary of another kind; use the"
            " tokenizer that it was made with"
        )
    return Tokenizer(_word_level(entries, SPLITTERS["word"] if "\n" in entries else r"\S+"))


def _word_level(entries: Sequence[str], pattern: str) -> TokenizerFile:
    """What matches `pattern` is an entry, the first for all that is not listed; then the framing tokens."""
    file = TokenizerFile(models.WordLevel({entry: i for i, entry in enumerate(entries)}, unk_token=UNKNOWN))
    file.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
    file.add_special_tokens([PAD, START, END])
    return file


def suit_vocabulary(characters: int) -> tuple[Kind, int | None]:
    """Kind and size of the vocabulary for a text: bytes below 20,000 characters, else BPE.

    About one entry for a thousand characters, a power of two from 512 to 8,192: each entry is then seen
    often enough to be learnt, and the output layer stays cheap.
    """
    if characters < 20_000:
        return "byte", None
    return "bpe", min(8192, max(512, 2 ** round(np.log2(characters / 1000))))


def _digit_mask() -> normalizers.Normalizer:
    return normalizers.Replace(Regex("[0-9]"), "#")
