"""The README.md of a model folder: what the model is, how it was trained, how good it is."""

from collections.abc import Mapping
from typing import Any

from elman.config import RunConfig
from elman.evaluate.score import shortened
from elman.settings import to_toml

CARD = """\
# {name}

A language model trained with [elman](https://pypi.org/project/elman/).

| | |
|---|---|
| model | {model}, {shape} |
| parameters | {parameters:,} |
| vocabulary | {vocab_size:,} |
| training text | {corpus} ({train_bytes:,} bytes, {train_documents:,} documents) |
| training | {steps:,} steps, {tokens:,} tokens, {seconds:.0f} seconds |

## Scores on the held-out text

{valid_documents:,} documents, {valid_bytes:,} bytes, {targets:,} targets, every one scored once.

| bits per byte | bits per character | perplexity | word perplexity |
|---|---|---|---|
| {bits_per_byte:.4f} | {bits_per_character:.4f} | {perplexity:.2f} | {word_perplexity} |

## Use

```
elman generate FOLDER "A prompt"
elman eval FOLDER text.txt
```

## Provenance

Command: `{command}`

Content of the corpus, SHA-256: `{content_sha256}`

Tokenizer, SHA-256: `{tokenizer_sha256}`

Made with elman {elman}, torch {torch} and Python {python}. Device: {device}; threads: {threads}; products:
{precision}; processes: {ranks}; seed: {seed}. `elman verify RUN` trains its first steps again and compares.

```toml
{settings}```
"""


def model_card(
    config: RunConfig,
    data: Mapping[str, Any],
    result: Mapping[str, Any],
    command: str,
    environment: Mapping[str, Any],
) -> str:
    """Markdown.

    Args:
        config: The settings of the run.
        data: The manifest of the prepared corpus.
        result: What `RunResult.as_dict` gives.
        command: What the user typed.
        environment: What `machine.describe_environment` gives.
    """
    valid = result["valid"]
    return CARD.format(
        name=result["run"].rsplit("/", 1)[-1],
        model=config.model.name,
        shape=config.model.shape,
        parameters=result["parameters"],
        vocab_size=data["vocab_size"],
        corpus=config.data.corpus,
        train_bytes=data["train"]["bytes"],
        train_documents=data["train"]["documents"],
        valid_bytes=valid["bytes"],
        valid_documents=valid["documents"],
        word_perplexity=shortened(valid["word_perplexity"], 1),
        steps=result["steps"],
        tokens=result["tokens"],
        seconds=result["seconds"],
        command=command or "elman.train(...)",
        content_sha256=data["content_sha256"],
        tokenizer_sha256=data["tokenizer_sha256"],
        settings=to_toml(config),
        seed=config.training.seed,
        torch=environment["packages"]["torch"],
        precision=environment["product_dtype"].removeprefix("torch."),
        **{name: environment[name] for name in ("elman", "python", "device", "threads", "ranks")},
        **{name: valid[name] for name in ("targets", "bits_per_byte", "bits_per_character", "perplexity")},
    )
