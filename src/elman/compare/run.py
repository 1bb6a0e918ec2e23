"""A comparison from its plan to its page: train what is not there yet, then the table.

<out>/
    plan.json, runs/, results/          see `compare.folder`
    environment.json                    versions, machine, text
    compare.json                        the table for tools
    table.csv, table.md                 the table for others
    report.html                         the table, intervals, curves, samples

An interrupted comparison is gone on with by the same command: a training without its result is begun again.
"""

import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from elman.compare.folder import ComparisonFolder
from elman.compare.job import Result, do_job
from elman.compare.measure import flops_per_token
from elman.compare.plan import Job, Plan, all_jobs, seed_jobs, solve_width, sweep_jobs
from elman.compare.report import Comparison, render_comparison
from elman.compare.rows import make_rows, mean_by_position, sound_trainings
from elman.compare.table import Row, to_csv, to_markdown
from elman.config import ModelConfig, RunConfig
from elman.data.prepare import Prepared
from elman.errors import InputError
from elman.files import write_atomically
from elman.models.build import build, require_memory
from elman.settings import to_dict
from elman.train.aloud import prepare_aloud
from elman.train.choices import batch_tokens
from elman.train.fit import make_loader
from elman.train.machine import Machine, choose_machine, describe_environment, memory_bytes
from elman.train.run import short_name
from elman.train.say import Say

LENGTHS = tuple(2**k for k in range(4, 14))
"""Of the text before a token, for the picture of what the token costs."""

