"""A preparation can be killed, starved, shared and damaged, and its tokens are those of one that was left alone.

Reading text is in `test_data`; here is what becomes of it.
"""

import errno
import hashlib
import itertools
import json
import math
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import tracemalloc
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import elman.files
from elman.config import DataConfig
from elman.data import build, chunks, halfdone, readers
from elman.data import survey as surveying
from elman.data.finished import verify_store
from elman.data.prepare import open_prepared, prepare, prepare_text
from elman.data.tokenizer import train_tokenizer
from elman.errors import ConfigError, ElmanError, InputError, ResourceError
from elman.ranks import Ranks
from tests.command_line import SMALL, options
from tests.faults.cuts import RecordingDisk
from tests.faults.damage import damages
from tests.faults.disks import FAILURES, READS, FailingDisk, KillingDisk, WatchedDisk
from tests.faults.effort import effort
from tests.faults.large_corpus import LIMIT_BYTES, measure, write_corpus
from tests.faults.sweep import LATER, cases
from tests.switches import torch_as_before  # noqa: F401 - autouse

pytestmark = pytest.mark.usefixtures("plain_surroundings")

POINTS = (
    "prepare.vocabulary_before_record",
    "prepare.shard_before_record",
    "prepare.shard_after_record",
    "prepare.before_move",
    "prepare.after_move",
)

WORDS = ["one", "two", "three", "äöü", "猫", "cat,", "walked", "(12)"]

SHARDS = 18
"""Of the texts below, with `small_shards`."""


def small_shards(disk: elman.files.Disk | None = None) -> AbstractContextManager[None]:
    """Cut even a small text into shards, each of several batches; also a fault for a child."""
    surveying.SHARD_CHARACTERS = 2000
    chunks.BATCH_CHARACTERS = 1000
    elman.files.disk = disk or elman.files.disk
    return nullcontext()


