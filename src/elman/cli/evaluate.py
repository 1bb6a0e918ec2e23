"""`elman eval`: by one process, or by several that torchrun started and that share the text."""

import json as json_format
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from elman import __version__
from elman.cli.arguments import Reading, Source, Whole
from elman.cli.render import megabytes, print_json, print_table, say, visible_line
from elman.config import DataConfig, require_integer
from elman.errors import ConfigError, InputError, UsageError
from elman.files import new_folder
from elman.ranks import ALONE, Ranks, join

if TYPE_CHECKING:
    from elman.data.store import TokenStore
    from elman.evaluate.score import Score
    from elman.text_model import MixedTextModel, TextModel


def evaluate_command(
    model: Path,
    /,
    *more: Source,
    reading: Reading = Reading(),  # noqa: B008 - frozen
    mix: bool = False,
    valid: Source | None = None,
    out: Path | None = None,
    batch_size: Whole = 32,
    state: Literal["reset", "carry"] = "reset",
    weights: Literal["float32", "bfloat16", "int8"] = "float32",
    json: bool = False,
) -> int:
    """Score a text with a model, or with a mixture of models.

    Every token is scored once and every document whole. The batch size changes
    the speed, not the result. `elman eval A B TEXT --mix` scores the linear mixture
    of A and B whose weights predict the held-out text best.

    Args:
        model: A model folder or a run folder.
        more: Models to mix with it, and last a text: any corpus that `elman train` accepts.
            Default: the held-out text of the run; with --mix every other document of it, the rest is for the weights.
        reading: Flattened into options of its fields' names.
        mix: Find the weights of a mixture of the models, and score each and the mixture.
        valid: The text to find the weights on. Default: the held-out text of the first run.
        out: Write the mixture to this model folder, which must not exist.
        batch_size: Documents scored side by side.
        state: reset: a fresh state for each document. carry: one state through all of them, in order.
        weights: What the large matrices of a network are kept in; if smaller, float32 is scored beside it.
        json: Print one JSON document (elman.eval/1).
    """
    require_integer("batch_size", batch_size, at_least=1)
    models, text = _models_and_text(model, more, mix)
    if text is None and valid is None and reading != Reading():
        raise UsageError(
            "how a text is read can be said of a TEXT only; the held-out text is read as the run read it"
        )
    if not mix and (valid is not None or out is not None):
        raise UsageError(
            f"--{'valid' if out is None else 'out'} is for a mixture; add --mix and a second model"
        )
    if mix and weights != "float32":
        raise UsageError(
            f"--weights {weights} is for one model; mix first, with --out, and then score the mixture"
        )
    if out is not None and out.exists():
        raise InputError(f"{out}: exists already; give --out another folder")

    with join() as ranks:
        from elman.evaluate.score import score_columns  # torch takes a second to import
        from elman.text_model import load

        text_models = [load(path) for path in models]
        ranks.handshake(_facts(models, batch_size, state, weights))
        store = None if text is None else _read(text, reading, text_models[0], ranks)
        mixture: MixedTextModel | None = None
        if mix:
            fitting = None if valid is None else (valid, reading)
            mixture, store = _mix(models, text_models, store, fitting, ranks)
            text_models.append(mixture)
        elif store is None:
            store = held_out(model, text_models[0], ranks=ranks)
        if weights != "float32":
            text_models.append(load(model, weights=weights))
        scores = [
            each.score_store(store, batch_size=batch_size, state=state, ranks=ranks) for each in text_models
        ]
        if mixture is not None and out is not None:
            ranks.first_does(partial(_save, mixture, models, out))
    if not ranks.is_first:
        return 0
    if json:
        found = {"schema": "elman.eval/1", **scores[-1].as_dict()}
        if mixture is not None:
            found["weights"] = dict(zip(map(str, models), mixture.weights, strict=True))
            found["parts"] = dict(zip(map(str, models), (s.as_dict() for s in scores), strict=False))
        if weights != "float32":
            found["quantized"] = {
                "weights": weights,
                "bits_per_byte_loss": _loss(scores),
                "float32": scores[0].as_dict(),
            } | _sizes(text_models[-1])
        print_json(found)
        return 0
    names = [*map(str, models), *(["mixture"] if mix else []), *([weights] if weights != "float32" else [])]
    rows = [[name, *score_columns(each).values()] for name, each in zip(names, scores, strict=True)]
    print_table(["model", *score_columns(scores[0])], rows)
    if mixture is not None:
        print(f"weights: {visible_line(_weights(models, mixture))}")
    if weights != "float32":
        sizes = _sizes(text_models[-1])
        print(
            f"{weights} weights: {_loss(scores):+.4f} bits per byte, {megabytes(sizes['weight_bytes'])} instead of"
            f" {megabytes(sizes['float32_bytes'])}"
        )
    score = scores[-1]
    if score.unknown:
        print(f"{score.unknown:,} targets ({score.unknown / score.targets:.1%}) are outside the vocabulary")
    return 0


def _models_and_text(model: Path, more: Sequence[str], mix: bool) -> tuple[list[Path], str | None]:
    """Which of the arguments are models, and the text behind them."""
    last_is_text = bool(more) and not is_model(Path(more[-1]))
    text = more[-1] if last_is_text else None
    models = [model, *map(Path, more[:-1] if last_is_text else more)]
    if mix and len(models) < 2:
        raise UsageError("a mixture needs two models or more: elman eval A B [TEXT] --mix")
    if len(set(models)) < len(models) and mix:
        raise UsageError("a model is given twice; give it once, as one weight is enough for it")
    if not mix and len(models) > 1:
        extra = models[1] if is_model(models[1]) else more[-1]
        hint = "add --mix to mix models" if is_model(models[1]) else "see elman eval --help"
        raise UsageError(f"unexpected argument {str(extra)!r}; {hint}")
    return models, text