NOTES = (
    "Every network was trained on the same text for the same budget, and the n-gram model counted all of it; each is"
    " scored on the same held-out documents, every target once, each document from a fresh state. Recurrent models"
    " carry their state from window to window in training; the Transformer carries its keys and values in the same"
    " way. Learning rates and the best weights on the way were chosen by the held-out text, for all networks alike.",
    "The interval of a difference is 95 %, from a paired bootstrap over the held-out documents that also covers the"
    " choice of seeds. An interval that holds zero says that this text and these seeds do not tell the two apart."
    " The best was itself chosen by these numbers: among ten equal models, one would seem worse than it in some four"
    " comparisons of ten. A single interval is for the question that was asked before.",
    "FLOPs are those of matrix products in predicting one token; element-wise work, and the look-ups of an n-gram"
    " model, are not among them. Peak memory is the highest of a training and its scoring above what the process"
    " held before.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareResult:
    """What a finished comparison reports."""

    out: Path
    rows: list[Row]
    facts: dict[str, str]
    notes: list[str]
    """What has to be known beside the table."""

    def as_dict(self) -> dict[str, Any]:
        """As `elman compare --json` prints it."""
        return {
            "schema": "elman.compare/1",
            "out": str(self.out),
            "facts": self.facts,
            "notes": self.notes,
            "rows": [row.as_dict() for row in self.rows],
        }


def run_comparison(
    plan: Plan,
    configs: Mapping[str, RunConfig],
    out: Path | None = None,
    *,
    command: str = "",
    say: Say = lambda line: None,
) -> CompareResult:
    """Make the comparison, or what of it is not made yet.

    Args:
        plan: What to compare.
        configs: The settings of each model, from `plan.base_config`; all read the same text.
        out: Its folder; None takes `runs/compare-<corpus>`.
        command: What the user typed, for the report.
        say: Told, a line at a time, what is done and how long the rest will take.

    Raises:
        ElmanError: Bad settings or input, before anything is written; the folder belongs to another plan.
        StoppedError: The user asked to stop; what is finished is kept. KeyboardInterrupt, where twice.
    """
    first = next(iter(configs.values()))
    machine = choose_machine(first.training)
    data = prepare_aloud(first.data, say)
    sized = {
        name: replace(config, model=solve_width(config.model, plan.params, data.tokenizer.vocab_size))
        for name, config in configs.items()
    }
    for name, config in sized.items():
        say(f"{name}, {_require_possible(config, data)}")
    wanted = {
        **plan.as_dict(),
        "text": data.manifest["content_sha256"],
        "settings": {name: to_dict(config) for name, config in sized.items()},
        "tokenizer": data.tokenizer.sha256,
    }
    folder = ComparisonFolder(out or Path("runs") / f"compare-{short_name(first.data.corpus)}", wanted)
    environment = describe_environment(machine) | {"data": data.manifest}
    write_atomically(folder.path / "environment.json", json.dumps(environment, indent=2) + "\n")
    desk = _Desk(folder, all_jobs(plan, sized), data, machine, plan.time, command, say)

    tried: dict[str, dict[float, float]] = {name: {} for name in sized}
    for job in sweep_jobs(plan, sized):
        bits = desk.do(job).bits_per_byte
        tried[job.model][job.config.optimizer.learning_rate] = math.inf if bits is None else bits
    rates: dict[str, float | None] = {}
    results: dict[str, list[Result]] = {}
    for name, config in sized.items():
        losses = tried[name] or dict.fromkeys(plan.learning_rates, 0.0)
        rates[name] = None if config.model.family == "ngram" else min(losses, key=losses.__getitem__)
        results[name] = [desk.do(job) for job in seed_jobs(plan, name, config, rates[name])]

    trainings = sound_trainings(results)
    rows = make_rows(trainings, rates, data.valid.bytes)
    facts = _facts(plan, first, data, machine)
    notes = _notes(plan, data, results, rates)
    result = CompareResult(out=folder.path, rows=rows, facts=facts, notes=notes)
    comparison = Comparison(
        title=f"{len(rows)} models on {first.data.corpus}",
        command=command,
        facts=facts,
        rows=rows,
        curves={name: found[0].curve for name, found in trainings.items() if found[0].curve},
        by_position={name: mean_by_position(found) for name, found in trainings.items()},
        cost=_costs({name: sized[name] for name in trainings}, data),
        samples={name: found[0].sample for name, found in trainings.items()},
        notes=[*NOTES, *notes],
    )
    write_atomically(folder.path / "compare.json", json.dumps(result.as_dict(), indent=2) + "\n")
    write_atomically(folder.path / "table.csv", to_csv(rows))
    write_atomically(
        folder.path / "table.md",
        "\n".join([to_markdown(rows, command), *(f"- {note}" for note in notes), ""]),
    )
    write_atomically(folder.path / "report.html", render_comparison(comparison))
    return result


class _Desk:
    """Does jobs one after the other, unless their result is there, and says how long the rest will take."""

    def __init__(
        self,
        folder: ComparisonFolder,
        jobs: list[Job],
        data: Prepared,
        machine: Machine,
        budget: float | None,
        command: str,
        say: Say,
    ) -> None:
        self._folder, self._data, self._machine = folder, data, machine
        self._budget, self._command, self._say = budget, command, say
        self._left = {job.name: job for job in jobs if folder.result(job.name) is None}
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._shares: defaultdict[str, float] = defaultdict(float)
        done = len(jobs) - len(self._left)
        already = f", {done} of them done already" if done else ""
        say(f"{len(jobs)} trainings on {machine.describe()}{already}{self._rest()}")

    def do(self, job: Job) -> Result:
        """The result of a job."""
        if (result := self._folder.result(job.name)) is not None:
            return result
        started = time.monotonic()
        result = do_job(job, self._data, self._folder.training(job.name), self._machine, self._command)
        self._folder.keep(job.name, result)
        self._seconds[job.model] += time.monotonic() - started
        self._shares[job.model] += job.share
        del self._left[job.name]
        score = "diverged" if result.bits_per_byte is None else f"{result.bits_per_byte:.3f} bits per byte"
        self._say(f"{job.name}: {score}{self._rest()}")
        return result

    def _rest(self) -> str:
        """How long what is left will take: a budget as long as those of the same model so far, or of the others."""
        trained = [model for model, share in self._shares.items() if share]
        total = sum(self._seconds[model] for model in trained)
        usual = total / sum(self._shares.values()) if trained else self._budget
        if not self._left or usual is None:
            return ""
        paces = {model: self._seconds[model] / self._shares[model] for model in trained}
        rest = sum(job.share * paces.get(job.model, usual) for job in self._left.values())
        return f"; about {duration(rest)} left"


def duration(seconds: float) -> str:
    """In the unit that says it best."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _require_possible(config: RunConfig, data: Prepared) -> str:
    """What a model looks like; refuse what could not be trained, before anything is written.

    Raises:
        InputError: The text is too short.
        ResourceError: The model does not fit the memory.
    """
    if config.model.family == "ngram":
        if len(data.train) < config.model.order:
            raise InputError(
                f"{config.data.corpus}: {len(data.train)} training tokens are too few for n-grams of"
                f" {config.model.order}; give more text"
            )
        return config.model.shape
    parameters = require_memory(
        config.model, data.tokenizer.vocab_size, memory_bytes(), batch_tokens=batch_tokens(config)
    )
    make_loader(config, data)
    return f"{config.model.shape}, {parameters:,} parameters"


def _costs(configs: Mapping[str, RunConfig], data: Prepared) -> dict[str, list[tuple[int, float]]]:
    """FLOPs of the token after a text of each length, where all of the text is to count."""
    pad, size = data.tokenizer.pad_id, data.tokenizer.vocab_size

    def flops(config: ModelConfig) -> float:
        return float(flops_per_token(build(config, size, pad).eval(), tokens=1))

    found = {}
    for name, config in configs.items():
        if config.model.family == "transformer":
            found[name] = [(length, flops(replace(config.model, context=length))) for length in LENGTHS]
        elif config.model.family != "ngram":
            constant = flops(config.model)
            found[name] = [(length, constant) for length in LENGTHS]
    return found


def _facts(plan: Plan, config: RunConfig, data: Prepared, machine: Machine) -> dict[str, str]:
    train, valid = data.manifest["train"], data.manifest["valid"]
    return {
        "Corpus": config.data.corpus,
        "Training text": f"{train['targets']:,} tokens, {train['bytes']:,} bytes",
        "Held-out text": f"{valid['targets']:,} tokens, {valid['bytes']:,} bytes, {valid['documents']:,} documents",
        "Vocabulary": f"{data.tokenizer.vocab_size:,}",
        "Parameters": f"at most {plan.params:,}; n-grams as many as there are",
        "Training": f"{plan.time:g} seconds" if plan.time is not None else f"{plan.tokens:,} tokens",
        "Seeds": f"{plan.seeds}",
        "Learning rates": ", ".join(f"{rate:g}" for rate in plan.learning_rates),
        "Machine": machine.describe(),
    }


def _notes(
    plan: Plan, data: Prepared, results: Mapping[str, list[Result]], rates: Mapping[str, float | None]
) -> list[str]:
    """Choices at the edge of the sweep, what diverged, and text on both sides."""
    notes = []
    tried = plan.learning_rates
    for edge, further in ((min(tried), "a lower"), (max(tried), "a higher")) if len(tried) > 1 else ():
        if names := [name for name, rate in rates.items() if rate == edge]:
            notes.append(
                f"{', '.join(names)}: {edge:g} is the end of the sweep; {further} rate may be better."
            )
    if data.valid.documents == 1:
        notes.append(
            "The held-out text is one document, so there are no intervals; --documents paragraph has more."
        )
    for name, found in results.items():
        if diverged := sum(one.bits_per_byte is None for one in found):
            notes.append(f"{name}: {diverged} of {len(found)} trainings diverged and are left out.")
    if shared := data.manifest["valid_documents_also_in_train"]:
        notes.append(f"{shared:,} held-out documents also stand in the training text.")
    return notes
