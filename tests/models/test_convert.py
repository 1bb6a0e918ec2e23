"""The chapter's model and the production model are the same function, and learn the same."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from elman import chapter
from elman.config import PRESETS, ModelConfig
from elman.models.build import build
from elman.models.convert import from_chapter, to_chapter
from elman.train.optimizer import make_optimizer
from tests.compare import assert_equal_to

VOCAB_SIZE, WIDTH, PAD = 13, 5, 2
EXACT = 1e-10

every_depth = pytest.mark.parametrize("num_layers", [1, 2, 3])


def make_chapter(num_layers: int) -> chapter.RecurrentLanguageModel:
    """Double precision, biases that are not zero."""
    model = chapter.RecurrentLanguageModel(VOCAB_SIZE, WIDTH, num_layers, PAD).double()
    chapter.initialize_weights(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.normal_(std=0.5)
    return model


def make_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and targets of four documents of different lengths, padded at the end."""
    lengths = torch.tensor([9, 1, 6, 3])
    within = torch.arange(9) < lengths[:, None]
    text = torch.randint(3, VOCAB_SIZE, (2, 4, 9))
    tokens, targets = text.masked_fill(~within, PAD)
    assert (targets == PAD).any()
    return tokens, targets


def chapter_loss(model, tokens, targets):
    logits = model(tokens)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=PAD)


def production_loss(model, tokens, targets):
    counted = targets != PAD
    nats, _ = model.loss(tokens, targets, model.initial_state(len(tokens)), counted=counted)
    return nats / counted.sum()


def as_production(
    plain: chapter.RecurrentLanguageModel, tensors: dict[str, torch.Tensor]
) -> list[torch.Tensor]:
    """The chapter's tensors by name, in the order of the production model's parameters."""
    found = [tensors["embedding.weight"], tensors["fc.weight"], tensors["fc.bias"]]
    for layer in range(len(plain.rnn.rnn_units)):
        unit = f"rnn.rnn_units.{layer}"
        found += [tensors[f"{unit}.Wh"].T, tensors[f"{unit}.Uh"].T, tensors[f"{unit}.b"]]
    return found


def both_ways(num_layers):
    """The chapter's model with a production model made of it, and the other way round."""
    plain = make_chapter(num_layers)
    yield plain, from_chapter(plain)
    config = ModelConfig(cell="elman", embedding_dim=WIDTH, hidden_size=WIDTH, num_layers=num_layers)
    production = build(config, VOCAB_SIZE, PAD).double()
    yield to_chapter(production), production


@every_depth
def test_logits_are_the_same(num_layers):
    tokens, _ = make_batch()
    for plain, production in both_ways(num_layers):
        logits, _ = production(tokens)
        assert_equal_to(logits, plain(tokens), EXACT)
        assert logits.std() > 0.01


@every_depth
def test_loss_and_gradients_are_the_same(num_layers):
    tokens, targets = make_batch()
    for plain, production in both_ways(num_layers):
        expected, found = (
            chapter_loss(plain, tokens, targets),
            production_loss(production, tokens, targets),
        )
        assert_equal_to(found.detach(), expected.detach(), EXACT)
        expected.backward()
        found.backward()
        wanted = as_production(plain, {name: p.grad for name, p in plain.named_parameters()})
        gradients = [parameter.grad for parameter in production.parameters()]
        assert all(gradient.any() for gradient in gradients)
        assert_equal_to(gradients, wanted, EXACT)


@every_depth
def test_ten_steps_of_adamw_are_the_same(num_layers):
    """The chapter's optimizer has one group with torch's defaults; ours is made of the `chapter` preset."""
    settings = PRESETS["chapter"].optimizer
    assert settings.clip_norm is None
    assert settings.schedule == "constant"
    for plain, production in both_ways(num_layers):
        start = [parameter.detach().clone() for parameter in production.parameters()]
        theirs = torch.optim.AdamW(plain.parameters(), lr=settings.learning_rate)
        ours = make_optimizer(production, settings)
        for _ in range(10):
            tokens, targets = make_batch()
            for model, loss, optimizer in (
                (plain, chapter_loss, theirs),
                (production, production_loss, ours),
            ):
                optimizer.zero_grad()
                loss(model, tokens, targets).backward()
                optimizer.step()
            after = [parameter.detach() for parameter in production.parameters()]
            assert_equal_to(after, as_production(plain, dict(plain.named_parameters())), EXACT)
        assert all((now != before).any() for now, before in zip(after, start, strict=True))
        assert not production.embedding.weight[PAD].any()


