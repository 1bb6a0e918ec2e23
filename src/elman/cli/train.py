"""`elman train`."""

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from elman.cli.arguments import Documents, Source, Whole, options_in, unknown_option
from elman.cli.idle import idle_settings
from elman.cli.render import command_line, print_json, print_table, say, visible, visible_line
from elman.config import SECTIONS
from elman.errors import UsageError
from elman.settings import resolve, setting_sections


def train_command(
    corpus: Source | None = None,
    *,
    preset: str | None = None,
    config: Path | None = None,
    out: Path | None = None,
    resume: Source | None = None,
    strict_resume: bool = False,
    model: str | None = None,
    cell: str | None = None,
    order: Whole | None = None,
    hidden_size: Whole | None = None,
    embedding_dim: Whole | None = None,
    num_layers: Whole | None = None,
    learning_rate: float | None = None,
    loss: Literal["exact", "sampled"] | None = None,
    negatives: Whole | None = None,
    batch_size: Whole | None = None,
    bptt: Whole | None = None,
    max_time: str | None = None,
    max_steps: Whole | None = None,
    epochs: float | None = None,
    documents: Documents | None = None,
    valid: Source | None = None,
    tokenizer: str | None = None,
    vocab_size: Whole | None = None,
    encoding_errors: Literal["strict", "replace"] | None = None,
    seed: Whole | None = None,
    device: str | None = None,
    precision: str | None = None,
    json: bool = False,
    quiet: Annotated[bool, Parameter(alias="-q")] = False,
    setting: Annotated[tuple[str, ...], Parameter(show=False)] = (),
) -> int:
    """Train a language model on a text and score it on held-out text.

    Every setting has a name: --dropout 0.2, --weight-decay 0.1, --mask-digits, or
    in full, --model.dropout 0.2. `elman settings` lists them all, in the form of a
    TOML file for --config. Environment variables such as ELMAN_DROPOUT set them
    too. The command line wins over the environment, and that over the file.

    A training that was stopped, killed or cut off goes on with --resume RUN, where
    it would be had it never ended; a finished one with more time, steps or epochs.
    Under torchrun, every process takes its share of each batch.

    Args:
        corpus: A text file, a folder, .jsonl, .parquet, .gz or .zst of these, - for standard input, hf:NAME,
            thelmbook:news, thelmbook:brown, or python-docs: the documentation in this Python (default).
        preset: Where the settings start from: default (made for 90 seconds), or chapter (to the letter).
        config: Settings in a TOML file.
        out: The run folder, which must not exist. Default: the first free runs/CORPUS-MODEL-N.
        resume: Go on with the run in this folder; alone, with the only unfinished one under runs/.
        strict_resume: Refuse to go on where the last bits may differ: another machine, version or number of threads.
        model: The family: recurrent (default), transformer, window or ngram.
        cell: The recurrence: elman, lstm, gru, mingru, minlstm, slstm or mlstm.
        order: Tokens of the longest n-gram, or of the window and what it predicts.
        hidden_size: Width of the recurrent state.
        embedding_dim: Width of the token vectors.
        num_layers: Recurrent layers.
        learning_rate: Learning rate at the end of warm-up.
        loss: exact (default), or sampled: quicker where the vocabulary is large.
        negatives: Words that stand for the vocabulary in a sampled loss.
        batch_size: Streams, or documents, in a batch.
        bptt: Tokens of each stream in a batch.
        max_time: Budget in training time: 90, 90s, 2m, 1h.
        max_steps: Budget in optimizer steps.
        epochs: Budget in passes over the text.
        documents: What a document is.
        valid: Held-out text: a share of the corpus (0.05), or a corpus of its own.
        tokenizer: byte, char, word, bpe, auto, a tokenizer.json, or a hub name.
        vocab_size: Entries of a vocabulary trained here.
        encoding_errors: Refuse bytes that are not UTF-8, or replace them.
        seed: Seed of weights, order and dropout.
        device: cpu, cuda, mps, auto.
        precision: float32, bfloat16, auto.
        json: Print one JSON document (elman.train/1) instead of a table.
        quiet: No progress on stderr, only warnings.
        setting: SECTION.NAME=VALUE, as `gather_settings` writes the settings that have no option here.
    """
    given = {
        "corpus": corpus,
        "family": model,
        "cell": cell,
        "order": order,
        "hidden_size": hidden_size,
        "embedding_dim": embedding_dim,
        "num_layers": num_layers,
        "learning_rate": learning_rate,
        "loss": loss,
        "negatives": negatives,
        "batch_size": batch_size,
        "bptt": bptt,
        "max_time": max_time,
        "max_steps": max_steps,
        "epochs": epochs,
        "documents": documents,
        "valid": valid,
        "tokenizer": tokenizer,
        "vocab_size": vocab_size,
        "encoding_errors": encoding_errors,
        "seed": seed,
        "device": device,
        "precision": precision,
    }
    overrides: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    for assignment in setting:
        name, _, value = assignment.partition("=")
        if name in overrides or name.partition(".")[2] in overrides:
            raise UsageError(f"{name} is given twice; give it once")
        overrides[name] = value
    if resume is not None:
        refused = {"--preset": preset, "--config": config, "--out": out}
        if clash := [name for name, value in refused.items() if value is not None]:
            raise UsageError(f"--resume takes its settings and its folder from the run; leave out {clash[0]}")
    elif strict_resume:
        raise UsageError("--strict-resume is for a run that is resumed; add --resume RUN")
    resolved = None if resume is not None else resolve(preset, config, os.environ, overrides)

    from elman.ranks import join  # torch takes a second to import
    from elman.settings import from_toml
    from elman.train.result import SAMPLE_TEMPERATURE, score_rows
    from elman.train.run import resume_training, run_training

    with join() as ranks:
        progress = (say_warnings if quiet else say) if ranks.is_first else (lambda line: None)
        told: dict[str, Any] = {"command": command_line(), "say": progress, "quiet": quiet, "ranks": ranks}
        if resolved is not None:
            for remark in idle_settings(overrides, resolved):
                progress(f"note: {remark}")
            result = run_training(resolved, out, **told)
        else:
            run = Path(resume) if resume else None
            result = resume_training(run, overrides, strict=strict_resume, **told)
    if not ranks.is_first:
        return 0
    if json:
        print_json(result.as_dict())
        return 0
    settings = resolved or from_toml(result.run / "config.toml")
    rows = score_rows(settings, result)
    columns = rows[settings.model.name]
    print_table(["held-out text", *columns], [[name, *row.values()] for name, row in rows.items()])
    for number, sample in enumerate(result.samples, start=1):
        print(f"\nsample {number} (temperature {SAMPLE_TEMPERATURE})\n{indent(visible(sample.text))}")
    print(f"\nmodel   {visible_line(str(result.model))}")
    print(f"report  {visible_line(str(result.run / 'report.html'))}")
    return 0


