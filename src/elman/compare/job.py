"""One training of a comparison: what is kept of it, and how it is done.

A trial, which only finds out how good a learning rate is, is trained and scored on a part of the held-out text,
and nothing of it stays on disk. The training of a row is scored on all of it, measured, and leaves a folder:

    config.toml      every setting, resolved        metrics.jsonl    its curves
    model/           what `elman eval` and `elman generate` need
"""

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from elman.compare.measure import (
    PeakMemory,
    flops_per_token,
    generation_speed,
    loss_by_position,
    state_bytes,
)
from elman.compare.plan import Job
from elman.data.prepare import Prepared
from elman.errors import DivergedError, first_line
from elman.evaluate.score import Score, summed
from elman.files import make_folder, write_atomically
from elman.models.build import count_parameters
from elman.settings import to_toml
from elman.text_model import TextModel
from elman.train.card import model_card
from elman.train.fit import Fit, fit_counts, fit_network, make_loader
from elman.train.machine import Machine, describe_environment, set_up
from elman.train.metrics import read_metrics
from elman.train.result import SAMPLE_TEMPERATURE, SAMPLE_TOKENS
from elman.train.run_folder import METRICS, MODEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """What the table and the page need of one training."""

    seed: int | None
    """None for a model that is counted."""
    parameters: int
    tokens: int
    """Trained on."""
    seconds: float
    """Of training, validation not counted."""
    peak_memory_bytes: int | None
    score: Score
    document_nats: list[float]
    """[D], of each held-out document."""
    by_position: list[tuple[int, float, int]]
    """See `measure.PositionLoss`."""
    flops_per_token: int
    state_bytes: int
    generation_tokens_per_second: float
    curve: list[tuple[float, float, float]]
    """Seconds, tokens and bits per byte of every validation."""
    sample: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a finished job came to."""

    bits_per_byte: float | None
    """None where the training diverged."""
    measures: Measures | None = None
    """None for a trial, too."""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Result":
        """What `to_json` wrote.

        Raises:
            ValueError: It is something else.
        """
        try:
            found = json.loads(text)
            measures = found["measures"]
            if measures is not None:
                measures = Measures(**measures | {"score": Score(**measures["score"])})
                if len(measures.document_nats) != measures.score.documents:
                    raise TypeError("some documents are missing")
            return cls(bits_per_byte=found["bits_per_byte"], measures=measures)
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not a result: {first_line(error)}") from error


def do_job(job: Job, data: Prepared, folder: Path, machine: Machine, command: str = "") -> Result:
    """Train and score.

    Args:
        job: What to do.
        data: The text.
        folder: For the training; what an interrupted one left there is removed.
        machine: To do it on.
        command: What the user typed, for the model's card.

    Raises:
        StoppedError: The user asked to stop; the training is to be done again.
        ElmanError: As for `train.run.run_training`, but for DivergedError.
    """
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    set_up(job.config.training)
    try:
        if job.is_trial:
            result = _try(job, data, folder, machine)
        else:
            result = _train_and_measure(job, data, folder, machine, command)
    except DivergedError:
        result = Result(bits_per_byte=None)
    if result.measures is None:
        shutil.rmtree(folder)
    return result


def _try(job: Job, data: Prepared, folder: Path, machine: Machine) -> Result:
    text_model, _ = _fit(job, data, folder, machine)
    some = data.valid.sample_documents(job.config.training.valid_tokens)
    return Result(bits_per_byte=_require_finite(text_model.score_store(some)).bits_per_byte)


def _train_and_measure(job: Job, data: Prepared, folder: Path, machine: Machine, command: str) -> Result:
    config, tokenizer, valid = job.config, data.tokenizer, data.valid
    with PeakMemory(machine.device) as memory:
        text_model, fit = _fit(job, data, folder, machine)
        nats = text_model.token_nats(valid)
    score = _require_finite(summed(nats, valid, unknown_id=tokenizer.unknown_id))
    measures = Measures(
        seed=config.training.seed if job.share else None,
        parameters=count_parameters(fit.model),
        tokens=fit.tokens,
        seconds=fit.seconds,
        peak_memory_bytes=memory.bytes,
        score=score,
        document_nats=np.add.reduceat(nats, valid.starts[:-1]).tolist(),
        by_position=[(*place,) for place in loss_by_position(nats, valid.starts)],
        flops_per_token=flops_per_token(fit.model, tokens=1),
        state_bytes=state_bytes(fit.model),
        generation_tokens_per_second=generation_speed(
            fit.model, start_id=tokenizer.start_id, end_id=tokenizer.end_id
        ),
        curve=list(_curve(folder / METRICS)),
        sample=text_model.generate(max_tokens=SAMPLE_TOKENS, temperature=SAMPLE_TEMPERATURE)[0].text,
    )
    write_atomically(folder / "config.toml", to_toml(config))
    facts: dict[str, Any] = asdict(measures) | {"run": job.name, "steps": fit.steps, "valid": score.as_dict()}
    environment = describe_environment(machine)
    text_model.save(folder / MODEL, model_card(config, data.manifest, facts, command, environment))
    return Result(bits_per_byte=score.bits_per_byte, measures=measures)


def _fit(job: Job, data: Prepared, folder: Path, machine: Machine) -> tuple[TextModel, Fit]:
    config = job.config
    if job.share:
        loader = make_loader(config, data)
        fit = fit_network(config, data, loader, machine, folder, say=lambda line: None, quiet=True)
    else:
        fit = fit_counts(config, data)
    return TextModel(fit.model, data.tokenizer, config.model), fit


def _require_finite(score: Score) -> Score:
    if not math.isfinite(score.nats):
        raise DivergedError(f"the held-out text scores {score.nats} nats")
    return score


def _curve(metrics: Path) -> Iterator[tuple[float, float, float]]:
    for record in read_metrics(metrics) if metrics.exists() else []:
        if "valid_bits_per_byte" in record:
            yield record["seconds"], record["tokens"], record["valid_bits_per_byte"]
