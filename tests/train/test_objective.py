"""Sampled for most of the budget, exact at its end; negatives as often as the text says, the same for a seed."""

import torch

from elman.config import TrainingConfig
from elman.data.store import store_from_ids
from elman.ops.proposal import Proposal
from elman.train import objective
from elman.train.objective import Objective

STORE = store_from_ids([[3, 4, 4, 5, 5, 5, 5]] * 9, start_id=1, end_id=2)
VOCAB = 8


def make(**settings):
    return Objective(TrainingConfig(max_steps=1, **settings), STORE, VOCAB)


def test_the_exact_loss_has_no_negatives():
    assert make(loss="exact").negatives(0.0) is None


def test_a_sampled_loss_ends_with_an_exact_share():
    made = make(loss="sampled", negatives=3, exact_share=0.25)
    assert all(made.negatives(used) is not None for used in (0.0, 0.5, 0.74))
    assert all(made.negatives(used) is None for used in (0.75, 0.9, 1.0))
    assert make(loss="sampled", negatives=3, exact_share=0.0).negatives(0.999) is not None
    assert make(loss="sampled", exact_share=1.0).negatives(0.0) is None


def test_negatives_follow_the_counts_of_the_text(monkeypatch):
    """Counted in pieces, which must not lose anything."""
    monkeypatch.setattr(objective, "COUNTED_AT_ONCE", 10)
    counts = torch.tensor([0, 0, 9, 9, 18, 36, 0, 0])
    wanted = Proposal(counts, 3).draw(torch.Generator().manual_seed(5))
    found = make(loss="sampled", negatives=3, seed=5).negatives(0.0)
    assert all(map(torch.equal, found, wanted))


def test_a_seed_gives_the_same_negatives_and_steps_give_others():
    first, second = (make(loss="sampled", negatives=3, seed=1) for _ in range(2))
    drawn = [[made.negatives(0.0).ids.tolist() for _ in range(10)] for made in (first, second)]
    assert drawn[0] == drawn[1]
    assert len(set(map(tuple, drawn[0]))) > 1