def test_the_chapters_loop_and_ours_report_the_same_losses():
    plain, settings = make_chapter(2), PRESETS["chapter"].optimizer
    production = from_chapter(plain)
    batches = [make_batch() for _ in range(5)]
    expected = chapter.train(plain, batches, learning_rate=settings.learning_rate, pad_index=PAD)
    optimizer, found = make_optimizer(production, settings), []
    for tokens, targets in batches:
        optimizer.zero_grad()
        loss = production_loss(production, tokens, targets)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found == pytest.approx(expected, abs=EXACT)


def test_scores_of_the_chapters_evaluation_are_ours():
    plain = make_chapter(2)
    production, batches = from_chapter(plain), [make_batch() for _ in range(3)]
    expected = chapter.evaluate(plain, batches, PAD)
    nats = 0.0
    for tokens, targets in batches:
        scores, _ = production.score(tokens, targets, production.initial_state(len(tokens)))
        nats += scores.double()[targets != PAD].sum().item()
    assert nats == pytest.approx(expected.nats, rel=1e-6)


@every_depth
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_there_and_back_is_the_identity(num_layers, dtype):
    for plain, production in both_ways(num_layers):
        plain, production = plain.to(dtype), production.to(dtype)
        again = to_chapter(from_chapter(plain))
        assert again.embedding.padding_idx == PAD
        assert_same_tensors(again, plain)
        returned = from_chapter(to_chapter(production))
        assert returned.pad_index == PAD
        assert_same_tensors(returned, production)


def assert_same_tensors(found: nn.Module, expected: nn.Module) -> None:
    tensors, wanted = found.state_dict(), expected.state_dict()
    assert list(tensors) == list(wanted)
    for name, tensor in tensors.items():
        assert tensor.dtype == wanted[name].dtype
        assert torch.equal(tensor, wanted[name]), name


def test_a_converted_model_shares_no_memory():
    for plain, production in both_ways(2):
        before = copy.deepcopy(plain.state_dict())
        with torch.no_grad():
            for parameter in production.parameters():
                parameter.fill_(9.0)
        assert all(torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items())


@pytest.mark.parametrize(
    "change",
    [{"cell": "lstm"}, {"hidden_size": WIDTH + 1}, {"embedding_dim": WIDTH - 1}, {"tie_embeddings": True}],
    ids=str,
)
def test_other_shapes_are_refused(change):
    config = ModelConfig(cell="elman", embedding_dim=WIDTH, hidden_size=WIDTH, num_layers=2)
    to_chapter(build(config, VOCAB_SIZE, PAD))
    with pytest.raises(ValueError, match="only untied Elman models"):
        to_chapter(build(replace(config, **change), VOCAB_SIZE, PAD))


def test_the_preset_builds_what_the_chapter_initialises():
    """Xavier matrices, zero biases and a zero padding row, as `chapter.initialize_weights` makes them."""
    config = replace(PRESETS["chapter"].model, embedding_dim=64, hidden_size=64)
    model = build(config, 200, PAD)
    plain = to_chapter(model)
    expected = chapter.RecurrentLanguageModel(200, 64, config.num_layers, PAD)
    chapter.initialize_weights(expected)
    for (name, ours), theirs in zip(plain.named_parameters(), expected.parameters(), strict=True):
        assert ours.shape == theirs.shape, name
        if ours.dim() == 1:
            assert not ours.any(), name
            assert not theirs.any(), name
        else:
            assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.05), name
            bound = (6 / sum(ours.shape)) ** 0.5  # Glorot & Bengio (2010), equation 16
            assert 0.9 * bound < ours.abs().max() <= bound, name
    assert not plain.embedding.weight[PAD].any()
