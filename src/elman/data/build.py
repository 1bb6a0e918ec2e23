"""How a text becomes a prepared folder: the vocabulary once, shards in any order by anyone, then one folder of them.

    vocabulary          by one process; the others wait
    shards              each by whoever takes it first; all read the text, and tokenize what they took
    folder              by one process, when all shards are there; then what was half-done is removed

A step that was finished before a kill is not done again. The bytes of the folder do not depend on who did what.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman import files
from elman.data import survey as surveying
from elman.data.chunks import Chunk, Text, by_shard, cut_chunks, in_batches
from elman.data.download import cache_dir
from elman.data.finished import FORMAT, Finished, find_finished, write_manifest
from elman.data.halfdone import (
    HalfDone,
    empty_trash,
    half_done,
    remove_abandoned,
    remove_folder,
    remove_half_done,
)
from elman.data.merge import merge
from elman.data.shards import Record, ShardWriter, read_record
from elman.data.sums import FileTable, SummedFile, check_sums
from elman.data.survey import ChangedTextError, OnProgress
from elman.data.tokenizer import Tokenizer, load_tokenizer
from elman.errors import InputError
from elman.files import write_atomically
from elman.sealed import seal, unseal

ATTEMPTS = 5
"""How often a folder is looked for before it is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What is to be prepared, and how."""

    key: Mapping[str, Any]
    """All that shapes the result, in JSON."""
    texts: Sequence[Text]
    stores: Mapping[str, Callable[[], NDArray[np.uint64]]]
    """The names of the stores, and what gives the hashes of their documents."""
    tokenizer: Tokenizer | Callable[[], Tokenizer]
    """The one that is given, or what trains one."""
    count: Callable[[Mapping[str, NDArray[np.uint64]]], Mapping[str, int]] = lambda hashes: {}
    """From the hashes, what else the manifest is to say."""

    @property
    def folder(self) -> Path:
        """Where it is to be."""
        content = json.dumps([FORMAT, self.key], sort_keys=True)
        return cache_dir() / "prepared" / hashlib.sha256(content.encode()).hexdigest()[:32]

    @property
    def shards(self) -> int:
        """Of all texts together."""
        return sum(text.survey.shards for text in self.texts)


def find_or_build(
    preparation: Preparation,
    report: OnProgress,
    note: Callable[[str], None],
    look: Callable[[], None] = lambda: None,
) -> Finished:
    """The finished folder; one that is not there is made, and one that is damaged is made again, with a note.

    `look` is called now and then while others are waited for, and raises an error if they are lost.

    Raises:
        ChangedTextError: A text is no longer the one that was surveyed; nothing half-done is kept.
        ElmanError: A text cannot be read, a vocabulary not trained; or the cache cannot be written.
    """
    folder = preparation.folder
    for _ in range(ATTEMPTS):
        try:
            if (finished := find_finished(folder)) is not None:
                remove_half_done(folder)
                empty_trash(folder.parent)
                return finished
        except InputError as error:
            note(f"{error}; prepared again")
        remove_abandoned(folder.parent)
        with half_done(folder) as work:
            if _is_sound(folder):  # since it was looked for; or it would all be done again
                continue
            try:
                _Builder(preparation, work, report, look).build()
            except ChangedTextError:
                work.discard()
                raise
            except (OSError, InputError):
                if not work.gone:  # else another process has finished it
                    raise
    raise InputError(
        f"{folder}: cannot be kept whole; see whether something else changes it, or set ELMAN_CACHE"
    )


def _is_sound(folder: Path) -> bool:
    """Whether a finished folder is there, and not damaged."""
    try:
        return find_finished(folder) is not None
    except InputError:
        return False


class _Builder:
    """One process at work on a half-done folder."""

    def __init__(
        self, preparation: Preparation, work: HalfDone, report: OnProgress, look: Callable[[], None]
    ) -> None:
        self._preparation, self._work, self._report, self._look_at_others = preparation, work, report, look
        self._records: dict[int, Record] = {}

    def build(self) -> None:
        """Do what is left to do, and move the result to its place."""
        with self._wait_for("vocabulary"):
            self._tokenizer = self._vocabulary()
        self._made_of = {
            "format": FORMAT,
            "tokenizer": self._tokenizer.sha256,
            "characters": surveying.SHARD_CHARACTERS,
        }
        self._fill()
        with self._wait_for("whole"):
            if not (self._work.gone or _is_sound(self._preparation.folder)):
                self._put_together()

    def _wait_for(self, work: str) -> AbstractContextManager[None]:
        return self._work.wait_for(work, self._say_waiting, self._look_at_others)

    def _say_waiting(self) -> None:
        self._report("waiting for another process that prepares this text", 0.0)

    # ---- the vocabulary ---------------------------------------------------------------------------------

    def _vocabulary(self) -> Tokenizer:
        """The tokenizer as its file has it, which is what the finished folder will hold."""
        path, record = self._work.path / "tokenizer.json", self._work.path / "vocabulary.record"
        try:
            check_sums(path.parent, unseal(files.disk.read(record)))
            return load_tokenizer(str(path))
        except (OSError, ValueError, InputError):
            pass  # there is none, or what is there is torn
        given = self._preparation.tokenizer
        if isinstance(given, Tokenizer):
            tokenizer = given
        else:
            self._report("training the vocabulary", 0.0)
            tokenizer = given()
        table = _write_file(path, tokenizer.to_json().encode())
        files.disk.reach("prepare.vocabulary_before_record")
        if tokenizer is not given:
            write_atomically(record, seal(table))
        return load_tokenizer(str(path))

    # ---- the shards -------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Have all shards, those of other processes included."""
        total = self._preparation.shards
        missing = self._look(range(total))
        if len(missing) < total:
            there = total - len(missing)
            self._report(f"going on: {there:,} of {total:,} shards are there", there / total)
        while missing:
            self._write(missing)
            for number in (missing := self._look(missing)):  # others have taken them
                with self._wait_for(f"{number}"):
                    pass
            missing = self._look(missing)  # left by a process that ended

    def _look(self, numbers: Iterable[int]) -> list[int]:
        """Those that are not there. Whatever is read here was read whole."""
        for number in numbers:
            if number not in self._records and (record := self._read(number)) is not None:
                self._records[number] = record
        return [number for number in numbers if number not in self._records]

    def _read(self, number: int) -> Record | None:
        return read_record(self._work.path, number, self._made_of)

    def _write(self, missing: Collection[int]) -> None:
        """One pass over the text, writing those shards that no other process holds.

        A shard is kept when the one after it was written as well. By then the text is known to be unchanged up to
        the shard's last character, which may stand in the stretch of the next one.
        """
        total = sum(text.survey.characters for text in self._preparation.texts)
        chunks = cut_chunks(self._preparation.texts, whole=not self._tokenizer.cuts_safely)
        passed = 0
        before: ShardWriter | None = None
        with ExitStack() as unkept:
            for number, group in by_shard(chunks, self._preparation.shards):
                with ExitStack() as current:
                    writer = self._take(number, current) if number in missing else None
                    for batch in in_batches(group):
                        if writer is not None:
                            self._tokenize(batch, writer)
                        passed += sum(len(chunk.text) for chunk in batch)
                        self._report("tokenizing", passed / total)
                    if writer is not None:
                        writer.close()
                    if before is not None:
                        before.keep()
                    unkept.close()
                    unkept.enter_context(current.pop_all())
                before = writer
            if before is not None:
                before.keep()

    def _take(self, number: int, stack: ExitStack) -> ShardWriter | None:
        """A writer for a shard that nobody else writes, or has written, until `stack` is left."""
        lock = self._work.take(f"{number}")
        if lock is None:
            return None
        stack.enter_context(lock)
        if self._look([number]) == []:
            return None
        tokenizer = self._tokenizer
        writer = ShardWriter(self._work.path, number, self._made_of, tokenizer.dtype, tokenizer.end_id)
        return stack.enter_context(writer)

    def _tokenize(self, batch: list[Chunk], writer: ShardWriter) -> None:
        ids = self._tokenizer.encode_batch([chunk.text for chunk in batch])
        for chunk, of_chunk in zip(batch, ids, strict=True):
            writer.add(chunk, of_chunk)

    # ---- the folder -------------------------------------------------------------------------------------

    def _put_together(self) -> None:
        """Make one folder of the shards, and put it in its place."""
        preparation, tokenizer = self._preparation, self._tokenizer
        folder, whole = preparation.folder, self._work.path / "whole"
        with suppress(FileNotFoundError):
            files.disk.remove(whole)  # of a process that was killed here
        files.disk.make_folder(whole)
        try:
            records = [self._records[number] for number in range(preparation.shards)]
            stores: dict[str, dict[str, Any]] = {}
            table = _write_file(whole / "tokenizer.json", tokenizer.to_json().encode())
            hashes = {name: give() for name, give in preparation.stores.items()}
            for name in hashes:
                stores[name], its_files = merge(
                    self._work.path, records, name, tokenizer.dtype, hashes[name], whole
                )
                table |= its_files
            made = {"tokenizer_sha256": tokenizer.sha256, "vocab_size": tokenizer.vocab_size}
            write_manifest(
                whole,
                {
                    "key": preparation.key,
                    **made,
                    **preparation.count(hashes),
                    "stores": stores,
                    "files": table,
                },
            )
            files.disk.sync_folder(whole)
            files.disk.reach("prepare.before_move")
            remove_folder(folder)  # where one was damaged
            files.disk.rename(whole, folder)
        except BaseException:
            with suppress(OSError):
                files.disk.remove(whole)
            raise
        files.disk.sync_folder(folder.parent)
        files.disk.reach("prepare.after_move")
        with suppress(OSError):  # else it is removed by who finds this one
            self._work.discard()  # here, where nobody else can begin to put it together again


def _write_file(path: Path, content: bytes) -> FileTable:
    with SummedFile(path) as file:
        file.write(content)
        file.sync()
    return file.entry()
