"""`elman doctor`."""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from elman.cli.arguments import Whole
from elman.cli.render import print_json, print_table
from elman.config import require_integer

if TYPE_CHECKING:
    from elman.evaluate.doctor import Check
    from elman.text_model import TextModel


def doctor_command(model: Path | None = None, *, seed: Whole = 0, json: bool = False) -> int:
    """Check the environment and the soundness of a model.

    A model's probabilities must sum to one and depend on nothing but the text
    before them. The exit code is 1 if a check fails.

    Args:
        model: A model folder or a run folder.
        seed: Of the random token sequences that a model is tried on.
        json: Print one JSON document (elman.doctor/1).
    """
    require_integer("seed", seed, at_least=0, at_most=2**63 - 1)

    from elman.evaluate.doctor import check_model  # torch takes a second to import
    from elman.text_model import load

    checks = check_environment()
    if model is not None:
        text_model = load(model)
        checks += [*check_model(text_model.model, seed=seed), *check_folder(text_model)]
    if json:
        found = [
            {"name": c.name, "pass": c.passed, "value": c.value, "limit": c.limit, "detail": c.detail}
            for c in checks
        ]
        print_json({"schema": "elman.doctor/1", "checks": found})
    else:
        columns = ["check", "", "value", "limit", "what"]
        rows = [
            [c.name, "ok" if c.passed else "FAIL", f"{c.value:.3g}", f"{c.limit:.3g}", c.detail]
            for c in checks
        ]
        print_table(columns, rows, left=(0, 1, 4))
    return 0 if all(check.passed for check in checks) else 1


def check_environment() -> "list[Check]":
    """What has to be there: a torch that learns correctly, memory, room in the cache."""
    import torch

    from elman import ops
    from elman.data.download import cache_dir
    from elman.evaluate.doctor import Check
    from elman.ops import reference

    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 8, generator=generator, dtype=torch.float64) for n in (37, 11))
    targets = torch.randint(11, (37,), generator=generator)
    fast = ops.linear_cross_entropy(hidden, weight, None, targets)
    exact = reference.linear_cross_entropy(hidden, weight, None, targets)
    existing = next(folder for folder in (cache_dir(), *cache_dir().parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 2**30
    return [
        Check(
            "arithmetic",
            float((fast - exact).abs()),
            1e-9,
            f"loss against its definition, torch {torch.__version__}",
        ),
        Check("cache", float(free < 0.1), 0, f"{free:.1f} GiB free at {existing}"),
    ]


def check_folder(text_model: "TextModel") -> "list[Check]":
    """Saving and loading is the identity; special tokens are apart; the padding row of a network is zero."""
    import torch

    from elman.evaluate.doctor import Check
    from elman.models.neural import NeuralLanguageModel
    from elman.text_model import load

    tokenizer, network = text_model.tokenizer, text_model.model
    tokens = torch.arange(network.vocab_size)[None, :64]
    with tempfile.TemporaryDirectory() as folder:
        text_model.save(Path(folder) / "model", "")
        again = load(Path(folder) / "model").model
    before, _ = network.log_probs(tokens, network.initial_state(1))
    after, _ = again.log_probs(tokens, again.initial_state(1))
    framing = {tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id}
    checks = [
        Check(
            "save and load", float((before != after).sum()), 0, "predictions changed by saving and loading"
        ),
        Check("framing tokens", float(len(framing) != 3), 0, "padding, start and end are three tokens"),
    ]
    if isinstance(network, NeuralLanguageModel):
        row = network.embedding.weight[network.pad_index].detach()
        checks.append(
            Check("padding row", float(row.abs().max()), 0, "largest number in the padding token's vector")
        )
    return checks