@pytest.fixture(autouse=True)
def as_small_shards(monkeypatch):
    for where, name in ((surveying, "SHARD_CHARACTERS"), (chunks, "BATCH_CHARACTERS"), (elman.files, "disk")):
        monkeypatch.setattr(where, name, getattr(where, name))
    small_shards()


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> DataConfig:
    """Documents, some longer than a shard, and held-out ones, three of which are among them."""
    folder = tmp_path_factory.mktemp("texts")
    draw = random.Random(7)
    lines = [" ".join(draw.choices(WORDS, k=draw.choice([3, 9, 400]))) for _ in range(40)]
    (folder / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    own = "a cat of its own " * 200
    (folder / "valid.txt").write_text("\n".join([*lines[3:6], own]) + "\n", encoding="utf-8")
    return DataConfig(
        corpus=str(folder / "text.txt"),
        valid=str(folder / "valid.txt"),
        documents="line",
        tokenizer="bpe",
        vocab_size=300,
    )


def arguments(config: DataConfig) -> list[str]:
    """The command line that prepares it."""
    names = ("valid", "documents", "tokenizer", "vocab_size")
    return ["data", "prepare", config.corpus, *options(**{name: getattr(config, name) for name in names})]


def content(cache: Path) -> dict[str, str]:
    """All that is in the cache, hidden or not, with a checksum each."""
    return {
        str(path.relative_to(cache / "prepared")): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(cache.glob("prepared/**/*"))
        if path.is_file()
    }


def in_cache(monkeypatch, folder: Path, copy_of: Path | None = None) -> Path:
    """Make `folder` the cache, empty or a copy."""
    shutil.copytree(copy_of, folder) if copy_of else folder.mkdir()
    monkeypatch.setenv("ELMAN_CACHE", str(folder))
    return folder


@pytest.fixture
def whole(texts, tmp_path, monkeypatch) -> Path:
    """A cache in which it was prepared without shards, undisturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surveying, "SHARD_CHARACTERS", 1 << 25)
        patch.setattr(chunks, "BATCH_CHARACTERS", 4_000_000)
        in_cache(patch, tmp_path / "whole")
        prepare(texts)
    assert len(content(tmp_path / "whole")) == 14
    return tmp_path / "whole"


@pytest.fixture
def half(texts, tmp_path, monkeypatch) -> Path:
    """A cache with what a preparation leaves that ends half-way."""

    class Stop(Exception):
        pass

    class StoppingDisk(WatchedDisk):
        def reach(self, point):
            super().reach(point)
            if self.points.count("prepare.shard_after_record") == SHARDS // 2:
                raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elman.files, "disk", StoppingDisk())
        in_cache(patch, tmp_path / "half")
        with pytest.raises(Stop):
            prepare(texts)
    return tmp_path / "half"


# ---- killed ---------------------------------------------------------------------------------------------


def kill_and_go_on(nursery, texts, cache: Path, whole: Path, *, fault, **how) -> str:
    """What was said when it was gone on with after a kill; the content of the cache is the right one."""
    cache.mkdir()
    variables = {"ELMAN_CACHE": cache}
    ended = nursery.run(arguments(texts), fault=fault, **variables, **how)
    assert ended.code in (-9, 0), ended.err
    assert ended.code == -9 or "kill_after" in how
    went_on = nursery.run(arguments(texts), fault=small_shards, **variables)
    assert went_on.code == 0, went_on.err
    assert content(cache) == content(whole)
    return went_on.err


def test_d23_killed_at_any_call_to_the_disk(nursery, texts, whole, tmp_path, monkeypatch, full, count):
    in_cache(monkeypatch, tmp_path / "watched")
    small_shards(disk := WatchedDisk())
    prepare(texts)
    assert content(tmp_path / "watched") == content(whole)
    changes = sum(call not in READS for call, _ in disk.calls)
    calls = range(1, changes + 1) if full else sorted(random.Random(1).sample(range(1, changes + 1), 3))
    said = [
        kill_and_go_on(
            nursery, texts, tmp_path / f"call-{n}", whole, fault=partial(small_shards, KillingDisk(time=n))
        )
        for n in calls
    ]
    assert any("going on: " in err for err in said)
    count(len(said))


@pytest.mark.parametrize("point", POINTS)
def test_d23_killed_between_two_steps(nursery, texts, whole, tmp_path, point):
    time = 5 if ".shard" in point else 1
    kept = {"prepare.shard_before_record": 4, "prepare.shard_after_record": 5, "prepare.before_move": SHARDS}
    fault = partial(small_shards, KillingDisk(point, time=time))
    said = kill_and_go_on(nursery, texts, tmp_path / "cache", whole, fault=fault)
    expected = f"going on: {kept[point]} of {SHARDS} shards are there" if point in kept else ""
    assert expected in said
    assert ("going on" in said) == (point in kept)
    assert ("training the vocabulary" in said) == (point == "prepare.vocabulary_before_record")


def test_d23_killed_at_random_instants(nursery, texts, whole, tmp_path, full, count):
    draw = random.Random(2)
    cases = 200 if full else 4
    for case in range(cases):
        kill_and_go_on(
            nursery,
            texts,
            tmp_path / f"instant-{case}",
            whole,
            fault=small_shards,
            kill_after=draw.uniform(0, 0.25),
        )
    count(cases)


def test_d23_killed_again_and_again(nursery, texts, whole, tmp_path):
    """Every process gets a little further, and the last one finds all of it done."""
    cache = tmp_path / "cache"
    cache.mkdir()
    deaths = 0
    fault = partial(small_shards, KillingDisk("prepare.shard_after_record", time=3))
    while nursery.run(arguments(texts), fault=fault, ELMAN_CACHE=cache).code == -9:
        deaths += 1
    assert deaths == SHARDS // 3
    assert content(cache) == content(whole)


def test_d23_the_power_is_cut(texts, whole, tmp_path, monkeypatch, full, count):
    cache = in_cache(monkeypatch, tmp_path / "recorded")
    small_shards(disk := RecordingDisk(cache))
    # Fewer shards than elsewhere, as each call is remembered with all that is there.
    monkeypatch.setattr(surveying, "SHARD_CHARACTERS", 15_000)
    prepare(texts)
    small_shards(elman.files.Disk())
    monkeypatch.setattr(surveying, "SHARD_CHARACTERS", 15_000)
    states = disk.states if full else random.Random(3).sample(disk.states, 20)
    for number, (told, make) in enumerate(states):
        cache = in_cache(monkeypatch, tmp_path / f"cut-{number}")
        make(cache)
        prepare(texts)
        found = content(cache)
        assert {name: found.get(name) for name in content(whole)} == content(whole), told
        shutil.rmtree(cache)
    count(len(states))


# ---- a disk that fails ----------------------------------------------------------------------------------


def test_d23_any_call_to_the_disk_fails(texts, whole, tmp_path, monkeypatch, full, count):
    in_cache(monkeypatch, tmp_path / "watched")
    small_shards(disk := WatchedDisk())
    prepare(texts)
    draw = random.Random(4)
    calls = range(1, len(disk.calls) + 1) if full else sorted(draw.sample(range(1, len(disk.calls) + 1), 8))
    for n in calls:
        number = draw.choice(FAILURES)
        cache = in_cache(monkeypatch, tmp_path / f"fails-{n}")
        small_shards(failing := FailingDisk(number, call=n, lasting=draw.random() < 0.5))
        try:
            prepare(texts)
        except ElmanError as error:
            assert type(error) in (InputError, ResourceError), (failing.failed, error)
            assert "\n" not in str(error)
            if isinstance(error, ResourceError):
                assert number in (errno.ENOSPC, errno.EDQUOT)
        assert failing.failed
        small_shards(elman.files.Disk())
        prepare(texts)
        found = content(cache)
        assert {name: found.get(name) for name in content(whole)} == content(whole), failing.failed
        shutil.rmtree(cache)
    count(len(calls))


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOLCK])
def test_d23_without_flock_it_is_prepared_alone(texts, whole, tmp_path, monkeypatch, number):
    """And as nothing tells the half-done work of the dead from that of the living, none is gone on with."""
    cache = in_cache(monkeypatch, tmp_path / "cache")
    small_shards(disk := FailingDisk(number, lasting=True, where=lambda call, path: call == "lock"))
    prepare(texts)
    assert disk.failed
    assert content(cache) == content(whole)
    assert [path.name for path in cache.glob("prepared/.*")] == []


def test_d23_what_was_abandoned_is_removed(texts, tmp_path, monkeypatch):
    prepared = in_cache(monkeypatch, tmp_path / "cache") / "prepared"
    for name, days in ((".old.part", 8), (".fresh.part", 6), (".trash-1", 8), ("kept", 800)):
        (prepared / name).mkdir(parents=True)
        (prepared / name / "000000.record").write_text("{}")
        for path in (prepared / name / "000000.record", prepared / name):
            at = halfdone.time.time() - days * 24 * 3600
            os.utime(path, (at, at))
    prepare(texts)
    assert {path.name for path in prepared.iterdir()} > {".fresh.part", "kept"}
    assert not (prepared / ".old.part").exists()
    assert len(list(prepared.iterdir())) == 3


# ---- damaged, or of another make ------------------------------------------------------------------------


def test_d13_damage_to_what_is_half_done_costs_a_shard(
    texts, whole, half, tmp_path, monkeypatch, full, count
):
    (part,) = (half / "prepared").iterdir()
    ways = [damage for damage in damages(part, flips=2) if not damage.file.endswith(".lock")]
    ways = ways if full else random.Random(5).sample(ways, 15)
    for number, damage in enumerate(ways):
        cache = in_cache(monkeypatch, tmp_path / f"damaged-{number}", copy_of=half)
        damage(cache / "prepared" / part.name)
        said: list[str] = []
        prepare(texts, lambda what, share, said=said: said.append(what))
        assert content(cache) == content(whole), str(damage)
        if damage.file[0] == "0":  # of a shard, which alone is done again
            assert f"going on: {SHARDS // 2 - 1} of {SHARDS} shards are there" in said, str(damage)
        shutil.rmtree(cache)
    count(len(ways))


def test_d13_damage_to_what_is_finished_is_found(texts, whole, tmp_path, monkeypatch, full, count):
    (folder,) = (whole / "prepared").iterdir()
    in_cache(monkeypatch, tmp_path / "copy", copy_of=whole)
    copy = tmp_path / "copy" / "prepared" / folder.name
    verify_store(copy)
    ways = list(damages(folder, flips=4))
    ways = ways if full else random.Random(6).sample(ways, 60)
    for damage in ways:
        original = (copy / damage.file).read_bytes()
        damage(copy)
        with pytest.raises(InputError) as caught:  # by whom it is read whole
            verify_store(copy)
        assert "\n" not in str(caught.value)
        (copy / damage.file).write_bytes(original)
    verify_store(copy)
    count(len(ways))


TOKENS = ["train.tokens", "valid.tokens"]


@pytest.mark.parametrize(
    "name", [*TOKENS, "train.starts.npy", "valid.hashes.npy", "tokenizer.json", "manifest.json"]
)
@pytest.mark.parametrize(
    "spoil", [lambda old: old[:-1], lambda old: old + b"\0", lambda old: old[: len(old) // 2]]
)
def test_d13_what_is_finished_and_cut_is_prepared_again(
    elman, texts, whole, tmp_path, monkeypatch, name, spoil
):
    cache = in_cache(monkeypatch, tmp_path / "cache", copy_of=whole)
    manifest = prepare(texts).manifest
    (folder,) = (cache / "prepared").iterdir()
    (folder / name).write_bytes(spoil((folder / name).read_bytes()))
    with pytest.raises(InputError, match=f"{name}.*; prepare .* again"):
        open_prepared(manifest)
    outcome = elman(*arguments(texts))
    assert outcome.code == 0, outcome.err
    assert f"{name}: " in outcome.out.replace("\n", " ")
    assert "; prepared again" in outcome.out
    assert content(cache) == content(whole)


@pytest.mark.parametrize("name", TOKENS)
def test_d12_a_token_beyond_the_vocabulary(elman, texts, whole, tmp_path, monkeypatch, name):
    cache = in_cache(monkeypatch, tmp_path / "cache", copy_of=whole)
    manifest = prepare(texts).manifest
    (folder,) = (cache / "prepared").iterdir()
    spoilt = bytearray((folder / name).read_bytes())
    spoilt[100:102] = b"\x2c\x01"  # 300, of the ids 0 to 290
    (folder / name).write_bytes(spoilt)
    for look in (lambda: open_prepared(manifest), lambda: verify_store(folder)):
        with pytest.raises(InputError, match=rf"{name}: token 300 in a vocabulary of 291"):
            look()
    assert "token 300 in a vocabulary of 291; prepared again" in elman(*arguments(texts)).out
    assert content(cache) == content(whole)


def test_d13_tokens_of_the_other_byte_order(texts, whole, tmp_path, monkeypatch):
    cache = in_cache(monkeypatch, tmp_path / "cache", copy_of=whole)
    manifest = prepare(texts).manifest
    (folder,) = (cache / "prepared").iterdir()
    tokens = np.fromfile(folder / "train.tokens", "<u2")
    tokens.astype(">u2").tofile(folder / "train.tokens")
    with pytest.raises(InputError, match=r"train\.tokens: token .* in a vocabulary of 291"):
        open_prepared(manifest)


def test_d11_tokens_of_another_tokenizer(elman, texts, whole, tmp_path, monkeypatch):
    cache = in_cache(monkeypatch, tmp_path / "cache", copy_of=whole)
    manifest = prepare(texts).manifest
    (folder,) = (cache / "prepared").iterdir()
    other = train_tokenizer("bpe", ["another text than before"] * 9, vocab_size=270)
    (folder / "tokenizer.json").write_text(other.to_json())
    both = rf"tokens of the tokenizer {manifest['tokenizer_sha256'][:12]}.* is {other.sha256[:12]}"
    for look in (lambda: open_prepared(manifest), lambda: verify_store(folder)):
        with pytest.raises(InputError, match=both):
            look()
    assert manifest["tokenizer_sha256"][:12] in elman(*arguments(texts)).out
    assert content(cache) == content(whole)


def test_d11_shards_of_another_tokenizer_are_never_put_together(texts, whole, half, monkeypatch):
    monkeypatch.setenv("ELMAN_CACHE", str(half))
    (part,) = (half / "prepared").iterdir()
    (part / "vocabulary.record").unlink()
    real = build.load_tokenizer
    other = train_tokenizer("bpe", ["another text than before"] * 9, vocab_size=270)
    with monkeypatch.context() as patch:
        patch.setattr(build, "load_tokenizer", lambda path: other)
        prepared = prepare(texts)
    assert prepared.tokenizer.sha256 == other.sha256
    for store in (prepared.train, prepared.valid):
        assert int(store.tokens.max()) < other.vocab_size
        for number in range(store.documents):
            assert (
                other.encode(other.decode(store.document(number))).tolist()
                == store.document(number)[:-1].tolist()
            )
    assert build.load_tokenizer is real


def test_d11_a_run_goes_on_with_its_own_tokens_only(texts, whole, tmp_path, monkeypatch):
    cache = in_cache(monkeypatch, tmp_path / "cache", copy_of=whole)
    prepared = prepare(texts)
    again = open_prepared(json.loads(json.dumps(prepared.manifest)))
    assert again.manifest == prepared.manifest
    assert again.train.tokens.tolist() == prepared.train.tokens.tolist()
    assert again.tokenizer.sha256 == prepared.tokenizer.sha256
    for key in ("tokenizer_sha256", "content_sha256"):
        changed = prepared.manifest | {key: "0123456789abcdef"}
        with pytest.raises(InputError, match=rf"{prepared.manifest[key][:12]}, and 0123456789ab was used"):
            open_prepared(changed)
    in_cache(monkeypatch, tmp_path / "moved", copy_of=cache)  # of another machine, say
    shutil.rmtree(cache)
    assert open_prepared(prepared.manifest).manifest["folder"].startswith(str(tmp_path / "moved"))
    shutil.rmtree(tmp_path / "moved")
    with pytest.raises(InputError, match=r"the tokens of .*text\.txt are no longer there; prepare .* again"):
        open_prepared(prepared.manifest)


# ---- a text that changes --------------------------------------------------------------------------------

CHANGES = {
    "grows": lambda old: old + b"and more\n",
    "shrinks": lambda old: old[: len(old) // 2],
    "changes in its middle": lambda old: old[:9000] + b"CHANGED" + old[9007:],
    "changes at its end": lambda old: old[:-3] + b"xx\n",
    "loses a line end": lambda old: old.replace(b"\n", b" ", 1),
    "is emptied": lambda old: b"",
}


class ChangingDisk(WatchedDisk):
    """Changes a text when a point is reached."""

    def __init__(self, path: Path, change, point: str) -> None:
        super().__init__()
        self._path, self._change, self._point = path, change, point

    def reach(self, point):
        super().reach(point)
        if self.points.count(self._point) == 1 and point == self._point:
            self._path.write_bytes(self._change(self._path.read_bytes()))


@cases("change", CHANGES, "grows", "changes in its middle", "is emptied")
@pytest.mark.parametrize("which", ["corpus", "valid"])
def test_d16_a_text_that_changes_while_it_is_prepared(elman, texts, own_cache, which, change):
    config = replace(texts, **{which: shutil.copy(getattr(texts, which), f"{which}.txt")})
    small_shards(
        disk := ChangingDisk(Path(f"{which}.txt"), CHANGES[change], "prepare.vocabulary_before_record")
    )
    outcome = elman(*arguments(config))
    line = outcome.refuses(4, f"{which}.txt: ", "no text" if change == "is emptied" else "run it again")
    assert change == "is emptied" or "the text changed while it was being prepared" in line
    assert content(own_cache) == {} or change == "is emptied"
    # Whatever is kept is of the text as it was: with that back, or with the new one, all is as it should be.
    for text in (
        Path(getattr(texts, which)).read_bytes(),
        disk._change(Path(getattr(texts, which)).read_bytes()),
    ):
        if text:
            Path(f"{which}.txt").write_bytes(text)
            found = {name: sorted(store.tokens) for name, store in stores(prepare(config)).items()}
            shutil.rmtree(own_cache)
            assert {name: sorted(store.tokens) for name, store in stores(prepare(config)).items()} == found


def stores(prepared):
    return {"train": prepared.train, "valid": prepared.valid}


@pytest.mark.parametrize("point", ["prepare.vocabulary_before_record", "prepare.shard_after_record"])
def test_d16_killed_just_after_the_change(nursery, texts, whole, tmp_path, point):
    """A shard of the changed text is never kept, even if nobody lives to see that it changed."""
    text = Path(shutil.copy(texts.corpus, tmp_path / "text.txt"))
    config, cache = replace(texts, corpus=str(text)), tmp_path / "cache"
    cache.mkdir()
    fault = partial(change_and_die, text, point)
    assert nursery.run(arguments(config), fault=fault, ELMAN_CACHE=cache).code == -9
    assert text.read_bytes() != Path(texts.corpus).read_bytes()
    shutil.copy(texts.corpus, text)
    assert nursery.run(arguments(config), fault=small_shards, ELMAN_CACHE=cache).code == 0
    assert content(cache) == content(whole)


class ChangingKillingDisk(ChangingDisk):
    """And kills at the second time that it would discard or put together what is there."""

    def remove(self, path):
        os.kill(os.getpid(), 9) if path.name.startswith(".trash") else super().remove(path)

    def rename(self, old, new):
        os.kill(os.getpid(), 9) if new.name.startswith(".trash") else super().rename(old, new)


def change_and_die(text: Path, point: str) -> AbstractContextManager[None]:
    return small_shards(
        ChangingKillingDisk(text, lambda old: old[:9000] + b"CHANGED" * 30 + old[9210:], point)
    )


# ---- several processes ----------------------------------------------------------------------------------


class SharedDisk(WatchedDisk):
    """Holds every thread at its first finished shard until all have one, so that none does the work of all."""

    def __init__(self, threads: int) -> None:
        super().__init__()
        self._all_here = threading.Barrier(threads)
        self.writers: Counter[int] = Counter()

    def reach(self, point):
        super().reach(point)
        if point == "prepare.shard_before_record":
            self.writers[threading.get_ident()] += 1
            if self.writers[threading.get_ident()] == 1:
                self._all_here.wait(60)


@dataclass(frozen=True)
class Fake(Ranks):
    """Ranks that are threads of this process."""

    told: dict = field(default_factory=dict)
    meeting: threading.Barrier | None = None

    def gather(self, value):
        self.told[self.rank] = value
        self.meeting.wait(60)
        found = [self.told[rank] for rank in range(self.size)]
        self.meeting.wait(60)
        return found


def as_ranks(configs: list[DataConfig]) -> list:
    """What `prepare` returned or raised, and said, on each rank."""
    told, meeting = {}, threading.Barrier(len(configs))
    outcomes: list = [None] * len(configs)

    def work(rank: int) -> None:
        said: list[str] = []
        try:
            ranks = Fake(rank, len(configs), told=told, meeting=meeting)
            outcomes[rank] = (prepare(configs[rank], lambda what, share: said.append(what), ranks), said)
        except Exception as error:
            outcomes[rank] = (error, said)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(configs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.parametrize("size", [2, 3])
def test_r05_ranks_share_the_work_and_have_the_same(texts, whole, tmp_path, monkeypatch, size):
    cache = in_cache(monkeypatch, tmp_path / "cache")
    small_shards(disk := SharedDisk(size))
    outcomes = as_ranks([texts] * size)
    assert content(cache) == content(whole)
    assert len({json.dumps(prepared.manifest) for prepared, _ in outcomes}) == 1
    assert [bool(said) for _, said in outcomes] == [True] + [False] * (size - 1)
    # Nothing was done twice, and everybody did something.
    assert Counter(disk.points) == {point: SHARDS if ".shard" in point else 1 for point in POINTS}
    assert len(disk.writers) == size


def test_r05_ranks_with_different_texts(texts, tmp_path, own_cache):
    other = replace(texts, corpus=texts.valid)
    for error, _ in as_ranks([texts, other, texts]):
        assert isinstance(error, ConfigError)
        assert "the ranks differ in the text" in str(error)
    assert content(own_cache) == {}


@pytest.mark.parametrize("source", ["corpus", "valid"])
def test_r05_ranks_cannot_share_standard_input(texts, source):
    for error, _ in as_ranks([replace(texts, **{source: "-"})] * 2):
        assert isinstance(error, ConfigError)
        assert str(error) == "standard input cannot be read by several processes; give a file"


PROCESS = """
import sys
from elman.data.prepare import prepare
from elman.ranks import join
from tests.faults.test_preparation import arguments, small_shards
from elman.config import DataConfig
small_shards()
with join() as ranks:
    prepare(DataConfig(**eval(sys.argv[1])), lambda what, share: print(what), ranks)
"""


@LATER
def test_r05_processes_that_share_a_cache_or_have_their_own(texts, whole, tmp_path):
    """Real ones, as torchrun starts them on two machines."""
    caches = ["one", "one", "two"]
    given = {
        name: getattr(texts, name) for name in ("corpus", "valid", "documents", "tokenizer", "vocab_size")
    }
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, repr(given)],
            env=os.environ
            | {"ELMAN_CACHE": str(tmp_path / cache), "PYTHONPATH": os.pathsep.join(sys.path)}
            | {"RANK": str(rank), "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            cwd=Path(__file__).parents[2],
            stdout=subprocess.DEVNULL,
        )
        for rank, cache in enumerate(caches)
    ]
    assert [process.wait(100) for process in running] == [0, 0, 0]
    for cache in caches:
        assert content(tmp_path / cache) == content(whole)


def test_d23_who_comes_second_waits_and_finds_it_ready(texts, whole, tmp_path, monkeypatch):
    """While the first one puts the folder together, there is nothing left to take."""
    cache = in_cache(monkeypatch, tmp_path / "cache")
    second_waits = threading.Event()

    class SlowDisk(WatchedDisk):
        def reach(self, point):
            super().reach(point)
            if point == "prepare.before_move":
                threading.Thread(target=second).start()
                assert second_waits.wait(60)

    def listen(what, share):
        said.append(what)
        if what.startswith("waiting"):
            second_waits.set()

    def second():
        found.append(prepare(texts, listen))
        done.set()

    said: list[str] = []
    found: list = []
    done = threading.Event()
    small_shards(disk := SlowDisk())
    first = prepare(texts)
    assert done.wait(60)
    assert "waiting for another process that prepares this text" in said
    assert "tokenizing" not in said
    assert found[0].manifest == first.manifest
    assert disk.points.count("prepare.before_move") == 1
    assert content(cache) == content(whole)


# ---- odd texts ------------------------------------------------------------------------------------------


def peak_bytes(characters: int, tokenizer) -> int:
    """Most that Python and numpy held while a text of one line was prepared."""
    with open("line.txt", "w") as file:
        draw = random.Random(0)
        for _ in range(characters // 6000):
            file.write("".join(draw.choices(["the ", "cat ", "walked ", "a "], k=1400))[:6000])
    tracemalloc.start()
    try:
        prepare_text(DataConfig(corpus="line.txt"), tokenizer)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_d08_one_line_of_any_length_is_streamed(monkeypatch):
    """Three times the text, without a line end, is no more memory."""
    monkeypatch.setattr(surveying, "SHARD_CHARACTERS", 100_000)
    monkeypatch.setattr(chunks, "BATCH_CHARACTERS", 50_000)
    tokenizer = train_tokenizer("byte", [], vocab_size=None)
    peak_bytes(60_000, tokenizer)  # what is imported and remembered at first
    short, long = peak_bytes(1_500_000, tokenizer), peak_bytes(4_500_000, tokenizer)
    assert long < 1.2 * short
    assert long < 4_500_000 * 2  # its tokens alone


@LATER
@pytest.mark.parametrize("one_line", [True, False])
def test_d08_a_corpus_larger_than_its_memory(tmp_path, one_line):
    """Resident memory as the system counts it; `large_corpus` does the same at any size."""
    write_corpus(tmp_path / "corpus.txt", 120, one_line=one_line)
    documents = "" if one_line else "line"
    found = measure(tmp_path / "corpus.txt", tmp_path / "whole", documents=documents)
    assert found.resident_bytes < LIMIT_BYTES
    killed = measure(
        tmp_path / "corpus.txt", tmp_path / "killed", documents=documents, kills=2, seconds=found.seconds
    )
    assert killed.checksum == found.checksum
    assert killed.resident_bytes < LIMIT_BYTES


MONOTONOUS = {
    "empty lines": lambda size: "x" + "\n" * size + "y",
    "blanks": lambda size: "x" + " " * size + "y",
    "one character": lambda size: "a" * size,
    "one word": lambda size: "a " * (size // 2),
    "one line": lambda size: "a b\n" * (size // 4),
}


@pytest.fixture(
    params=itertools.product(MONOTONOUS, ["byte", "char", "word", "bpe"], ["file", "line", "paragraph"]),
    ids=", ".join,
)
def prepare_as_much(request, monkeypatch):
    """Prepare that many characters, in one shard."""
    text, kind, unit = request.param
    monkeypatch.setattr(surveying, "SHARD_CHARACTERS", 1 << 25)
    monkeypatch.setattr(chunks, "BATCH_CHARACTERS", 4_000_000)
    documents = None if unit == "file" else unit

    def work(size: int) -> None:
        written = Path("text.txt").write_text(MONOTONOUS[text](size))
        config = DataConfig(corpus="text.txt", documents=documents, tokenizer=kind, valid="0.3")
        try:
            prepared = prepare(config)
        except InputError as error:  # of equal documents, none can be held out alone
            assert "text left after the split" in str(error)
            assert unit != "file"
            return
        total = sum(prepared.manifest[part]["characters"] for part in ("train", "valid"))
        assert total <= written
        assert unit != "file" or total == written

    return work


def test_d09_four_times_a_text_that_says_one_thing_is_four_times_the_work(prepare_as_much, monkeypatch):
    monkeypatch.setattr(readers, "BLOCK_BYTES", 1000)
    prepare_as_much(100)  # what is imported and remembered at first
    few, many = (effort(lambda size=size: prepare_as_much(size)) for size in (1_000, 4_000))
    assert many < 5 * few


@LATER
def test_d09_a_text_that_says_one_thing_comes_to_an_end(prepare_as_much):
    """At this size, whatever took the square of it would not."""
    prepare_as_much(10_000_000)


@pytest.mark.parametrize("unit", ["file", "line", "paragraph"])
@pytest.mark.parametrize("text", ["\n", " ", "\t\n \r\n"])
def test_d09_nothing_but_white_space(elman, full, unit, text):
    Path("text.txt").write_text(text * (10_000_000 if full else 300_000))
    documents = [] if unit == "file" else ["--documents", unit]
    elman("data", "prepare", "text.txt", *documents).refuses(4, "text.txt: no text in it")


@pytest.mark.parametrize("model", ["elman", "ngram"])
def test_d09_what_is_certain_costs_nothing_and_is_a_number(elman, model):
    Path("text.txt").write_text("a" * 4000)
    family = ["--model", "ngram"] if model == "ngram" else SMALL
    tokenizer = [] if "--tokenizer" in family else ["--tokenizer", "byte"]
    outcome = elman("train", "text.txt", *family, *tokenizer, "--out", "run", "--json")
    assert outcome.code == 0, outcome.err
    scored = elman("eval", "run", "text.txt", "--json").document
    bits = [value for key, value in flat(scored) if key.endswith("bits_per_byte")]
    assert bits
    assert all(math.isfinite(value) and value >= 0 for value in bits)
    assert model == "elman" or min(bits) < 0.05


def flat(document, name=""):
    """Every value in a JSON document with the path to it."""
    if isinstance(document, dict | list):
        items = document.items() if isinstance(document, dict) else enumerate(document)
        for key, value in items:
            yield from flat(value, f"{name}.{key}")
    else:
        yield name, document


# ---- the same text twice --------------------------------------------------------------------------------


def test_d17_documents_in_both_parts_are_counted(elman, texts):
    outcome = elman(*arguments(texts), "--json").document
    assert outcome["valid_documents_also_in_train"] == 3
    table = elman(*arguments(texts)).out
    assert "held-out documents that also stand in the training text: 3" in table


def test_d17_training_warns_of_the_share(elman, texts):
    same = options(valid=texts.corpus, documents="line")
    outcome = elman("train", texts.corpus, *SMALL, *same, "--out", "run")
    assert outcome.code == 0, outcome.err
    assert "warning: 40 held-out documents (100%) also stand in the training text" in outcome.err
