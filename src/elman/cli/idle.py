"""Settings that were asked for and have no effect in the run they were given to: told, and not refused."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from elman.config import DataConfig, RunConfig


def idle_settings(given: Iterable[str], config: RunConfig) -> Iterator[str]:
    """A remark on each of the settings `given`, by bare or dotted name, that `config` makes no use of."""
    for name in given:
        bare = name.rpartition(".")[2]
        for names, used, what_for in _USES:
            if bare in names and not used(config):
                yield f"{bare} has no effect here: it is for {what_for}"


def _has_records(data: DataConfig) -> bool:
    """Whether a text may have fields, by its name: a folder is not looked into."""
    from elman.data.sources import format_of

    sources = [data.corpus] if data.valid_fraction is not None else [data.corpus, data.valid]
    return any(
        source.startswith("hf:") or Path(source).is_dir() or format_of(Path(source)) != "text"
        for source in sources
    )


_USES: tuple[tuple[tuple[str, ...], Callable[[RunConfig], bool], str], ...] = (
    (("text_field", "skip_bad"), lambda c: _has_records(c.data), "jsonl, parquet and hf: records"),
    (("valid_limit",), lambda c: c.data.valid_fraction is not None, "a share that is held out"),
    (("negatives", "exact_share"), lambda c: c.training.loss == "sampled", "--loss sampled"),
    (("bptt", "fresh_start"), lambda c: c.training.batches == "streams", "--batches streams"),
    (("max_length", "bucket"), lambda c: c.training.batches == "documents", "--batches documents"),
    (("order",), lambda c: c.model.family in ("ngram", "window"), "--model ngram or window"),
    (("prune",), lambda c: c.model.family == "ngram", "--model ngram"),
    (("context", "mlp"), lambda c: c.model.family == "transformer", "--model transformer"),
    (("block",), lambda c: c.model.family == "recurrent", "a recurrent model"),
    (
        ("num_heads",),
        lambda c: c.model.name in ("slstm", "mlstm", "transformer"),
        "slstm, mlstm and transformer",
    ),
)
"""Names, whether a run uses them, and what they are for."""
