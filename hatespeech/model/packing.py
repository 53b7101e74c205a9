"""Packed batches: the tokens of many sequences end to end, without padding between them.

Linear layers see one ``[tokens, hidden]`` matrix of real tokens. Only attention reads several
tokens together; it runs over *groups* of sequences. On a CPU a group holds sequences of one length,
so a view of the packed matrix is enough and nothing is copied. On a GPU, where every call costs a
kernel launch, a group holds sequences of similar length, padded to the longest. A batch goes to the
device in one copy, and the forward pass never waits for the device.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import torch
from torch import Tensor

# In a group on a GPU, a sequence is padded to at most this many times its own length, plus a few
# tokens so that very short sequences can share a group.
GROUP_STRETCH: Final = 1.15
GROUP_SLACK: Final = 4

# oneDNN builds a primitive for every new shape, which takes about as long as scoring a short text.
# So on a CPU the number of rows is rounded up to a multiple of ``ROW_STEP``, and at most
# ``ROWS_AT_ONCE`` rows go in one call: at most 64 shapes for each product. BERTweet reads no longer
# text; another model's goes in one call.
ROW_STEP: Final = 8
# This also keeps a layer's widest intermediate result within a processor's caches.
ROWS_AT_ONCE: Final = 512

# By this share of itself a part grows until the parts are few enough.
LIMIT_STEPS: Final = 32


@dataclass(frozen=True)
class Group:
    """Neighbouring sequences of a packed batch that share one attention call."""

    start: int  # first token in the packed matrix
    end: int  # one past the last
    count: int  # sequences
    length: int  # tokens of the longest
    # Both None if all sequences have the same length.
    present: Tensor | None  # [count, length] bool, True for a token, False for padding
    places: Tensor | None  # [end - start] int64, each token's row in [count * length]

    def pad(self, hidden: Tensor) -> Tensor:
        """Turn the group's ``[end - start, hidden]`` tokens into ``[count, length, hidden]``."""
        if self.places is None:
            return hidden.view(self.count, self.length, -1)
        padded = hidden.new_zeros(self.count * self.length, hidden.shape[-1])
        padded[self.places] = hidden
        return padded.view(self.count, self.length, -1)

    def unpad(self, padded: Tensor) -> Tensor:
        """Turn ``[count, length, hidden]`` back into ``[end - start, hidden]``."""
        rows = padded.flatten(0, 1)
        return rows if self.places is None else rows[self.places]


@dataclass(frozen=True)
class PackedBatch:
    """Sequences laid end to end, shortest first.

    ``input_ids`` and ``position_ids`` are ``[tokens]`` int64. ``first``, ``[sequences]`` int64, is
    where each sequence starts. ``order[i]`` is the caller's index of the sequence at ``i``, and
    ``places[j]``, ``[sequences]`` int64, is where the caller's sequence ``j`` is.

    A batch that was packed with a ``row_step`` has rows behind its last token and behind its last
    ``first`` that belong to no sequence.
    """

    input_ids: Tensor
    position_ids: Tensor
    first: Tensor
    places: Tensor
    order: list[int]
    groups: list[Group]

    @classmethod
    def pack(
        cls,
        sequences: Sequence[Sequence[int]],
        pad_token_id: int,
        device: torch.device | str,
        row_step: int = 1,
    ) -> Self:
        """Pack token id lists of any lengths.

        The numbers of rows of ``input_ids``, ``position_ids`` and ``first`` are rounded up to a
        multiple of ``row_step``, so that no product has to do it. Raises :class:`ValueError` if
        there is no sequence, or if one is empty.
        """
        device = torch.device(device)
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        lengths = [len(sequences[i]) for i in order]
        if not lengths or lengths[0] == 0:
            raise ValueError("a batch needs at least one sequence, and each at least one token")
        ids, positions, first = array("q"), array("q"), array("q")
        for i in order:
            first.append(len(ids))
            ids.extend(sequences[i])
            positions.extend(position_ids(sequences[i], pad_token_id))
        fill(ids, row_step, pad_token_id)
        fill(positions, row_step, pad_token_id)
        places = array("q", bytes(8 * len(order)))
        for place, i in enumerate(order):
            places[i] = place
        bounds = group_bounds(lengths, device)
        starts = first.tolist()
        fill(first, row_step, 0)
        padded = [_places(lengths[begin:end]) for begin, end in bounds]
        ids_there, positions_there, first_there, places_there, lengths_there, *padded_there = (
            _stage([ids, positions, first, places, array("q", lengths), *padded], device)
        )
        groups = []
        for (begin, end), group_places in zip(bounds, padded_there, strict=True):
            start, stop = starts[begin], starts[end - 1] + lengths[end - 1]
            longest = lengths[end - 1]
            if not len(group_places):
                groups.append(Group(start, stop, end - begin, longest, None, None))
                continue
            present = torch.arange(longest, device=device) < lengths_there[begin:end, None]
            groups.append(Group(start, stop, end - begin, longest, present, group_places))
        return cls(ids_there, positions_there, first_there, places_there, order, groups)


