"""C2, long: 500 steps in float32 and with bfloat16 products; do they end at the same validation loss?

W1, on the documentation of Python or on `--text FILE`, with byte-pair pieces up to the chapter's 32,011. The record's
ratio is of losses: nats a token of the held-out text, scored in float32 for both; its seconds are those of the training
steps, one training after the other. Not in the default run: it takes about ten minutes.
"""

import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch

from benchmarks.parts.data import environment
from benchmarks.record import Record
from benchmarks.settings import Settings
from benchmarks.shapes import TINY, W1, ModelShape
from benchmarks.steppers import chapter_model, production_model, production_step
from elman.config import DataConfig
from elman.data.batches import StreamLoader
from elman.data.prepare import Prepared, prepare
from elman.errors import InputError
from elman.evaluate.score import score_store

STEPS = 500


def run(settings: Settings) -> Iterator[Record]:
    """Both trainings from the same weights over the same batches."""
    steps, given = (4, TINY) if settings.quick else (STEPS, W1)
    with tempfile.TemporaryDirectory() as folder, environment("ELMAN_CACHE", folder):
        data = prepared(settings, Path(folder))
        shape = given._replace(vocab=data.tokenizer.vocab_size)
        losses, seconds = {}, {}
        for dtype in (torch.float32, torch.bfloat16):
            losses[dtype], seconds[dtype] = train(data, shape, steps, dtype)
    yield Record(
        part="C2",
        what="validation loss after training, float32 / bfloat16",
        peer="float32 products",
        shape=f"{shape}, {steps} steps",
        dtype="bfloat16",
        ours_seconds=seconds[torch.bfloat16],
        peer_seconds=seconds[torch.float32],
        ratio=losses[torch.float32] / losses[torch.bfloat16],
        note=f"ratio of losses: {losses[torch.float32]:.4f} / {losses[torch.bfloat16]:.4f} nats a token",
    )


def prepared(settings: Settings, folder: Path) -> Prepared:
    """The text, split and tokenized."""
    if settings.quick:
        path = folder / "tiny.txt"
        path.write_text("the cat sat on the mat and the dog ran\n" * 200, encoding="utf-8")
        return prepare(DataConfig(corpus=str(path), tokenizer="byte"))
    corpus = "python-docs" if settings.text is None else str(settings.text)
    return prepare(DataConfig(corpus=corpus, tokenizer="bpe", vocab_size=W1.vocab))


def train(data: Prepared, shape: ModelShape, steps: int, dtype: torch.dtype) -> tuple[float, float]:
    """Nats a held-out token after training, and the seconds of the steps.

    Raises:
        InputError: The text is too short for one whole batch.
    """
    if len(data.train) < shape.positions:
        raise InputError(
            f"the training text has {len(data.train):,} tokens and a batch {shape.positions:,}; give a longer one"
        )
    loader = StreamLoader(data.train, shape.batch, shape.time, pad_id=data.tokenizer.pad_id)
    full = (each for each in loader if bool(each.counted.all()))
    batches = [(each.inputs, each.targets) for each in islice(full, steps)]
    model = production_model(chapter_model(shape), shape)
    step = production_step(model, batches, dtype)
    started = time.perf_counter()
    for _ in range(steps):
        step()
    seconds = time.perf_counter() - started
    model.eval()
    score = score_store(model, data.valid, pad_id=data.tokenizer.pad_id)
    return score.nats / score.targets, seconds
