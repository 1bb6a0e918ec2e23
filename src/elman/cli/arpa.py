"""`elman arpa`."""

from pathlib import Path

from elman.cli.evaluate import is_model
from elman.cli.render import say
from elman.errors import InputError
from elman.files import new_folder


def arpa_command(source: Path, target: Path) -> int:
    """Write an n-gram model as an ARPA file, or read one.

    ARPA is the text format of SRILM and KenLM; .gz compresses it. A model that was
    read is one like any other: elman eval, generate and doctor take its folder. Its
    documents are lines, so give them --documents line.

    Args:
        source: A model or run folder of an n-gram model; or an ARPA file.
        target: The file to write, .arpa or .arpa.gz; or the model folder to make.
    """
    if not source.exists():
        raise InputError(f"{source}: no such model folder or ARPA file")
    if target.exists():
        raise InputError(f"{target}: exists already; give another name")
    if is_model(source):
        _write(source, target)
    elif source.is_dir():
        raise InputError(f"{source}: neither a model folder nor an ARPA file")
    else:
        _read(source, target)
    return 0


def _write(folder: Path, target: Path) -> None:
    from elman.models.arpa import write_arpa  # torch takes a second to import
    from elman.models.ngram import NgramModel
    from elman.text_model import load

    text_model = load(folder)
    model, tokenizer = text_model.model, text_model.tokenizer
    if not isinstance(model, NgramModel):
        raise InputError(f"{folder}: not an n-gram model; only those can be written as ARPA")
    if tokenizer.unknown_id is None:
        say(
            f"note: the words of {target} are pieces of words; what reads it has to divide text in the same way"
        )
    write_arpa(
        model,
        [tokenizer.token(index) for index in range(tokenizer.vocab_size)],
        target,
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
        unknown_id=tokenizer.unknown_id,
    )
    say(f"{target}: {sum(len(level.keys) for level in model.levels):,} n-grams up to order {model.order}")


def _read(file: Path, target: Path) -> None:
    from elman.config import ModelConfig
    from elman.data.tokenizer import vocabulary_tokenizer
    from elman.models.arpa import read_arpa
    from elman.text_model import TextModel

    model, words = read_arpa(file)
    config = ModelConfig(family="ngram", order=model.order)
    text_model = TextModel(model, vocabulary_tokenizer(words), config)
    with new_folder(target) as folder:
        text_model.save(
            folder, f"# {target.name}\n\nThe n-grams of {file.name}, up to order {model.order}.\n"
        )
    say(
        f"{target}: order {model.order}, a vocabulary of {model.vocab_size:,}; text for it is --documents line"
    )
