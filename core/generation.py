"""Text from a model, token by token, with a key-value cache. Shapes: R rows (prompts), S tokens, V vocabulary, v this rank's columns."""

from collections.abc import Collection, Generator, Iterator, Sequence

import torch
from torch import Tensor

from ..parallel.collectives import gather_from_tensor_axis
from .model.cache import KeyValueCache
from .model.input import ModelInput
from .model.transformer import Transformer
from .relay import Pipeline
from .sampling import Sampling, choose, uniforms


def generate(model: Transformer | Pipeline, prompt_ids: Sequence[int], *, max_new_tokens: int, temperature: float = 1.0, top_k: int = 0,
             top_p: float = 1.0, seed: int = 0, stop_ids: Collection[int] = ()) -> Generator[int, None, None]:
    """Continue one prompt; yields each new id as soon as it is chosen, at last the stop id if one was met.

    Every rank of the tensor and the pipeline axis iterates alike and gets the same ids. The caller enters autocast if it wants another
    precision.

    Args:
        model: whole, or this rank's stages of it; evaluated without dropout; its mode is restored at the end.
        prompt_ids: at least one id.
        max_new_tokens: most ids to yield.
        temperature, top_k, top_p, seed: as in `Sampling`.
        stop_ids: ids that end the text.

    Raises:
        ValueError: at once, not at the first id: an impossible setting, or a prompt that does not fit the context.
    """
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    rows = generate_batch(model, [prompt_ids], max_new_tokens=max_new_tokens, sampling=sampling, stop_ids=stop_ids)
    return (ids[0] for ids in rows if ids[0] is not None)


def generate_batch(model: Transformer | Pipeline, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, sampling: Sampling,
                   stop_ids: Collection[int] = ()) -> Iterator[list[int | None]]:
    """Continue several prompts of any lengths together; yields one new id for each row, None for rows that have ended.

    Args:
        model, max_new_tokens, sampling, stop_ids: as for `generate`.
        prompts: each at least one id.

    Raises:
        ValueError: at once, as for `generate`.
    """
    _check_prompts(model, prompts, max_new_tokens)
    return _decode(model, prompts, max_new_tokens, sampling, frozenset(stop_ids))


def _decode(model: Transformer | Pipeline, prompts: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling,
            stop_ids: frozenset[int]) -> Iterator[list[int | None]]:
    was_training = model.training
    model.eval()
    try:
        pipeline = model if isinstance(model, Pipeline) else Pipeline.of_whole(model)
        batch = _prompt_input(prompts, pipeline.device)
        caches = pipeline.caches(batch.tokens_BS.shape[1] + max_new_tokens)
        ended = [False] * len(prompts)
        for draw in range(max_new_tokens):
            logits_RV = _next_logits(pipeline, batch, caches)
            chosen_R = None if logits_RV is None else choose(logits_RV, sampling, uniforms(sampling.seed, rows=len(prompts), draw=draw))
            ids_R = pipeline.told_to_all(chosen_R, len(prompts))
            ids: list[int] = ids_R.tolist()
            yield [None if over else i for i, over in zip(ids, ended, strict=True)]
            ended = [over or i in stop_ids for i, over in zip(ids, ended, strict=True)]
            if all(ended):
                return
            batch = _next_input(batch, ids_R)
    finally:
        model.train(was_training)


@torch.no_grad()
def _next_logits(pipeline: Pipeline, batch: ModelInput, caches: Sequence[KeyValueCache]) -> Tensor | None:
    """Logits that follow the last token of each row, [R, V] fp32 on the CPU, without padding columns; None without the last stage."""
    logits_RSv: Tensor | None = pipeline(batch, caches)
    if logits_RSv is None:
        return None
    return gather_from_tensor_axis(logits_RSv[:, -1:], pipeline.groups.tensor)[:, 0, :pipeline.config.vocab_size].float().cpu()


def _prompt_input(prompts: Sequence[Sequence[int]], device: torch.device) -> ModelInput:
    """The prompts, padded on the left to one length; the padding is a document of its own, so that no token sees it."""
    longest = max(len(prompt) for prompt in prompts)
    tokens_RS = torch.zeros(len(prompts), longest, dtype=torch.int64)
    positions_RS, documents_RS = torch.zeros_like(tokens_RS), torch.zeros_like(tokens_RS)
    for row, prompt in enumerate(prompts):
        start = longest - len(prompt)
        tokens_RS[row, start:] = torch.tensor(prompt)
        positions_RS[row, start:] = torch.arange(len(prompt))
        documents_RS[row, start:] = 1
    ragged = any(len(prompt) != longest for prompt in prompts)
    samples_R, step = torch.arange(len(prompts)), torch.tensor(0)  # only dropout reads these
    documents = documents_RS.to(device) if ragged else None
    return ModelInput(tokens_RS.to(device), positions_RS.to(device), documents, samples_R.to(device), step.to(device))


def _next_input(batch: ModelInput, ids_R: Tensor) -> ModelInput:
    """The chosen ids as the next tokens of the rows."""
    documents = None if batch.documents_BS is None else batch.documents_BS[:, -1:]
    tokens_R1 = ids_R[:, None].to(batch.tokens_BS.device)
    return batch._replace(tokens_BS=tokens_R1, positions_BS=batch.positions_BS[:, -1:] + 1, documents_BS=documents)


def _check_prompts(model: Transformer | Pipeline, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    longest, room = max((len(prompt) for prompt in prompts), default=0), model.config.sequence_length
    if not prompts or min(len(prompt) for prompt in prompts) == 0:
        raise ValueError("a prompt has no tokens; give at least one, for instance the end-of-document id")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
    if longest >= room:
        raise ValueError(f"a prompt of {longest} tokens leaves no room in model.sequence_length={room}; shorten it to {room - 1} or less")
    if longest + max_new_tokens > room:
        raise ValueError(f"a prompt of {longest} tokens and max_new_tokens={max_new_tokens} exceed model.sequence_length={room}; "
                         f"set max_new_tokens={room - longest} or less, or shorten the prompt")
    wrong = next((i for prompt in prompts for i in prompt if not 0 <= i < model.config.vocab_size), None)
    if wrong is not None:
        raise ValueError(f"id {wrong} is outside model.vocab_size={model.config.vocab_size}; use the tokenizer of the model's corpus")
