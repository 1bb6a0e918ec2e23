"""The chapter's model, formulas, data and loop, against arithmetic by hand, torch, and finite differences."""

import math
import os
import random
import re
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader

from elman.chapter import (
    ElmanRNN,
    ElmanRNNUnit,
    RecurrentLanguageModel,
    TextDataset,
    average_cross_entropy,
    collate,
    compute_perplexity,
    cross_entropy,
    evaluate,
    generate_text,
    initialize_weights,
    perplexity,
    set_seed,
    softmax,
    train,
)
from elman.errors import ConfigError, DivergedError, InputError

PAD, START, END = 0, 1, 2
VOCAB_SIZE = 7
DOCUMENTS = [[3, 4, 5, 6, 3], [4], [6, 5], []]
DOCS_PAGE = Path(__file__).parents[1] / "docs" / "chapter.md"


@pytest.fixture(autouse=True)
def _leave_torch_as_found():
    """`set_seed` changes the process; no other test may notice. Every test starts from the same seed."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    cudnn = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn
    if workspace is None:
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    else:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace


def tiny_model(emb_dim: int = 4, num_layers: int = 2) -> RecurrentLanguageModel:
    model = RecurrentLanguageModel(VOCAB_SIZE, emb_dim, num_layers, PAD)
    initialize_weights(model)
    return model


def dataset(documents=DOCUMENTS, **options) -> TextDataset:
    return TextDataset(documents, start_index=START, end_index=END, **options)


def loader(examples: TextDataset | None = None, batch_size: int = 2, **options) -> DataLoader:
    examples = dataset() if examples is None else examples
    return DataLoader(examples, batch_size=batch_size, collate_fn=partial(collate, pad_index=PAD), **options)


def loss_and_gradients(model, inputs, targets, ignore_index=PAD):
    model.zero_grad()
    criterion = nn.CrossEntropyLoss(ignore_index=ignore_index)
    loss = criterion(model(inputs).reshape(-1, VOCAB_SIZE), targets.reshape(-1))
    loss.backward()
    return [loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())]


# 3.1 and 3.3: the unit and the stack


def test_a_step_is_the_formula_in_plain_floats():
    unit = ElmanRNNUnit(2).double()
    wh, uh, b = [[0.1, -0.2], [0.3, 0.4]], [[0.5, 0.6], [-0.7, 0.8]], [0.05, -0.05]
    with torch.no_grad():
        for parameter, value in ((unit.Wh, wh), (unit.Uh, uh), (unit.b, b)):
            parameter.copy_(torch.tensor(value, dtype=torch.float64))
    x, h = [1.0, -2.0], [0.25, 0.5]
    #  x Wh = (0.1 - 0.6, -0.2 - 0.8), h Uh = (0.125 - 0.35, 0.15 + 0.4); with b the sums are -0.675 and -0.5
    expected = [math.tanh(-0.675), math.tanh(-0.5)]
    step = unit(torch.tensor([x], dtype=torch.float64), torch.tensor([h], dtype=torch.float64))
    assert step.tolist()[0] == pytest.approx(expected, abs=1e-15)


def test_a_unit_starts_with_random_matrices_and_a_zero_bias():
    unit = ElmanRNNUnit(5)
    assert {name: tuple(p.shape) for name, p in unit.named_parameters()} == {
        "Uh": (5, 5),
        "Wh": (5, 5),
        "b": (5,),
    }
    assert unit.Uh.unique().numel() == unit.Wh.unique().numel() == 25
    assert not torch.equal(unit.Uh, unit.Wh)
    assert not unit.b.any()


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_the_stack_equals_torch_given_transposed_weights(num_layers):
    ours = ElmanRNN(5, num_layers).double()
    theirs = nn.RNN(5, 5, num_layers, batch_first=True).double()
    with torch.no_grad():
        for layer, unit in enumerate(ours.rnn_units):
            unit.b.normal_()
            getattr(theirs, f"weight_ih_l{layer}").copy_(unit.Wh.T)
            getattr(theirs, f"weight_hh_l{layer}").copy_(unit.Uh.T)
            getattr(theirs, f"bias_ih_l{layer}").copy_(unit.b)
            getattr(theirs, f"bias_hh_l{layer}").zero_()
    x = torch.randn(3, 8, 5, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x)[0], rtol=0, atol=1e-12)


def test_the_first_state_is_zero_and_no_state_survives_a_call():
    rnn = ElmanRNN(4, 2)
    x = torch.randn(2, 3, 4)
    first, second = rnn.rnn_units
    zero = torch.zeros(2, 4)
    torch.testing.assert_close(rnn(x)[:, 0], second(first(x[:, 0], zero), zero))
    assert torch.equal(rnn(x), rnn(x))


# 3.4 and 3.5: the language model and its embedding


def test_the_chapters_model_has_8_292_619_parameters():
    with torch.device("meta"):
        model = RecurrentLanguageModel(32_011, 128, 2, pad_index=32_000)
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_292_619


def test_logits_are_the_linear_layer_over_the_rnn_over_the_embedding():
    model = tiny_model().double()
    tokens = torch.tensor([[START, 3, 4], [START, 5, PAD]])
    by_hand = model.rnn(model.embedding.weight[tokens]) @ model.fc.weight.T + model.fc.bias
    assert model(tokens).shape == (2, 3, VOCAB_SIZE)
    torch.testing.assert_close(model(tokens), by_hand, rtol=0, atol=1e-12)


def test_no_logit_depends_on_a_later_token():
    model = tiny_model()
    tokens = torch.tensor([[START, 3, 4, 5]])
    changed = torch.tensor([[START, 3, 6, PAD]])
    assert torch.equal(model(tokens)[:, :2], model(changed)[:, :2])
    assert not torch.equal(model(tokens)[:, 2], model(changed)[:, 2])


@pytest.mark.parametrize("pad_index", [-1, VOCAB_SIZE])
def test_padding_must_be_in_the_vocabulary(pad_index):
    with pytest.raises(ConfigError, match="pad_index"):
        RecurrentLanguageModel(VOCAB_SIZE, 4, 2, pad_index)


def test_a_stack_needs_a_layer():
    with pytest.raises(ConfigError, match="num_layers"):
        ElmanRNN(4, 0)


# 3.6: initialisation, seed, loop


def test_initialisation_is_xavier_for_matrices_and_zero_for_vectors_and_padding():
    model = RecurrentLanguageModel(200, 50, 2, pad_index=9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    initialize_weights(model)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert not parameter.any(), name
            continue
        bound = math.sqrt(6 / sum(parameter.shape))
        assert 0.95 * bound < parameter.abs().max() <= bound, name
        assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05), name
    zero_rows = (model.embedding.weight == 0).all(dim=1).nonzero().flatten().tolist()
    assert zero_rows == [9]


def test_the_padding_row_stays_zero_under_adamw_while_every_other_row_moves():
    model = tiny_model()
    before = model.embedding.weight.detach().clone()
    train(model, loader(), num_epochs=5, learning_rate=0.1, pad_index=PAD)
    moved = (model.embedding.weight != before).any(dim=1).tolist()
    assert not model.embedding.weight[PAD].any()
    # The end token is never an input, yet weight decay moves it: the padding row alone is a fixed point.
    assert moved == [index != PAD for index in range(VOCAB_SIZE)]


def test_a_step_of_the_loop_is_a_step_of_adamw_on_the_average_loss():
    ours, theirs = tiny_model().double(), tiny_model().double()
    theirs.load_state_dict(ours.state_dict())
    batches = list(loader())
    losses = train(ours, batches, learning_rate=0.05, pad_index=PAD)

    optimizer = torch.optim.AdamW(theirs.parameters(), lr=0.05)
    for (inputs, targets), found in zip(batches, losses, strict=True):
        real = targets != PAD
        loss = average_cross_entropy(softmax(theirs(inputs)[real]), targets[real])  # formulas 3 and 5
        gradients = torch.autograd.grad(loss, list(theirs.parameters()))
        for parameter, gradient in zip(theirs.parameters(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        assert found == pytest.approx(loss.item(), abs=1e-12)
    assert len(losses) == 2
    for (name, our), their in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(our, their, rtol=0, atol=1e-8, msg=lambda m, name=name: f"{name}: {m}")


def test_the_loop_trains_in_training_mode():
    model = tiny_model().eval()
    train(model, loader(), pad_index=PAD)
    assert model.training


def test_the_loss_of_every_step_of_every_epoch_is_returned():
    assert len(train(tiny_model(), loader(batch_size=3), num_epochs=4, pad_index=PAD)) == 2 * 4


def test_gradients_equal_finite_differences():
    model = tiny_model(emb_dim=3).double()
    inputs, targets = next(iter(loader(batch_size=4)))
    gradients = loss_and_gradients(model, inputs, targets)[1:]
    criterion = nn.CrossEntropyLoss(ignore_index=PAD)
    step = 1e-5

    @torch.no_grad()
    def loss() -> float:
        return criterion(model(inputs).reshape(-1, VOCAB_SIZE), targets.reshape(-1)).item()

    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        numeric = torch.empty_like(parameter)
        values = parameter.data.view(-1)
        for index, value in enumerate(values.tolist()):
            values[index] = value + step
            above = loss()
            values[index] = value - step
            below = loss()
            values[index] = value
            numeric.view(-1)[index] = (above - below) / (2 * step)
        torch.testing.assert_close(gradient, numeric, rtol=0, atol=1e-9)
        assert gradient.any()


def test_what_stands_under_the_padding_changes_nothing():
    model = tiny_model().double()
    inputs, targets = next(iter(loader(batch_size=4)))
    padded = targets == PAD
    assert padded.any()
    expected = loss_and_gradients(model, inputs, targets)

    other_inputs = torch.where(padded, torch.randint(VOCAB_SIZE, inputs.shape), inputs)
    assert not torch.equal(other_inputs, inputs)
    torch.testing.assert_close(loss_and_gradients(model, other_inputs, targets), expected, rtol=0, atol=1e-14)

    other_targets = targets.masked_fill(padded, -100)
    found = loss_and_gradients(model, inputs, other_targets, ignore_index=-100)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)

    longer = [nn.functional.pad(part, (0, 5), value=PAD) for part in (inputs, targets)]
    torch.testing.assert_close(loss_and_gradients(model, *longer), expected, rtol=0, atol=1e-14)


def test_the_same_seed_gives_the_same_losses():
    def losses(seed: int) -> list[float]:
        set_seed(seed)
        model = tiny_model()
        return train(model, loader(shuffle=True), num_epochs=3, learning_rate=0.01, pad_index=PAD)

    first = losses(1)
    assert len(first) == 6
    assert losses(1) == first
    assert losses(2) != first


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_a_seed_reaches_every_source_of_randomness(seed):
    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), torch.rand(()).item()

    set_seed(seed)
    first = draws()
    assert draws() != first
    set_seed(seed)
    assert draws() == first
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"]


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_an_impossible_seed_is_refused(seed):
    with pytest.raises(ConfigError, match="seed"):
        set_seed(seed)


def test_the_loop_learns_a_repeated_pattern():
    examples = dataset([[3, 4, 5, 6] * 4] * 8)
    model = tiny_model(emb_dim=16)
    losses = train(model, loader(examples), learning_rate=0.01, num_epochs=50, pad_index=PAD)
    assert losses[0] > 0.7 * math.log(VOCAB_SIZE)  # it knew next to nothing
    assert losses[-1] < 0.1
    assert generate_text(model, [START], 8) == [START, 3, 4, 5, 6, 3, 4, 5, 6]


def test_a_loss_that_is_not_a_number_stops_training_and_spares_the_weights():
    model = tiny_model()
    with torch.no_grad():
        model.fc.bias[3] = math.nan
    before = model.embedding.weight.detach().clone()
    with pytest.raises(DivergedError, match="step 1: the loss is nan"):
        train(model, loader(), pad_index=PAD)
    assert torch.equal(model.embedding.weight, before)


# 3.7: Dataset and DataLoader


def test_input_and_target_overlap_shifted_by_one():
    for inputs, targets in dataset(max_length=3):
        assert inputs.dtype == targets.dtype == torch.int64
        assert len(inputs) == len(targets) >= 1
        assert inputs[1:].tolist() == targets[:-1].tolist()


documents = st.lists(st.lists(st.integers(3, VOCAB_SIZE - 1), max_size=9), min_size=1, max_size=5)


@given(documents, st.none() | st.integers(1, 5))
def test_every_token_is_an_input_once_and_a_target_once(texts, max_length):
    examples = dataset(texts, max_length=max_length)
    inputs = [token for example, _ in examples for token in example.tolist()]
    targets = [token for _, example in examples for token in example.tolist()]
    assert targets == [token for text in texts for token in [*text, END]]
    assert inputs == [token for text in texts for token in [START, *text]]
    assert all(len(example) <= (max_length or 10) for example, _ in examples)
    assert sum(len(batch) for batch, _ in loader(examples)) == len(examples)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_shuffled_epoch_is_the_same_examples_in_another_order(num_workers):
    examples = dataset([[3 + n % 4] * (n + 1) for n in range(20)])
    batches = list(loader(examples, batch_size=3, shuffle=True, num_workers=num_workers))
    in_order = [target.tolist() for _, target in examples]
    drawn = [[token for token in row if token != PAD] for _, batch in batches for row in batch.tolist()]
    assert drawn != in_order
    assert sorted(drawn) == sorted(in_order)
    counted = Counter(token for row in drawn for token in row)
    assert counted == Counter(3 + n % 4 for n in range(20) for _ in range(n + 1)) + Counter({END: 20})


def test_a_tokenizer_is_called_on_every_text():
    vocabulary = {"learning": 3, "from": 4, "text": 5}
    examples = TextDataset(["learning from text", "text"], lambda text: [vocabulary[w] for w in text.split()])
    assert [(x.tolist(), y.tolist()) for x, y in examples] == [([3, 4], [4, 5])]  # "text" predicts nothing


def test_a_batch_is_padded_at_the_end_to_its_longest_example():
    inputs, targets = next(iter(loader(batch_size=3)))
    assert inputs.tolist() == [[1, 3, 4, 5, 6, 3], [1, 4, 0, 0, 0, 0], [1, 6, 5, 0, 0, 0]]
    assert targets.tolist() == [[3, 4, 5, 6, 3, 2], [4, 2, 0, 0, 0, 0], [6, 5, 2, 0, 0, 0]]


def test_a_text_may_not_hold_the_padding():
    with pytest.raises(InputError, match="an index of its own"):
        next(iter(loader(dataset([[3, PAD, 4]]))))


def test_impossible_datasets_are_refused():
    with pytest.raises(InputError, match="no document"):
        TextDataset([[3], []])
    with pytest.raises(ConfigError, match="max_length"):
        dataset(max_length=0)


# 3.8: formulas, perplexity, evaluation


def test_softmax_by_hand_and_against_torch():
    by_hand = softmax(torch.tensor([0.0, math.log(2.0), math.log(5.0)], dtype=torch.float64))
    assert by_hand.tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=1e-15)
    z = torch.randn(4, 9, dtype=torch.float64) * 10
    torch.testing.assert_close(softmax(z), torch.softmax(z, dim=-1), rtol=0, atol=1e-15)


def test_softmax_does_not_overflow_and_sums_to_one():
    z = torch.tensor([[1e4, 1e4 - 1, -1e4], [-1e4, -1e4, -1e4], [0.0, -math.inf, 0.0]])
    probabilities = softmax(z)
    assert probabilities[0].tolist() == pytest.approx([1 / (1 + 1 / math.e), 1 / (1 + math.e), 0.0])
    assert probabilities[2].tolist() == [0.5, 0.0, 0.5]
    torch.testing.assert_close(probabilities.sum(dim=-1), torch.ones(3))


def test_cross_entropy_by_hand():
    y_hat = torch.tensor([0.5, 0.125, 0.375, 0.0], dtype=torch.float64)
    assert cross_entropy(y_hat, 0).item() == pytest.approx(0.6931471805599453, abs=1e-15)
    assert cross_entropy(y_hat, 1).item() == pytest.approx(3 * math.log(2), abs=1e-15)
    assert cross_entropy(y_hat, 3).item() == math.inf
    assert cross_entropy(torch.tensor([0.0, 1.0]), 1).item() == 0.0


def test_average_cross_entropy_is_the_mean_of_the_single_losses_and_torchs_loss():
    logits = torch.randn(6, VOCAB_SIZE, dtype=torch.float64)
    classes = torch.randint(VOCAB_SIZE, (6,))
    average = average_cross_entropy(softmax(logits), classes)
    single = [cross_entropy(row, c).item() for row, c in zip(softmax(logits), classes.tolist(), strict=True)]
    assert average.item() == pytest.approx(sum(single) / 6, abs=1e-14)
    torch.testing.assert_close(average, nn.functional.cross_entropy(logits, classes), rtol=0, atol=1e-14)


def test_impossible_classes_are_refused():
    y_hat = torch.full((2, 4), 0.25)
    for c in (-1, 4):
        with pytest.raises(InputError, match="between 0 and 3"):
            cross_entropy(y_hat[0], c)
    with pytest.raises(InputError, match="no examples"):
        average_cross_entropy(y_hat[:0], torch.tensor([], dtype=torch.int64))


def test_perplexity_is_the_exponential_and_calm():
    assert perplexity(math.log(72.41)) == pytest.approx(72.41)
    assert perplexity(torch.tensor(0.0)) == 1.0
    assert perplexity(1e6) == perplexity(math.inf) == math.inf
    assert math.isnan(perplexity(math.nan))


def test_the_perplexity_of_a_uniform_model_is_the_size_of_the_vocabulary():
    model = tiny_model()
    nn.init.zeros_(model.fc.weight)
    assert compute_perplexity(model, loader(), PAD) == pytest.approx(VOCAB_SIZE, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
def test_an_evaluation_scores_every_target_whatever_the_batch_size(batch_size):
    model = tiny_model().double()
    with torch.no_grad():
        nats = [
            cross_entropy(y_hat, c).item()
            for inputs, targets in dataset()
            for y_hat, c in zip(softmax(model(inputs[None])[0]), targets.tolist(), strict=True)
        ]
    found = evaluate(model, loader(batch_size=batch_size), PAD)
    assert found.targets == len(nats) == sum(len(text) + 1 for text in DOCUMENTS)
    assert found.nats == pytest.approx(sum(nats), abs=1e-12)
    assert found.loss == found.nats / found.targets
    assert found.perplexity == math.exp(found.loss)


@pytest.mark.parametrize("training", [True, False])
def test_an_evaluation_leaves_the_model_as_it_was(training):
    model = tiny_model().train(training)
    evaluate(model, loader(), PAD)
    assert model.training is training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_evaluation_of_nothing_is_refused():
    with pytest.raises(InputError, match="nothing to score"):
        evaluate(tiny_model(), [], PAD)


# Generation


def test_greedy_generation_takes_the_likeliest_token_and_draws_nothing():
    model = tiny_model()
    before = torch.get_rng_state()
    tokens = generate_text(model, [START, 4], 6)
    assert torch.equal(torch.get_rng_state(), before)
    assert tokens[:2] == [START, 4]
    assert len(tokens) == 8
    for at in range(2, 8):
        assert tokens[at] == model(torch.tensor([tokens[:at]]))[0, -1].argmax()


def test_samples_follow_the_softmax_of_the_tempered_logits():
    model = tiny_model()
    draw, draws, temperature = torch.Generator().manual_seed(3), 2000, 0.5
    counts = Counter(
        generate_text(model, [START], 1, temperature=temperature, generator=draw)[1] for _ in range(draws)
    )
    expected = softmax(model(torch.tensor([[START]]))[0, -1].detach().double() / temperature) * draws
    chi_square = sum((counts[k] - e) ** 2 / e for k, e in enumerate(expected.tolist()))
    assert chi_square < 22.46  # 99.9 % of chi-square with six degrees of freedom


def test_a_sample_repeats_with_its_generator_and_a_tiny_temperature_is_greedy():
    model = tiny_model()

    def sample(seed: int, temperature: float) -> list[int]:
        draw = torch.Generator().manual_seed(seed)
        return generate_text(model, [START], 12, temperature=temperature, generator=draw)

    assert sample(5, 1.0) == sample(5, 1.0) != sample(6, 1.0)
    assert sample(5, 1e-300) == generate_text(model, [START], 12)


def test_generation_stops_after_the_end_token():
    model = tiny_model()
    with torch.no_grad():
        model.fc.bias[END] = 100.0
    assert generate_text(model, [START], 5, end_index=END) == [START, END]
    assert generate_text(model, [START], 3) == [START, END, END, END]
    assert generate_text(model, [START], 0) == [START]


def test_impossible_requests_to_generate_are_refused():
    with pytest.raises(InputError, match="empty"):
        generate_text(tiny_model(), [], 3)
    with pytest.raises(ConfigError, match="num_tokens"):
        generate_text(tiny_model(), [START], -1)
    for temperature in (-1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="temperature"):
            generate_text(tiny_model(), [START], 3, temperature=temperature)


# The guide


@pytest.mark.skipif(not DOCS_PAGE.parent.is_dir(), reason="the docs are not part of this copy")
def test_every_python_block_of_the_guide_runs(capsys):
    page = DOCS_PAGE.read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL))
    assert len(blocks) >= 8
    session: dict[str, object] = {"__name__": "guide"}
    for block in blocks:
        # Blank lines before the block keep the line numbers of the page in a traceback.
        lines_above = page.count("\n", 0, block.start(1))
        exec(compile("\n" * lines_above + block[1], str(DOCS_PAGE), "exec"), session)
    assert capsys.readouterr().out
