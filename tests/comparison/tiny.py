"""A comparison that takes a few seconds."""

import random
from pathlib import Path

from elman.compare.job import Result
from elman.compare.plan import Plan, base_config
from elman.compare.run import CompareResult, run_comparison

WORDS = ["the", "a", "cat", "of", "and", "return", "value", "when", "12", "345", "walked", ".", ",", "née"]
MODELS = ("ngram", "elman", "window")
SETTINGS = {
    "documents": "line",
    "vocab_size": 300,
    "valid": "0.2",
    "batch_size": 4,
    "bptt": 16,
    "device": "cpu",
    "precision": "float32",
}


def write_text(path: Path, lines: int = 120) -> Path:
    """Lines of words."""
    draw = random.Random(0)
    text = "".join(" ".join(draw.choices(WORDS, k=draw.randint(3, 14))) + "\n" for _ in range(lines))
    path.write_text(text, encoding="utf-8")
    return path


def tiny_plan(**changes) -> Plan:
    """Three models, two seeds; as many trials as any plan."""
    values = {"models": MODELS, "params": 20_000, "time": None, "tokens": 640, "seeds": 2}
    return Plan(**values | changes)


def compare(
    text: Path, out: Path, plan: Plan | None = None, say=lambda line: None, **settings
) -> CompareResult:
    """Make it."""
    plan = plan or tiny_plan()
    overrides = {**SETTINGS, "corpus": str(text), **settings}
    configs = {name: base_config(name, overrides) for name in plan.models}
    return run_comparison(plan, configs, out, command="elman compare tiny", say=say)


def results_in(out: Path) -> dict[str, Result]:
    """Every result by its job."""
    return {
        path.stem: Result.from_json(path.read_text(encoding="utf-8")) for path in (out / "results").iterdir()
    }
