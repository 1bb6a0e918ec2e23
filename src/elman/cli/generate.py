"""`elman generate`."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from elman.cli.arguments import Source, Whole
from elman.cli.render import megabytes, print_json, say, visible
from elman.config import require_integer

MOST_SAMPLES = 10_000
"""Drawn side by side in one call: as many as memory surely holds. Another seed gives more."""


def generate_command(
    model: Path,
    prompt: Source = "",
    *,
    max_tokens: Whole = 200,
    temperature: float = 1.0,
    top_k: Whole | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    stop: tuple[str, ...] = (),
    seed: Whole = 0,
    samples: Whole = 1,
    weights: Literal["float32", "bfloat16", "int8"] = "float32",
    json: bool = False,
) -> int:
    """Continue a prompt.

    Memory and time for a token stay the same however long the text becomes. A
    prompt that begins with a hyphen goes last, after two: elman generate M -- "-a".

    Args:
        model: A model folder or a run folder.
        prompt: The text to continue; - reads it from standard input; empty starts a document.
        max_tokens: Tokens to draw at most.
        temperature: Below 1 is safer, above 1 bolder, 0 always takes the most likely token.
        top_k: Draw from the K most likely tokens.
        top_p: Draw from the fewest tokens that hold this share of the probability.
        min_p: Draw from the tokens at least this share as likely as the most likely one.
        repetition_penalty: Above 1 makes tokens that have been seen less likely.
        stop: End before this string; may be given several times.
        seed: Same seed, same text.
        samples: How many continuations.
        weights: What the large matrices of a network are kept in; smaller is less exact, and quicker where the
            processor multiplies such numbers in hardware.
        json: Print one JSON document (elman.generate/1).
    """
    require_integer("samples", samples, at_least=1, at_most=MOST_SAMPLES)

    from elman.text_model import load  # torch takes a second to import

    text_model = load(model, weights=weights)
    if weights != "float32":
        from elman.models.quantize import bytes_before_and_after

        before, after = bytes_before_and_after(text_model.model)
        say(
            f"weights: {weights}, {megabytes(after)} instead of {megabytes(before)};"
            f" what it costs in bits per byte: elman eval {model} --weights {weights}"
        )
    if prompt == "-":
        prompt = sys.stdin.read()
    streaming = samples == 1 and not json
    waiting = [prompt]  # shown with the first token, so that a refused request shows nothing

    def show(_: int, text: str) -> None:
        text = "".join([*waiting, text])
        waiting.clear()
        sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()

    drawn = text_model.generate(
        prompt,
        max_tokens=max_tokens,
        samples=samples,
        seed=seed,
        stop=stop,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        on_text=show if streaming else None,
    )
    if json:
        print_json({"schema": "elman.generate/1", "samples": [asdict(sample) for sample in drawn]})
    elif streaming:
        show(0, "\n")
    else:
        for number, sample in enumerate(drawn, start=1):
            print(f"--- {number} ({sample.tokens} tokens, {sample.finish_reason})")
            print(visible(prompt + sample.text) if sys.stdout.isatty() else prompt + sample.text)
    return 0
