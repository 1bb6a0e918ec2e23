"""Time to quality: validation perplexity against seconds of training, of three ways to train on the same text.

    chapter   `elman.chapter` as it is written: 2 Elman layers of 128, Xavier, 128 documents cut to 30 tokens a
              batch, AdamW at 0.001
    stock     the same model from torch's own parts, nn.RNN and AdamW(fused=True), on the same batches
    elman     this project's recipe, ELMAN below: streams with carried state, tied embeddings, a sampled softmax
              in training, and at the end the exact one

    python -m benchmarks.quality TEXT --tokenizer tokenizer.json --documents line --work FOLDER
        [--seconds 600] [--stock-seconds 600] [--ours-seconds 120] [--only chapter|stock|elman]

A tenth of the documents is held out. Every point scores all of them whole, with the full softmax, by one scorer
(`elman.evaluate.score`): the first two models are converted to the production model for it. Time stands still
while a model is scored.

The first two are scored on their way, after 1, 2, 4, ... seconds and at the end. The learning rate of the recipe
falls to zero at the end of its budget, and a point on the way is worse than the end of a shorter training. So
elman is trained once for each of these times, from the beginning, and each point is the end of one training.

FOLDER/NAME.jsonl gets the points as they come. A system whose points are complete is not trained again.
FOLDER/c5.jsonl gets how soon elman is where the chapter's loop ends, beside the goal.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.baselines import BASELINES, BATCH, LAYERS, LENGTH, WIDTH, Baseline
from benchmarks.chart import svg_file
from benchmarks.curve import GOAL_SECONDS, Curve, curve, doubling, perplexity_at, seconds_to, time_to_quality
from benchmarks.goals import CHAPTER
from benchmarks.recipe import Result, progress, read_results, train_once
from benchmarks.record import describe_machine
from elman import chapter
from elman.config import TrainingConfig
from elman.data.batches import DocumentLoader
from elman.data.prepare import Prepared, prepare
from elman.errors import ElmanError, InputError
from elman.evaluate.score import score_store, shortened
from elman.files import make_folder, write_atomically
from elman.pages.chart import Line
from elman.settings import resolve
from elman.train.budget import Budget
from elman.train.machine import set_up
from elman.train.metrics import MetricsLog

ELMAN: dict[str, object] = {
    "cell": "elman",
    "num_layers": 1,
    "embedding_dim": 128,
    "hidden_size": 128,
    "tie_embeddings": True,
    "dropout": 0.2,
    "batches": "streams",
    "batch_size": 32,
    "bptt": 32,
    "loss": "sampled",
    "negatives": 512,
    "exact_share": 0.1,
    "learning_rate": 1e-2,
    "schedule": "linear",
    "beta2": 0.99,
    "warmup": 0.02,
    "deterministic": False,
    "validations": 1,  # the last weights are the result: none are chosen by the text that scores them
    "valid_tokens": 1,
    "yardstick_order": None,
}
"""The recipe, over the default preset."""

HELD_OUT: dict[str, object] = {"valid": "0.1", "valid_limit": None}
"""A tenth, however long the text is."""

LABELS = {"chapter": "the chapter’s loop", "stock": "stock torch, plain loss", "elman": "elman"}
"""The systems, in the order in which they are trained, as the table and the chart call them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is the same for all systems."""

    settings: Mapping[str, object]
    """Where the text comes from and the seed, as `elman.train` takes them."""
    work: Path
    """Folder of the curves and the runs."""
    data: Prepared
    """The text that `settings` name."""
    seed: int
    """Of the weights and the order of the batches."""


def make_task(settings: Mapping[str, object], work: Path) -> Task:
    """Prepare the text, once for all systems; make the folder `work`.

    Raises:
        ElmanError: As for `data.prepare.prepare`.
    """
    config = resolve(overrides=settings)
    data = prepare(config.data)
    if not work.exists():
        make_folder(work)
    return Task(settings=settings, work=work, data=data, seed=config.training.seed)


def trainings(task: Task, name: str, seconds: float) -> list[dict[str, object]]:
    """The settings of the trainings whose points are the curve of a system."""
    if name == "elman":
        return [{**task.settings, **ELMAN, "max_time": budget} for budget in doubling(seconds)]
    return [{**task.settings, "max_time": seconds}]


def read_curve(task: Task, name: str, seconds: float) -> Curve:
    """What there is of the curve so far."""
    wanted = trainings(task, name, seconds)
    return curve(
        [result for result in read_results(task.work / f"{name}.jsonl") if result["asked"] in wanted]
    )


def train_elman(task: Task, seconds: float) -> None:
    """The trainings of elman that are not there yet.

    Raises:
        ElmanError: As for `elman.train`.
    """
    for asked in trainings(task, "elman", seconds):
        result = train_once(task.work / "elman.jsonl", f"elman-{asked['max_time']:g}s", asked)
        reached = "diverged" if result["perplexity"] is None else f"{result['perplexity']:,.1f}"
        progress(f"elman: {result['seconds']:.1f} s, {result['steps']:,} steps, perplexity {reached}")


def train_baseline(task: Task, name: str, seconds: float) -> None:
    """The training of a baseline, unless it is there to its end.

    Raises:
        DivergedError: The chapter's loss is not finite.
    """
    path, (asked,) = task.work / f"{name}.jsonl", trainings(task, name, seconds)
    results = read_results(path)
    if any(result["asked"] == asked and result["final"] for result in results):
        return
    others = [result for result in results if result["asked"] != asked]
    if others != results:  # a training that was cut off begins again
        write_atomically(path, "".join(json.dumps(result) + "\n" for result in others))
    with MetricsLog(path) as log:
        run_baseline(task, BASELINES[name], seconds, lambda result: log.write({"asked": asked, **result}))


def run_baseline(task: Task, baseline: Baseline, seconds: float, keep: Callable[[Result], object]) -> None:
    """Train a baseline for `seconds`; `keep` gets each of its points as it comes, the last one with `final`."""
    tokenizer, seed = task.data.tokenizer, task.seed
    training = TrainingConfig(max_time=seconds, seed=seed, deterministic=False)  # all three at their fastest
    set_up(training)
    model = baseline.make(tokenizer.vocab_size, WIDTH, LAYERS, tokenizer.pad_id)
    chapter.initialize_weights(model)
    loader = DocumentLoader(task.data.train, BATCH, LENGTH, pad_id=tokenizer.pad_id, seed=seed)
    budget = Budget(training, loader.steps_per_epoch)

    def batches() -> Iterator[chapter.Batch]:
        """Those of the loader until the time is over; between two of them the model is scored where that is due."""
        due, tokens = doubling(seconds), 0
        for steps, batch in enumerate(loader):
            now = budget.seconds
            if steps and now >= due[0]:
                due = [later for later in due if later > now]
                with budget.paused():
                    score = score_store(
                        baseline.convert(model).eval(),
                        task.data.valid,
                        pad_id=tokenizer.pad_id,
                        unknown_id=tokenizer.unknown_id,
                    )
                scores = {"perplexity": score.perplexity, "bits_per_byte": score.bits_per_byte}
                keep({"steps": steps, "tokens": tokens, "seconds": now, **scores, "final": not due})
                progress(f"{now:.1f} s, {steps:,} steps, perplexity {shortened(score.perplexity, 1)}")
                if not due:
                    return
            tokens += int(batch.counted.sum())
            yield batch.inputs, batch.targets

    baseline.train(model, batches(), tokenizer.pad_id)


def table(curves: Mapping[str, Curve], times: Sequence[float]) -> str:
    """Markdown: perplexities at each of the times, and when each system is where the chapter's loop ends."""
    lines = [
        "| seconds | " + " | ".join(LABELS[name] for name in curves) + " |",
        "|--:" * (1 + len(curves)) + "|",
    ]
    for seconds in times:
        values = [perplexity_at(points, seconds) for points in curves.values()]
        if any(value is not None for value in values):
            cells = ["" if value is None else shortened(value, 1) for value in values]
            lines.append(f"| {seconds:,g} | " + " | ".join(cells) + " |")
    if goal := curves.get("chapter"):
        reached = [seconds_to(points, goal[-1].perplexity) for points in curves.values()]
        cells = ["never" if seconds is None else f"**{seconds:,.1f} s**" for seconds in reached]
        lines.append(f"| at {goal[-1].perplexity:,.0f} after | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdict_line(verdict: Mapping[str, Any]) -> str:
    """Whether C5 is met, for people."""
    seconds = verdict["ours_seconds"]
    reached = "never" if seconds is None else f"after {seconds:,.1f} s"
    word = "met" if verdict["met"] else "missed"
    return f"C5: perplexity {verdict['perplexity']:,.0f} {reached}, goal {GOAL_SECONDS:g} s: {word}"


def drawing(curves: Mapping[str, Curve], task: Task) -> str:
    """The chart as an SVG file."""
    valid, styles = task.data.manifest["valid"], {name: k for k, name in enumerate(reversed(LABELS))}
    return svg_file(
        [Line(label=LABELS[name], points=points, style=styles[name]) for name, points in curves.items()],
        title="Validation perplexity after seconds of training",
        x_label="seconds of training",
        notes=[
            f"{valid['targets']:,} held-out tokens of {valid['documents']:,} whole documents, each scored by the full"
            f" softmax over {task.data.tokenizer.vocab_size:,} entries; {torch.get_num_threads()} threads.",
            "A point of elman is the end of a training of its own, whose learning rate falls to zero there.",
        ],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit code."""
    given = _parse(arguments)
    try:
        measure(given)
    except ElmanError as error:
        progress(f"error: {error}")
        return InputError.exit_code
    return 0


def measure(given: argparse.Namespace) -> None:
    """Train what is missing, print the table and the verdict, draw the chart.

    Raises:
        ElmanError: As for `make_task` and the trainings.
    """
    settings = {"corpus": given.text, "documents": given.documents, "tokenizer": given.tokenizer}
    task = make_task({**settings, **HELD_OUT, "seed": given.seed}, given.work)
    seconds = {
        "chapter": given.seconds,
        "stock": given.stock_seconds or given.seconds,
        "elman": given.ours_seconds,
    }
    for name in LABELS if given.only is None else [given.only]:
        progress(LABELS[name])
        if name == "elman":
            train_elman(task, seconds[name])
        else:
            train_baseline(task, name, seconds[name])
    curves = {name: points for name in LABELS if (points := read_curve(task, name, seconds[name]))}
    write_atomically(given.work / "quality.svg", drawing(curves, task))
    print(table(curves, sorted({time for name in curves for time in doubling(seconds[name])})))
    if verdict := time_to_quality(curves.get("elman", ()), curves.get("chapter", ())):
        line = json.dumps({"part": "C5", "peer": CHAPTER, **verdict, **describe_machine()})
        write_atomically(given.work / "c5.jsonl", f"{line}\n")
        print(f"\n{verdict_line(verdict)}")
    progress(f"chart: {given.work / 'quality.svg'}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.splitlines()[0])
    parser.add_argument("text", help="a corpus, as for `elman train`")
    parser.add_argument("--tokenizer", default="auto", help="as for `elman train`")
    parser.add_argument("--documents", default="line", help="as for `elman train`")
    parser.add_argument("--work", type=Path, required=True, help="folder of the curves and the runs")
    parser.add_argument("--seconds", type=float, default=600.0, help="of training, for the chapter's loop")
    parser.add_argument("--stock-seconds", type=float, help="of training, for stock torch; as the chapter's")
    parser.add_argument("--ours-seconds", type=float, default=120.0, help="of the longest training of elman")
    parser.add_argument(
        "--only", choices=list(LABELS), help="train this system; the others where they are there"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
