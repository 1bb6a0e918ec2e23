"""The settings of a run: frozen dataclasses that check their own ranges, and the presets.

A setting is named by its section and field, `optimizer.learning_rate`. Field names are unique over all
sections, so the field alone, `learning_rate`, names it too. `settings` says where their values come from.
"""

import difflib
import math
import operator
import re
import reprlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from elman.errors import ConfigError

FamilyName = Literal["recurrent", "transformer", "window", "ngram"]
CellName = Literal["elman", "lstm", "gru", "mingru", "minlstm", "slstm", "mlstm"]


def suggestion(given: str, allowed: Iterable[str]) -> str:
    """'; did you mean ...?' for the nearest of `allowed`, or nothing."""
    near = difflib.get_close_matches(given, list(allowed), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def require_integer(name: str, value: int, *, at_least: int, at_most: int | None = None) -> None:
    if value < at_least or (at_most is not None and value > at_most):
        top = "" if at_most is None else f" and at most {at_most:,}"
        raise ConfigError(f"{name} ({value}) must be at least {at_least}{top}")


def require_number(
    name: str,
    value: float,
    *,
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> None:
    rules: list[tuple[str, float | None, Callable[[float, float], bool]]] = [
        ("at least", at_least, operator.ge),
        ("above", above, operator.gt),
        ("below", below, operator.lt),
        ("at most", at_most, operator.le),
    ]
    wanted = [(word, limit, holds) for word, limit, holds in rules if limit is not None]
    if not math.isfinite(value) or not all(holds(value, limit) for _, limit, holds in wanted):
        rule = " and ".join(f"{word} {limit:g}" for word, limit, _ in wanted)
        raise ConfigError(f"{name} ({value}) must be {rule}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Where the text comes from and how it becomes tokens."""

    corpus: str = "python-docs"
    """A corpus by name, or a file, a folder, `-` for standard input, or `hf:NAME`."""
    documents: Literal["line", "paragraph", "file", "record"] | None = None
    """What a document is; None takes the natural unit of the source (a file, or a record)."""
    text_field: str = "text"
    """The field that holds the text, in jsonl, parquet and `hf:` records."""
    encoding_errors: Literal["strict", "replace"] = "strict"
    """What to do with bytes that are not UTF-8: refuse the file, or read them as U+FFFD."""
    force_binary: bool = False
    """Read a file even if it looks like a program, a picture or an archive."""
    skip_bad: bool = False
    """Leave out records without usable text (jsonl, parquet, `hf:`), up to 1 % of those of a source."""
    valid: str = "0.05"
    """Held-out text: a fraction of the corpus, or a corpus of its own."""
    valid_limit: int | None = 2_000_000
    """Characters held out at most where `valid` is a fraction, so that scoring them stays quick."""
    tokenizer: str = "auto"
    """byte, char, word, bpe, auto, a tokenizer.json, or a name on the Hugging Face hub."""
    vocab_size: int | None = None
    """Entries of a vocabulary trained here, special tokens included; None chooses by the size of the text."""
    mask_digits: bool = False
    """Read every digit as `#`. Part of the tokenizer, so generation and scoring agree with training."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.vocab_size is not None:
            require_integer("vocab_size", self.vocab_size, at_least=5, at_most=1_000_000)
            if self.tokenizer not in ("auto", "char", "word", "bpe"):
                raise ConfigError(
                    f"vocab_size ({self.vocab_size}) is for a vocabulary trained here: char, word or bpe;"
                    f" tokenizer {reprlib.repr(self.tokenizer)} has a size of its own"
                )
        if self.valid_limit is not None:
            require_integer("valid_limit", self.valid_limit, at_least=1)
        fraction = self.valid_fraction
        if fraction is not None and not 0 < fraction < 0.9:
            raise ConfigError(
                f"valid ({fraction:g}) must be a fraction between 0 and 0.9, or a file: some text has to be held out,"
                " for the model to be scored on"
            )

    @property
    def valid_fraction(self) -> float | None:
        """The held-out share, or None where `valid` names a corpus."""
        try:
            return float(self.valid)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The kind and the shape of the model; the sentence of a setting names the kinds that it is for."""

    family: FamilyName = "recurrent"
    """The kind of model; `--model` on the command line."""
    cell: CellName = "elman"
    """The recurrence (recurrent)."""
    block: Literal["plain", "residual", "xlstm"] = "plain"
    """`residual`: a norm before each cell and a path around it; `xlstm`: the blocks of its paper (recurrent)."""
    embedding_dim: int = 128
    """Width of a token's vector, and of the output layer where it is tied."""
    hidden_size: int = 128
    """Width of the recurrent state, of a hidden layer (window), of the residual stream (transformer)."""
    num_layers: int = 2
    """Layers, one above the other."""
    num_heads: int = 4
    """Heads that share the width between them (slstm, mlstm, transformer)."""
    context: int = 256
    """Tokens that a prediction looks back on, the latest included (transformer)."""
    mlp: Literal["swiglu", "gelu"] = "swiglu"
    """The feed-forward half of a layer (transformer)."""
    order: int = 5
    """Tokens of the longest n-gram, the predicted one included (ngram, window)."""
    prune: str = ""
    """Counts up to which n-grams are dropped, an order each, `0,0,1` for instance; the last goes on (ngram)."""
    dropout: float = 0.0
    """Share of the values dropped after the embedding and after every layer, in training."""
    locked_dropout: bool = False
    """Drop the same values at every step of a window (Gal & Ghahramani 2016)."""
    embedding_dropout: float = 0.0
    """Share of the vocabulary whose vectors are dropped, in training."""
    weight_dropout: float = 0.0
    """Share of the weights from state to state that are dropped, in training (recurrent; Merity et al. 2018)."""
    tie_embeddings: bool = False
    """Use the embedding matrix as the output layer as well (Press & Wolf 2017)."""
    initialization: Literal["by_role", "xavier"] = "by_role"
    """`by_role`: orthogonal recurrences, small embeddings. `xavier`: every matrix, as in the chapter."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("embedding_dim", "hidden_size"):
            require_integer(name, getattr(self, name), at_least=1, at_most=1_000_000_000)
        require_integer("context", self.context, at_least=1, at_most=65_536)
        for name in ("num_layers", "num_heads"):
            require_integer(name, getattr(self, name), at_least=1, at_most=256)
        require_integer("order", self.order, at_least=1, at_most=6 if self.family == "ngram" else 64)
        for name in ("dropout", "embedding_dropout", "weight_dropout"):
            require_number(name, getattr(self, name), at_least=0, below=1)
        if self.weight_dropout and self.family != "recurrent":
            raise ConfigError(
                f"weight_dropout ({self.weight_dropout}) is for recurrent models, not {self.family}"
            )
        if self.family == "window" and self.order == 1:
            raise ConfigError("order (1) leaves a window without context: give 2 or more, or model ngram")
        if self.prune and not re.fullmatch(r"\d+(,\d+)*", self.prune):
            raise ConfigError(
                f"prune ({reprlib.repr(self.prune)}) must be counts with commas between them, 0,0,1 for instance"
            )

    @property
    def name(self) -> str:
        """What tables and folders call the model: its cell, or the family of the others."""
        return self.cell if self.family == "recurrent" else self.family

    @property
    def shape(self) -> str:
        """In words, beside the name."""
        if self.family == "ngram":
            return f"order {self.order}" + (f", pruned {self.prune}" if self.prune else "")
        size = f"{self.num_layers} x {self.hidden_size}"
        extra = {
            "recurrent": f", {self.block} blocks" if self.block != "plain" else "",
            "transformer": f", {self.num_heads} heads, context {self.context}",
            "window": f", order {self.order}",
        }
        return size + extra[self.family]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its schedule."""

    learning_rate: float = 1e-3
    """Learning rate at the end of warm-up."""
    weight_decay: float = 0.01
    """Decoupled weight decay of matrices (vectors are never decayed, unless `decay_vectors`)."""
    decay_vectors: bool = False
    """Decay biases too, as torch's AdamW does when it is given all parameters in one group."""
    beta1: float = 0.9
    """Decay of the running mean of the gradient."""
    beta2: float = 0.999
    """Decay of the running mean of its square."""
    warmup: float = 0.0
    """Share of the budget over which the learning rate rises from a tenth of itself."""
    schedule: Literal["linear", "constant"] = "linear"
    """After warm-up: fall to zero at the end of the budget, or stay."""
    clip_norm: float | None = 1.0
    """Global L2 norm above which gradients are scaled down; None leaves them alone."""
    row_sparse: bool = False
    """Update only those rows of the embedding, and of an output layer with a sampled loss, that a batch used."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        require_number("learning_rate", self.learning_rate, above=0, at_most=100)
        require_number("weight_decay", self.weight_decay, at_least=0, at_most=10)
        require_number("beta1", self.beta1, at_least=0, below=1)
        require_number("beta2", self.beta2, at_least=0, below=1)
        require_number("warmup", self.warmup, at_least=0, below=1)
        if self.clip_norm is not None:
            require_number("clip_norm", self.clip_norm, above=0)
        if self.row_sparse and self.beta1**2 >= self.beta2:
            raise ConfigError(
                f"row_sparse needs beta1 ({self.beta1:g}) below the root of beta2 ({self.beta2:g}): only then do rows"
                " without a gradient come to rest"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Batches, budget, machine."""

    batches: Literal["streams", "documents"] = "streams"
    """`streams`: contiguous text, state carried from batch to batch. `documents`: padded, state fresh."""
    batch_size: int = 16
    """Streams, or documents, in a batch."""
    bptt: int = 64
    """Tokens of each stream in a batch, and so the reach of a gradient."""
    fresh_start: float = 0.01
    """Chance that a stream inside a long document begins afresh at a batch, so that the model learns to begin."""
    max_length: int = 30
    """Tokens of a document kept in `documents` batches, start and end included. Evaluation cuts nothing."""
    shuffle: bool = True
    """Draw documents in a new order every epoch."""
    bucket: bool = False
    """Batch documents of similar length, so that little is padded (`documents` batches)."""
    loss: Literal["exact", "sampled"] = "exact"
    """`sampled`: the sum over the vocabulary is estimated from negatives, quicker where it is large. Scores never."""
    negatives: int = 512
    """Words that stand for the vocabulary in a batch of the sampled loss."""
    exact_share: float = 0.1
    """Share of the budget, at its end, that is trained with the exact loss although it is sampled before."""
    max_time: float | None = None
    """Seconds of training, validation not counted; `90`, `90s`, `2m` and `1h` are understood."""
    max_steps: int | None = None
    """Optimizer steps."""
    epochs: float | None = None
    """Passes over the training text."""
    accumulate: int = 1
    """Parts that a batch is learnt from in, one after another: less memory, and without dropout the same update."""
    checkpoint_seconds: float = 30.0
    """Seconds between two checkpoints, at least; they are rarer where saving would take over 1 % of the time."""
    checkpoints_kept: int = 2
    """Checkpoints that stay; each also holds the weights that scored best until then."""
    validations: int = 8
    """How often the held-out text is scored on the way, evenly over the budget."""
    valid_tokens: int = 50_000
    """Held-out tokens scored on the way; the end of training always scores all of them."""
    yardstick_order: int | None = 5
    """Order of the n-gram model that is counted on the same tokens and scored beside; None leaves it out."""
    seed: int = 0
    """Seed of the weights, the order of the data and the dropout masks."""
    deterministic: bool = True
    """Use deterministic algorithms only: the same seed gives the same weights on the same machine."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes a GPU where there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the large products; states, sums and weights are float32 either way."""
    tensorboard: bool = False
    """Write TensorBoard event files into the run folder as well."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("batch_size", "bptt", "accumulate", "checkpoints_kept", "validations", "valid_tokens"):
            require_integer(name, getattr(self, name), at_least=1, at_most=1_000_000_000)
        require_number("fresh_start", self.fresh_start, at_least=0, at_most=1)
        require_integer("max_length", self.max_length, at_least=2, at_most=1_000_000)
        require_integer("negatives", self.negatives, at_least=1, at_most=1_000_000)
        require_number("exact_share", self.exact_share, at_least=0, at_most=1)
        require_integer("seed", self.seed, at_least=0, at_most=2**63 - 1)
        if self.max_steps is not None:
            require_integer("max_steps", self.max_steps, at_least=1)
        if self.yardstick_order is not None:
            require_integer("yardstick_order", self.yardstick_order, at_least=1, at_most=6)
        require_number("checkpoint_seconds", self.checkpoint_seconds, at_least=0, at_most=1e6)
        for name in ("max_time", "epochs"):
            if getattr(self, name) is not None:
                require_number(name, getattr(self, name), above=0)
        if self.max_time is None and self.max_steps is None and self.epochs is None:
            raise ConfigError("training needs a budget: give max_time, max_steps or epochs")
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise ConfigError(f"device ({reprlib.repr(self.device)}) must be auto, cpu, mps, cuda or cuda:N")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Everything that decides what a run computes."""

    preset: str = "default"
    """Where the settings started from."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(max_time=90.0))


BUDGETS = ("max_time", "max_steps", "epochs")
"""The fields that end a run; giving one replaces those of the preset."""

SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "model": ModelConfig,
    "optimizer": OptimizerConfig,
    "training": TrainingConfig,
}

PRESETS: dict[str, RunConfig] = {
    # What reaches the lowest validation bits per byte on python-docs in 90 seconds on two cores.
    "default": RunConfig(
        model=ModelConfig(cell="lstm", embedding_dim=256, hidden_size=320, num_layers=1, tie_embeddings=True),
        optimizer=OptimizerConfig(learning_rate=1e-2, beta2=0.99, warmup=0.02),
        training=TrainingConfig(batch_size=32, bptt=32, max_time=90.0),
    ),
    # The chapter to the letter: its data, tokenizer, shape, loss and optimizer.
    "chapter": RunConfig(
        preset="chapter",
        data=DataConfig(
            corpus="thelmbook:news",
            documents="line",
            tokenizer="microsoft/Phi-3.5-mini-instruct",
            mask_digits=True,
        ),
        model=ModelConfig(
            cell="elman", embedding_dim=128, hidden_size=128, num_layers=2, initialization="xavier"
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-3, schedule="constant", clip_norm=None, decay_vectors=True
        ),
        training=TrainingConfig(
            batches="documents", batch_size=128, max_length=30, epochs=1.0, precision="float32"
        ),
    ),
}

RECIPES: dict[str, dict[str, object]] = {
    "mingru": {"block": "residual", "num_layers": 2, "learning_rate": 5e-3},
    "minlstm": {"block": "residual", "num_layers": 2, "learning_rate": 5e-3},
    "slstm": {"block": "xlstm"},
    "mlstm": {"block": "xlstm", "num_layers": 2},
    "transformer": {
        "embedding_dim": 192,
        "hidden_size": 192,
        "num_layers": 4,
        "context": 128,
        "learning_rate": 3e-3,
        "batch_size": 8,
        "bptt": 128,  # as many tokens a batch; attention takes a longer window at little cost
    },
}
"""What the default preset changes for a model, by `ModelConfig.name`; what a user gives wins over it."""