def say_warnings(line: str) -> None:
    """What is told even to those who want no progress."""
    if line.startswith("warning: "):
        say(line)


def indent(text: str) -> str:
    """Every line four spaces in."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def gather_settings(arguments: Sequence[str]) -> list[str]:
    """`--dropout 0.2` as `--setting=model.dropout=0.2`, and `--tie-embeddings` as `...=true`.

    So every setting is an option, by its bare name or in full, and those that are true or false need no value.

    Raises:
        UsageError: A name that is neither an option nor a setting, with the nearest that is; no value.
    """
    own = [name for name in inspect.signature(train_command).parameters if name != "setting"]
    options = {*(f"--{name.replace('_', '-')}" for name in own), "-q", "--help", "-h", "--version"}
    sections = setting_sections()
    gathered: list[str] = []
    taken = 0  # arguments that are in `gathered`
    for position, option in options_in(arguments):
        if position < taken:
            continue
        if option == "--resume" and "=" not in arguments[position]:  # its value may be left out
            following = arguments[position + 1 : position + 2]
            named = bool(following) and not any(options_in(following))
            gathered += [*arguments[taken:position], f"--resume={following[0] if named else ''}"]
            taken = position + 1 + named
            continue
        if option in options:
            continue
        section, _, name = option.removeprefix("--").replace("-", "_").rpartition(".")
        if name not in sections or section not in ("", sections[name]):
            raise unknown_option(option, options | _spellings(sections), ["train"])
        gathered += arguments[taken:position]
        taken = position + 1
        value = arguments[position].partition("=")[2]
        if "=" not in arguments[position]:
            following = arguments[taken : taken + 1]
            if SECTIONS[sections[name]].__annotations__[name] is bool and not _is_truth(following):
                value = "true"
            elif following and not any(options_in(following)):
                value, taken = following[0], taken + 1
            else:
                raise UsageError(f"{option} needs a value")
        gathered.append(f"--setting={sections[name]}.{name}={value}")
    return gathered + list(arguments[taken:])


def _spellings(sections: Mapping[str, str]) -> set[str]:
    """Every setting as an option, by its bare name and in full."""
    pairs = {(f"--{name}", f"--{section}.{name}") for name, section in sections.items()}
    return {spelling.replace("_", "-") for pair in pairs for spelling in pair}


def _is_truth(words: Sequence[str]) -> bool:
    return bool(words) and words[0].lower() in ("true", "false", "yes", "no", "1", "0")