def _mix(
    models: Sequence[Path],
    text_models: "Sequence[TextModel]",
    store: "TokenStore | None",
    valid: tuple[str, Reading] | None,
    ranks: Ranks,
) -> "tuple[MixedTextModel, TokenStore]":
    """The mixture, and the text to score, none of which had a part in its weights."""
    from elman.text_model import MixedTextModel, require_one_tokenizer

    require_one_tokenizer(text_models)
    if valid is None:
        instead = "--valid TEXT to find the weights on"
        fitting = held_out(models[0], text_models[0], instead=instead, ranks=ranks)
    else:
        fitting = _read(*valid, text_models[0], ranks)
    if store is None:
        if fitting.documents < 2:
            raise InputError(
                "the held-out text is one document: give a TEXT to score, and this one finds the weights"
            )
        numbers = range(fitting.documents)
        store, fitting = fitting.select(list(numbers[::2])), fitting.select(list(numbers[1::2]))
    return MixedTextModel.fit(text_models, fitting, ranks=ranks), store


def _save(mixture: "MixedTextModel", models: Sequence[Path], out: Path) -> None:
    with new_folder(out) as folder:
        mixture.save(folder, f"# {out.name}\n\nA mixture, by weight: {_weights(models, mixture)}.\n")


def _read(text: str, reading: Reading, text_model: "TextModel", ranks: Ranks) -> "TokenStore":
    from elman.data.prepare import prepare_text

    if text == "-" and ranks.size > 1:
        raise ConfigError("standard input cannot be read by several processes; give a file")
    data = DataConfig(corpus=text, **asdict(reading))
    return _same_on_all(
        lambda: prepare_text(data, text_model.tokenizer, note=lambda remark: _tell(ranks, f"note: {remark}")),
        ranks,
    )


def _same_on_all(prepare: "Callable[[], TokenStore]", ranks: Ranks) -> "TokenStore":
    """What `prepare` returns; the first rank fills the cache, and the others must find the same in theirs."""
    store = ranks.after_first(prepare)
    if ranks.size > 1:
        ranks.handshake({"the text": sha256(store.starts.tobytes() + store.tokens.tobytes()).hexdigest()})
    return store


def _facts(models: Sequence[Path], *options: object) -> dict[str, str]:
    """What must be the same on all ranks, or the sum of what they find would mean nothing."""
    import torch

    from elman.models.store import find_model

    settings = b"".join((find_model(path.expanduser()) / "config.json").read_bytes() for path in models)
    return {
        "the version of elman": __version__,
        "the version of torch": torch.__version__,
        "the number of threads": str(torch.get_num_threads()),
        "the model": sha256(settings).hexdigest(),
        "the options": " ".join(map(str, options)),
    }


def _tell(ranks: Ranks, line: str) -> None:
    if ranks.is_first:
        say(line)


def _weights(models: Sequence[Path], mixture: "MixedTextModel") -> str:
    return ", ".join(f"{path} {weight:.3f}" for path, weight in zip(models, mixture.weights, strict=True))


def _loss(scores: "Sequence[Score]") -> float:
    """Bits per byte that the second score is worse than the first."""
    return scores[1].bits_per_byte - scores[0].bits_per_byte


def _sizes(text_model: "TextModel") -> dict[str, int]:
    """Bytes of the weights of a model that `load` made smaller."""
    from elman.models.quantize import bytes_before_and_after

    before, after = bytes_before_and_after(text_model.model)
    return {"weight_bytes": after, "float32_bytes": before}


def is_model(path: Path) -> bool:
    """Whether there is a model folder or a run folder."""
    return any((folder / "config.json").is_file() for folder in (path, path / "model"))


def held_out(
    folder: Path, text_model: "TextModel", *, instead: str = "a TEXT", ranks: Ranks = ALONE
) -> "TokenStore":
    """The text that the run of a model held out, found again by the settings of the run; else `instead` is needed.

    Raises:
        InputError: The folder has no run around it, or the text is no longer what it was.
        ConfigError: The settings of the run cannot be read, or are not those of this version.
    """
    from elman.data.prepare import prepare
    from elman.settings import from_toml

    places = (folder / "config.toml", folder.parent / "config.toml")
    settings = next((place for place in places if place.is_file()), None)
    if settings is None:
        raise InputError(f"{folder}: a model folder without its run has no held-out text; give {instead}")
    try:
        data = from_toml(settings).data
    except ConfigError as error:  # written by another version, for instance
        raise ConfigError(f"the held-out text of {folder}: {error}; give {instead}") from error
    if "-" in (data.corpus, data.valid):
        raise InputError(f"{folder}: its text came from standard input and is gone; give {instead}")

    def find() -> "TokenStore":
        try:
            prepared = prepare(data)
        except InputError as error:
            raise InputError(f"the held-out text of {folder}: {error}; or give {instead}") from error
        known = recorded_text(settings.parent / "environment.json")
        same_text = known in (None, prepared.manifest["content_sha256"])
        if not same_text or prepared.tokenizer.sha256 != text_model.tokenizer.sha256:
            raise InputError(
                f"{data.corpus}: no longer the text that {folder} was trained on; give {instead}"
            )
        return prepared.valid

    store = _same_on_all(find, ranks)
    _tell(ranks, f"scoring the held-out part of {data.corpus}")
    return store


def recorded_text(environment: Path) -> str | None:
    """The checksum of the text that a run was trained on, where its environment.json tells it."""
    try:
        return str(json_format.loads(environment.read_text(encoding="utf-8"))["data"]["content_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
