"""Generation with carried state: constant memory, and one model step a token.

    absorb     s = state after prompt[:-1], in chunks
    repeat     log p, s = model.log_probs(last token, s);   last token ~ sample(log p)

so P prompt tokens and n new ones cost P - 1 + n token steps, and nothing grows with n. The state is a value:
a prompt is absorbed once and its state copied for each sample, and a row that has ended leaves the batch, so
memory and time follow the rows still alive.

Every sample has a random stream of its own, decided by the seed and by its index among the samples of its
prompt. What it says does not depend on what is generated beside it, up to the floating-point differences that
another batch size may bring; with smaller weights these are as large as their rounding (`models.quantize`).

Token ids only: a prompt begins with the start token, which the caller puts there, and a caller who wants to
stop at a piece of text calls `stop`.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from elman.errors import ConfigError, InputError
from elman.generate.draw import Uniforms, sample
from elman.generate.sampling import Sampling
from elman.models.base import LanguageModel, State, map_state, select_rows

FinishReason = Literal["end", "length"]

PROMPT_CHUNK = 256
"""Prompt tokens absorbed in one call: enough to be quick, few enough that a long prompt costs no memory."""

LOGITS_HELD = 1 << 23
"""Log-probabilities held at a time, so that memory has a limit however many rows there are: with a vocabulary of
32,000 rows are taken 262 at once. Fewer at once would be slower, as each time all of the output matrix is read."""


class Step(NamedTuple):
    """One new token of one row."""

    row: int
    """Which sample: prompt index * samples + sample index."""
    token: int
    """The id drawn; the end token is reported too."""
    nats: float
    """Minus its log-probability under the model itself: temperature 1, nothing filtered."""
    finish_reason: FinishReason | None
    """On the last step of a row, why: it drew the end token, or reached `max_tokens`."""


class Generation(Iterator[list[Step]]):
    """An iterator over time: each item holds one Step for every row still alive, in the order of the rows.

    Example:
        generation = Generation(model, [prompt], sampling=Sampling(top_p=0.9), max_tokens=50, end_id=end)
        for steps in generation:
            for step in steps:
                if enough(step):
                    generation.stop(step.row)
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        *,
        sampling: Sampling,
        max_tokens: int,
        end_id: int,
        samples: int = 1,
        banned: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        """Check the arguments and absorb the prompts.

        Args:
            model: Gives log-probabilities and carries the state.
            prompts: Token ids; each prompt begins with the start token.
            sampling: How a token is chosen.
            max_tokens: New tokens of a row at most, the end token counted; 0 yields nothing.
            end_id: The token that ends a row.
            samples: Rows for each prompt.
            banned: Ids never drawn, such as padding and start; with `end_id` among them no row ends early.
            seed: Decides, with the index of a sample, its random stream.

        Raises:
            ConfigError: `max_tokens` is negative, or `samples` is not positive.
            InputError: A prompt is empty, or an id is not in the vocabulary.
        """
        if max_tokens < 0:
            raise ConfigError(f"max_tokens ({max_tokens}) must be 0 or more")
        if samples < 1:
            raise ConfigError(f"samples ({samples}) must be at least 1")
        for index, prompt in enumerate(prompts):
            if len(prompt) == 0:
                raise InputError(f"prompt {index} is empty; begin it with the start token")
            _require_ids(f"prompt {index}", prompt, model.vocab_size)
        _require_ids("end_id", [end_id], model.vocab_size)
        _require_ids("banned", banned, model.vocab_size)

        self._model = model
        self._sampling = sampling
        self._end_id = end_id
        self._banned = torch.tensor(sorted(set(banned)), dtype=torch.int64) if banned else None
        self._rows_at_once = max(1, LOGITS_HELD // model.vocab_size)
        self._remaining = max_tokens
        self._total_rows = len(prompts) * samples
        self._ended: set[int] = set()
        # Everything below has one entry for each row alive, in the order of the rows.
        self._rows = list(range(self._total_rows)) if max_tokens > 0 else []
        if not self._rows:
            return
        self._uniforms = Uniforms(seed, [row % samples for row in self._rows])
        self._tokens = torch.tensor([prompt[-1] for prompt in prompts]).repeat_interleave(samples)
        self._state = _concatenate([_repeat(absorb(model, prompt), samples) for prompt in prompts])
        # The one thing that remembers all tokens has constant size, and exists only where it is needed.
        self._seen: Tensor | None = None
        if sampling.repetition_penalty is not None:
            seen = torch.stack([_mask(prompt, model.vocab_size) for prompt in prompts])
            self._seen = seen.repeat_interleave(samples, dim=0)

    def stop(self, row: int) -> None:
        """End `row`: it yields no further step. A row that has ended already stays so.

        Raises:
            InputError: There is no such row.
        """
        if not 0 <= row < self._total_rows:
            raise InputError(f"there is no row {row} to stop; there are {self._total_rows}, counted from 0")
        self._ended.add(row)

    @torch.inference_mode()
    def __next__(self) -> list[Step]:
        """The next token of every row alive; raises what `sample` raises."""
        self._drop_ended()
        if not self._rows:
            raise StopIteration
        uniforms = None if self._sampling.temperature == 0 else next(self._uniforms)
        chunks = [
            slice(start, start + self._rows_at_once)
            for start in range(0, len(self._rows), self._rows_at_once)
        ]
        drawn, nats, states = zip(*(self._advance(chunk, uniforms) for chunk in chunks), strict=True)
        self._state, self._tokens = _concatenate(states), torch.cat(drawn)
        if self._seen is not None:
            self._seen.scatter_(1, self._tokens[:, None], True)
        self._remaining -= 1
        tokens, costs = self._tokens.tolist(), torch.cat(nats).tolist()
        steps = [
            Step(row, token, cost, self._finish_reason(token))
            for row, token, cost in zip(self._rows, tokens, costs, strict=True)
        ]
        self._ended = {step.row for step in steps if step.finish_reason is not None}
        return steps

    def _advance(self, chunk: slice, uniforms: Tensor | None) -> tuple[Tensor, Tensor, State]:
        """Token and nats of some of the rows, both [rows], and their state after the token before it."""
        tokens = self._tokens[chunk, None].to(self._model.device)
        log_probs, state = self._model.log_probs(tokens, select_rows(self._state, chunk))
        log_probs = log_probs[:, -1].cpu()
        drawn = sample(
            log_probs,
            self._sampling,
            None if uniforms is None else uniforms[chunk],
            seen=None if self._seen is None else self._seen[chunk],
            banned=self._banned,
        )
        nats = (0 - log_probs.gather(1, drawn[:, None])).flatten()  # -x would make -0.0 of a certain token
        return drawn, nats, state

    def _finish_reason(self, token: int) -> FinishReason | None:
        if token == self._end_id:
            return "end"
        return "length" if self._remaining == 0 else None

    def _drop_ended(self) -> None:
        """Take the rows that have ended out of all that is carried."""
        alive = [place for place, row in enumerate(self._rows) if row not in self._ended]
        self._ended.clear()
        if len(alive) == len(self._rows):
            return
        self._rows = [self._rows[place] for place in alive]
        self._uniforms.keep(alive)
        index = torch.tensor(alive, dtype=torch.int64)
        self._tokens = self._tokens[index]
        self._seen = None if self._seen is None else self._seen[index]
        self._state = select_rows(self._state, index.to(self._model.device))


@torch.inference_mode()
def absorb(model: LanguageModel, prompt: Sequence[int]) -> State:
    """The state of one stream before the last token of `prompt`, so that token is still to be given.

    It is advanced with `score`, which holds no [T, V], and every token passes once.
    """
    state = model.initial_state(1)
    tokens = torch.tensor([prompt], dtype=torch.int64, device=model.device)
    contexts, targets = tokens[:, :-1], tokens[:, 1:]
    for start in range(0, contexts.shape[1], PROMPT_CHUNK):
        chunk = slice(start, start + PROMPT_CHUNK)
        _, state = model.score(contexts[:, chunk], targets[:, chunk], state)
    return state


def _repeat(state: State, times: int) -> State:
    return map_state(lambda tensor: tensor.repeat_interleave(times, dim=0), state)


def _concatenate(states: Sequence[State]) -> State:
    if len(states) == 1:
        return states[0]
    return map_state(lambda *tensors: torch.cat(tensors), *states)


def _mask(ids: Sequence[int], vocab_size: int) -> Tensor:
    """Bool [V], true at `ids`."""
    return torch.zeros(vocab_size, dtype=torch.bool).index_fill(0, torch.tensor(ids, dtype=torch.int64), True)


def _require_ids(where: str, ids: Sequence[int], vocab_size: int) -> None:
    for token in ids:
        if not 0 <= token < vocab_size:
            raise InputError(f"{where}: id {token} is outside the vocabulary, which has {vocab_size} entries")
