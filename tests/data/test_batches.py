"""One epoch holds every target once, in order, with the context it should have; and it can be resumed."""

import json
from itertools import groupby, islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elman.data import batches as batching
from elman.data.batches import Batch, DocumentLoader, StreamLoader, deal, window
from elman.data.store import TokenStore, store_from_ids
from elman.ranks import ALONE, Ranks

PAD, START, END = 0, 1, 2


@st.composite
def stores(draw) -> TokenStore:
    """A few short documents, some of them of no token, some of them equal."""
    documents = draw(st.lists(st.lists(st.integers(3, 9), max_size=6), min_size=1, max_size=8))
    return store_from_ids(documents, start_id=START, end_id=END)


SIZES = st.integers(1, 7)
SEEDS = st.integers(0, 2**63 - 1)

LARGE = store_from_ids([[3 + i % 7] * (i % 5) for i in range(60)], start_id=START, end_id=END)


def take(loader, batches: int) -> list[Batch]:
    return [Batch(*(part.clone() for part in batch)) for batch in islice(iter(loader), batches)]


def same(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a, b)
        for one, other in zip(left, right, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def assert_well_formed(batch: Batch) -> None:
    """What holds for every batch of either kind."""
    assert {part.shape for part in batch} == {batch.inputs.shape}
    dtypes = {"reset": torch.bool, "counted": torch.bool}
    assert all(
        part.dtype == dtypes.get(name, torch.int64) for name, part in zip(batch._fields, batch, strict=True)
    )
    assert (batch.inputs[~batch.counted] == PAD).all()
    assert (batch.targets[~batch.counted] == PAD).all()
    assert (batch.targets[batch.counted] != PAD).all()
    assert (batch.targets != START).all()
    assert (batch.inputs != END).all()  # an end token is a target, never a context
    assert (batch.counted.int().diff(dim=1) <= 0).all()  # padding stands at the end


def assert_places_are_right(batch: Batch, store: TokenStore) -> None:
    """A place is where in the store its target is, and so it lies in the document of the target."""
    places, documents = batch.places[batch.counted].numpy(), batch.documents[batch.counted].numpy()
    assert batch.targets[batch.counted].tolist() == store.tokens[places].tolist()
    assert (store.starts[documents] <= places).all()
    assert (places < store.starts[documents + 1]).all()


# ---- streams --------------------------------------------------------------------------------------------


@given(
    store=stores(), batch_size=SIZES, bptt=SIZES, seed=SEEDS, shuffle=st.booleans(), epoch=st.integers(0, 2)
)
def test_streams_hold_every_target_once_after_its_context(store, batch_size, bptt, seed, shuffle, epoch):
    loader = StreamLoader(store, batch_size, bptt, pad_id=PAD, seed=seed, shuffle=shuffle)
    loader.load_state_dict({"epoch": epoch, "offset": 0})
    batches = take(loader, loader.steps_per_epoch)
    for batch in batches:
        assert_well_formed(batch)
        assert_places_are_right(batch, store)
        assert batch.inputs.shape[0] == batch_size
    places = torch.cat([batch.places[batch.counted] for batch in batches])
    assert sorted(places.tolist()) == list(range(len(store)))
    assert [batch.inputs.shape[1] for batch in batches[:-1]] == [bptt] * (len(batches) - 1)
    assert batches[-1].counted.any()
    whole = Batch(*(torch.cat(parts, dim=1) for parts in zip(*batches, strict=True)))
    lengths = whole.counted.sum(dim=1)
    assert lengths.max() - lengths.min() <= 1

    # The streams, one after the other, are the documents laid end to end.
    rows = [
        (int(document), int(target), int(context), bool(reset), column == 0)
        for stream in range(batch_size)
        for column, (document, target, context, reset, counted) in enumerate(
            zip(*(whole[i][stream] for i in (4, 1, 0, 2, 3)), strict=True)
        )
        if counted
    ]
    order = []
    for document, group in groupby(rows, key=lambda row: row[0]):
        order.append(document)
        _, targets, contexts, resets, firsts = zip(*group, strict=True)
        assert list(targets) == store.document(document).tolist()
        assert list(contexts) == [
            START if reset else before for reset, before in zip(resets, [None, *targets], strict=False)
        ]
        assert list(resets) == [at == 0 or first for at, first in enumerate(firsts)]
    assert sorted(order) == list(range(store.documents))
    if not shuffle:
        assert order == list(range(store.documents))


@given(store=stores(), batch_size=SIZES, bptt=SIZES)
def test_nothing_is_reset_where_nothing_is_counted_but_at_the_start_of_an_epoch(store, batch_size, bptt):
    loader = StreamLoader(store, batch_size, bptt, pad_id=PAD)
    first, *others = take(loader, loader.steps_per_epoch)
    assert first.reset[:, 0].all()
    assert not (first.reset & ~first.counted)[:, 1:].any()
    assert not any((batch.reset & ~batch.counted).any() for batch in others)


def test_streams_begin_afresh_as_often_as_asked():
    store = store_from_ids([list(range(3, 9)) * 4000], start_id=START, end_id=END)
    for chance in (0.0, 0.1, 1.0):
        loader = StreamLoader(store, 8, 5, pad_id=PAD, fresh_start=chance)
        first, *others = take(loader, loader.steps_per_epoch - 1)
        assert first.reset[:, 0].all()
        fresh = torch.stack([batch.reset[:, 0] for batch in others]).double().mean()
        assert abs(fresh - chance) < 0.02
        for batch in others:
            assert torch.equal(batch.inputs[:, 0] == START, batch.reset[:, 0])
            assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
            assert not batch.reset[:, 1:].any()


def test_streams_of_short_documents_begin_where_documents_do():
    store = store_from_ids([[3, 4, 5, 6]] * 400, start_id=START, end_id=END)
    loader = StreamLoader(store, 8, 5, pad_id=PAD, fresh_start=1.0)
    _, *others = take(loader, loader.steps_per_epoch - 1)
    assert all(torch.equal(batch.reset, batch.targets == 3) for batch in others)


@given(store=stores(), order=st.randoms(use_true_random=False), width=st.integers(1, 9), data=st.data())
def test_a_window_may_begin_and_end_anywhere(store, order, width, data):
    documents = list(range(store.documents))
    order.shuffle(documents)
    documents = documents[: data.draw(st.integers(1, len(documents)))]  # some of them are enough
    layout = [int(i) for d in documents for i in store.document(d)]
    offsets = np.concatenate([[0], np.diff(store.starts)[documents].cumsum()])
    begin = data.draw(st.integers(0, len(layout)))
    end = data.draw(st.integers(begin, len(layout)))
    batch = window(store, np.array(documents), offsets, np.array([begin]), np.array([end]), width, PAD)
    assert_well_formed(batch)
    assert_places_are_right(batch, store)
    (targets,), (counted,) = batch.targets.tolist(), batch.counted.tolist()
    assert [target for target, counts in zip(targets, counted, strict=True) if counts] == layout[begin:end][
        :width
    ]


# ---- documents ------------------------------------------------------------------------------------------


def rows_of(batches: list[Batch]) -> list[tuple[list[int], list[int]]]:
    """Context and target of every row, without padding."""
    return [
        (inputs[counted].tolist(), targets[counted].tolist())
        for batch in batches
        for inputs, targets, counted in zip(batch.inputs, batch.targets, batch.counted, strict=True)
    ]


@given(
    store=stores(),
    batch_size=SIZES,
    max_length=st.none() | st.integers(2, 9),
    seed=SEEDS,
    shuffle=st.booleans(),
    bucket=st.booleans(),
)
def test_documents_come_once_an_epoch_target_after_context(
    store, batch_size, max_length, seed, shuffle, bucket
):
    loader = DocumentLoader(
        store, batch_size, max_length, pad_id=PAD, seed=seed, shuffle=shuffle, bucket=bucket
    )
    batches = take(loader, loader.steps_per_epoch)
    for batch in batches:
        assert_well_formed(batch)
        assert_places_are_right(batch, store)
        assert batch.reset[:, 0].all()
        assert not batch.reset[:, 1:].any()
        assert batch.counted.any(dim=0).all()  # no wider than the longest
        assert batch.inputs.is_contiguous()
    sizes = [len(batch.inputs) for batch in batches]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    assert sum(sizes) == store.documents

    rows = rows_of(batches)
    framed = [[START, *store.document(d).tolist()][:max_length] for d in range(store.documents)]
    expected = [(tokens[:-1], tokens[1:]) for tokens in framed]
    assert all(inputs[1:] == targets[:-1] for inputs, targets in rows)
    assert rows == expected if not shuffle and not bucket else sorted(rows) == sorted(expected)


def test_a_document_is_framed_cut_and_padded_to_the_longest_of_its_batch():
    store = store_from_ids([[5, 6, 7], []], start_id=START, end_id=END)
    (batch,) = take(DocumentLoader(store, 2, None, pad_id=PAD, shuffle=False), 1)
    assert batch.inputs.tolist() == [[START, 5, 6, 7], [START, PAD, PAD, PAD]]
    assert batch.targets.tolist() == [[5, 6, 7, END], [END, PAD, PAD, PAD]]
    assert batch.counted.tolist() == [[True] * 4, [True, False, False, False]]
    (batch,) = take(DocumentLoader(store, 2, 3, pad_id=PAD, shuffle=False), 1)
    assert batch.inputs.tolist() == [[START, 5], [START, PAD]]
    assert batch.targets.tolist() == [[5, 6], [END, PAD]]


UNEVEN = store_from_ids([[3 + i % 7] * (i * i % 41) for i in range(1, 401)], start_id=START, end_id=END)


def padding(batches: list[Batch]) -> int:
    return sum(int((~batch.counted).sum()) for batch in batches)


@pytest.mark.parametrize("max_length", [None, 12])
def test_documents_of_like_length_share_a_batch(max_length):
    def epoch(**options):
        loader = DocumentLoader(UNEVEN, 6, max_length, pad_id=PAD, **options)
        return take(loader, loader.steps_per_epoch)

    bucketed, mixed = epoch(bucket=True), epoch()
    assert padding(bucketed) < 0.2 * padding(mixed)
    widths = torch.tensor([float(batch.inputs.shape[1]) for batch in bucketed[:-1]])
    order = torch.arange(len(widths)).float()
    # In the order of lengths, the correlation would be 1.
    assert abs(torch.corrcoef(torch.stack([widths, order]))[0, 1]) < 0.4


def test_only_what_is_in_a_pool_is_sorted(monkeypatch):
    monkeypatch.setattr(batching, "POOL_BATCHES", 1)
    plain, pooled = (
        take(DocumentLoader(UNEVEN, 6, None, pad_id=PAD, shuffle=False, bucket=bucket), 66)
        for bucket in (False, True)
    )
    assert not same(plain, pooled)
    for one, other in zip(plain, pooled, strict=True):
        assert sorted(one.documents[:, 0].tolist()) == sorted(other.documents[:, 0].tolist())
        assert (other.counted.sum(dim=1).diff() >= 0).all()


# ---- both -----------------------------------------------------------------------------------------------


def streams(store=LARGE, **options) -> StreamLoader:
    return StreamLoader(store, 3, 5, pad_id=PAD, **options)


def documents(store=LARGE, **options) -> DocumentLoader:
    return DocumentLoader(store, 8, 4, pad_id=PAD, **options)


def bucketed(store=LARGE, **options) -> DocumentLoader:
    return documents(store, bucket=True, **options)


BOTH = pytest.mark.parametrize("make", [streams, documents, bucketed])


@BOTH
def test_the_seed_decides_the_order(make):
    steps = make().steps_per_epoch
    assert same(take(make(seed=1), 3 * steps), take(make(seed=1), 3 * steps))
    assert not same(take(make(seed=1), steps), take(make(seed=2), steps))


@BOTH
def test_epochs_differ_where_they_are_shuffled(make):
    steps = make().steps_per_epoch
    epochs = take(make(seed=5), 3 * steps)
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert not same(epochs[one * steps :][:steps], epochs[other * steps :][:steps])
    plain = take(make(shuffle=False), 2 * steps)
    assert same(plain[:steps], plain[steps:])


@BOTH
def test_a_seed_and_an_epoch_are_not_their_sum(make):
    steps = make().steps_per_epoch
    assert not same(take(make(seed=1), 2 * steps)[steps:], take(make(seed=2), steps))


@BOTH
def test_the_global_generator_decides_nothing(make):
    torch.manual_seed(0)
    one = take(make(seed=1), 5)
    torch.manual_seed(1)
    assert same(one, take(make(seed=1), 5))


@BOTH
@pytest.mark.parametrize("options", [{"seed": 4}, {"shuffle": False}])
def test_a_loader_goes_on_where_another_stopped(make, options):
    steps = make().steps_per_epoch
    assert steps > 3
    for done in (0, 1, steps - 1, steps, steps + 2):
        whole = take(make(**options), done + steps + 1)
        first = make(**options)
        assert same(take(first, done), whole[:done])
        second = make(**options)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert same(take(second, steps + 1), whole[done:])


@BOTH
def test_a_loader_goes_on_in_a_new_iteration(make):
    loader, other = make(), make()
    assert same(take(loader, 2) + take(loader, 2), take(other, 4))


def test_only_streams_carry_their_state():
    assert streams().carries_state
    assert not documents().carries_state


# ---- ranks ------------------------------------------------------------------------------------------------


@given(
    store=stores(), batch_size=SIZES, size=st.integers(1, 9), kind=st.sampled_from(["streams", "documents"])
)
def test_the_shares_of_all_ranks_are_the_batch(store, batch_size, size, kind):
    if kind == "streams":
        loader = StreamLoader(store, batch_size, 3, pad_id=PAD)
    else:
        loader = DocumentLoader(store, batch_size, None, pad_id=PAD)
    for batch in take(loader, 3):
        shares = [deal(batch, Ranks(rank, size)) for rank in range(size)]
        real = [share for share in shares if share.counted.any()]
        counting = batch.counted.any(dim=1)
        for name, part in zip(batch._fields, batch, strict=True):
            together = torch.cat([getattr(share, name)[share.counted.any(dim=1)] for share in real])
            assert torch.equal(together, part[counting]), name
        assert sum(int(share.counted.sum()) for share in shares) == int(batch.counted.sum())
        rows = [len(share.inputs) for share in shares]
        assert min(rows) >= 1  # every rank has something to do, as the others wait for its gradient
        assert max(rows) - min(rows) <= 1
        assert all(share.inputs.shape[1] == batch.inputs.shape[1] for share in shares)


def test_a_rank_without_a_row_has_one_that_does_not_count():
    batch = take(DocumentLoader(LARGE, 2, 4, pad_id=PAD), 1)[0]
    shares = [deal(batch, Ranks(rank, 5)) for rank in range(5)]
    idle = [share for share in shares if not share.counted.any()]
    assert len(idle) == 3
    for share in idle:
        assert {part.shape for part in share} == {(1, batch.inputs.shape[1])}
        assert (share.targets >= 0).all()
    assert batch.counted.all(dim=1).any()  # what is shared was not written to


def test_alone_a_batch_is_dealt_whole():
    batch = take(streams(), 1)[0]
    assert same([deal(batch, ALONE)], [batch])