def fill(values: array[int], step: int, value: int) -> None:
    """Append ``value`` until the length is a multiple of ``step``."""
    values.extend([value] * (-len(values) % step))


def parts_of(sequences: Sequence[Sequence[int]], tokens: int, workers: int) -> list[list[int]]:
    """Part the indexes of sequences, shortest first, so that a part has at most ``tokens`` tokens.

    A longer sequence has a part of its own. If there are parts for all ``workers``, each gets as
    many and about as much to do as the others, as far as the lengths allow.
    """
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    lengths = [len(sequences[i]) for i in order]
    bounds = _bounds(lengths, tokens)
    if len(bounds) >= workers > 1:
        wanted = -(-len(bounds) // workers) * workers
        most = -(-sum(lengths) // wanted)
        while most < tokens:
            even = _bounds(lengths, most)
            if len(even) <= wanted:
                bounds = even
                break
            most += -(-most // LIMIT_STEPS)
    return [order[begin:end] for begin, end in bounds]


def _bounds(lengths: Sequence[int], tokens: int) -> list[tuple[int, int]]:
    """Cut ascending ``lengths`` into parts of at most ``tokens``."""
    bounds: list[tuple[int, int]] = []
    begin = room = 0
    for end, length in enumerate([*lengths, tokens + 1]):  # the last one ends the last part
        if end > begin and length > room:
            bounds.append((begin, end))
            begin = end
        if end == begin:
            room = tokens
        room -= length
    return bounds


def position_ids(sequence: Sequence[int], pad_token_id: int) -> Sequence[int]:
    """Return RoBERTa's positions, which count from the one after the padding id.

    A padding id inside a sequence (a text can spell ``<pad>``) gets the padding position and is not
    counted, as in Hugging Face's ``create_position_ids_from_input_ids``.
    """
    if pad_token_id not in sequence:
        return range(pad_token_id + 1, pad_token_id + 1 + len(sequence))
    positions, position = [], pad_token_id
    for token in sequence:
        position += token != pad_token_id
        positions.append(pad_token_id if token == pad_token_id else position)
    return positions


def group_bounds(lengths: Sequence[int], device: torch.device) -> list[tuple[int, int]]:
    """Cut ascending ``lengths`` into groups: of one length on a CPU, else of similar lengths."""
    stretch, slack = (1.0, 0) if device.type == "cpu" else (GROUP_STRETCH, GROUP_SLACK)
    bounds: list[tuple[int, int]] = []
    begin = 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or lengths[end] > lengths[begin] * stretch + slack:
            bounds.append((begin, end))
            begin = end
    return bounds


def padding(lengths: Sequence[int], device: torch.device) -> int:
    """Return how many padding tokens attention reads in a batch of these ``lengths``."""
    ascending = sorted(lengths)
    bounds = group_bounds(ascending, device)
    padded = sum((end - begin) * ascending[end - 1] for begin, end in bounds)
    return padded - sum(ascending)


def _places(lengths: Sequence[int]) -> array[int]:
    """Return each token's row in a group whose sequences are padded to the length of the last.

    Empty if none needs padding.
    """
    places = array("q")
    if lengths[0] != lengths[-1]:
        for row, length in enumerate(lengths):
            places.extend(range(row * lengths[-1], row * lengths[-1] + length))
    return places


def _stage(parts: Sequence[array[int]], device: torch.device) -> list[Tensor]:
    """Copy int64 arrays to the device in one go; on a GPU, without waiting for the copy."""
    joined = array("q")
    for part in parts:
        joined.extend(part)
    staged = torch.frombuffer(joined, dtype=torch.int64)
    if device.type != "cpu":
        staged = staged.pin_memory().to(device, non_blocking=True)
    return list(torch.split(staged, [len(part) for part in parts]))
