"""The network: a RoBERTa encoder and a small classification head, in plain torch.

Module names follow the published checkpoint (``model.embeddings…``, ``model.encoder.layer.N…``,
``linear1``, ``linear2``), so its state dict loads key by key. ``transformers`` is not used: its
RoBERTa class adds seconds to every cold start, and its forward pass computes padding.

Batches are packed (see :mod:`hatespeech.model.packing`): linear layers, which do nearly all of the
work, see only real tokens. On a CPU a few rows are added, because oneDNN wants a multiple of eight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from hatespeech.model import threads
from hatespeech.model.packing import ROW_STEP, ROWS_AT_ONCE, PackedBatch, parts_of


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a :class:`CustomModel`; the encoder's fields have Hugging Face's RoBERTa names."""

    vocab_size: int = 50265
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    max_position_embeddings: int = 514
    type_vocab_size: int = 1
    pad_token_id: int = 1
    layer_norm_eps: float = 1e-5
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_size: int = 512
    num_labels: int = 4

    def __post_init__(self) -> None:
        """Raise :class:`ValueError` for sizes that are impossible for a RoBERTa."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, int):
                least = 0 if field.name == "pad_token_id" else 1
                if type(value) is not int or value < least:
                    raise ValueError(f"{field.name} must be a whole number of at least {least}")
            elif not isinstance(value, int | float) or not 0 <= value < 1:
                raise ValueError(f"{field.name} must be a number from 0 up to, not including, 1")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size must be a multiple of num_attention_heads")
        if self.max_tokens < 3:
            raise ValueError("max_position_embeddings leaves no room for a token")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the known fields of a ``config.json``, which may hold many others."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})

    @property
    def max_tokens(self) -> int:
        """Longest sequence, with special tokens. Positions up to the padding id are not used."""
        return self.max_position_embeddings - self.pad_token_id - 1

    @property
    def operations_per_token(self) -> int:
        """Floating-point operations of the encoder's linear layers, two for each multiply-add."""
        layer = 4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size
        return 2 * self.num_hidden_layers * layer


class Embeddings(nn.Module):
    """Word, position and type embeddings, summed and normalised."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.word_embeddings = embedding(config.vocab_size, config, config.pad_token_id)
        self.position_embeddings = embedding(
            config.max_position_embeddings, config, config.pad_token_id
        )
        self.token_type_embeddings = embedding(config.type_vocab_size, config, None)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Return ``[tokens, hidden]`` for ``[tokens]`` ids and positions."""
        hidden = self.word_embeddings(input_ids) + self.token_type_embeddings.weight[0]
        hidden = hidden + self.position_embeddings(position_ids)
        normed: Tensor = self.dropout(self.LayerNorm(hidden))
        return normed


def embedding(rows: int, config: ModelConfig, padding_idx: int | None) -> nn.Embedding:
    """Return a table of zeros, into which weights can be loaded or drawn.

    ``nn.Embedding`` by itself would draw them. On the meta device, where a checkpoint's model is
    built, that makes torch import eight hundred modules: 1.5 s of every cold start.
    """
    weight = torch.zeros(rows, config.hidden_size)
    return nn.Embedding(rows, config.hidden_size, padding_idx=padding_idx, _weight=weight)


class SelfAttention(nn.Module):
    """Multi-head attention within each sequence of a packed batch."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.head_size = config.hidden_size // config.num_attention_heads
        self.dropout_prob = config.attention_probs_dropout_prob
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, batch: PackedBatch, first_only: bool) -> Tensor:
        """Return the attention's context, ``[tokens, hidden]``.

        With ``first_only``, only the first token of each sequence is a query:
        ``[sequences, hidden]``.
        """
        first = self.query(hidden[batch.first]) if first_only else None
        products = [self.key(hidden), self.value(hidden)]
        projected = torch.cat(products if first_only else [self.query(hidden), *products], dim=1)
        contexts = []
        asked = 0
        for group in batch.groups:
            *queries, key, value = self._split(group.pad(projected[group.start : group.end]))
            if first is not None:
                queries = self._split(first[asked : asked + group.count].unsqueeze(1))
                asked += group.count
            context = F.scaled_dot_product_attention(
                queries[0],
                key,
                value,
                attn_mask=None if group.present is None else group.present[:, None, None, :],
                dropout_p=self.dropout_prob if self.training else 0.0,
            )
            context = context.transpose(1, 2).flatten(2)
            contexts.append(context.flatten(0, 1) if first_only else group.unpad(context))
        # Rows behind the last sequence may hold anything.
        contexts.append(hidden[batch.groups[-1].end :] if first is None else first[asked:])
        return torch.cat(contexts)

    def _split(self, projected: Tensor) -> list[Tensor]:
        """Part ``[count, length, n * hidden]`` into n of ``[count, heads, length, head size]``."""
        count, length, _ = projected.shape
        parts = projected.view(count, length, -1, self.heads, self.head_size)
        return list(parts.permute(2, 0, 3, 1, 4))


class ResidualOutput(nn.Module):
    """A projection to the hidden size; the residual is added and the sum normalised."""

    def __init__(self, config: ModelConfig, input_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(input_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        """Return ``[tokens, hidden]``."""
        projected = self.dense(hidden)
        if self.training:
            projected = self.dropout(projected)
        normed: Tensor = self.LayerNorm(projected + residual)
        return normed


class Attention(nn.Module):
    """Self-attention with its output projection, under the checkpoint's names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = ResidualOutput(config, config.hidden_size)


class Intermediate(nn.Module):
    """The first half of the feed-forward block, which widens, with the exact GELU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return ``[tokens, intermediate]``."""
        return F.gelu(self.dense(hidden))


class Layer(nn.Module):
    """One post-norm transformer layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = ResidualOutput(config, config.intermediate_size)

    def forward(self, hidden: Tensor, batch: PackedBatch, first_only: bool) -> Tensor:
        """Return ``[tokens, hidden]``, or ``[sequences, hidden]`` with ``first_only``."""
        context = self.attention.self(hidden, batch, first_only)
        residual = hidden[batch.first] if first_only else hidden
        attended = self.attention.output(context, residual)
        widened: Tensor = self.output(self.intermediate(attended), attended)
        return widened


class LayerStack(nn.Module):
    """The stack of layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, hidden: Tensor, batch: PackedBatch, first_only: bool) -> Tensor:
        """Return ``[tokens, hidden]``, or ``[sequences, hidden]`` with ``first_only``."""
        last = len(self.layer) - 1
        for index, layer in enumerate(self.layer):
            hidden = layer(hidden, batch, first_only and index == last)
        return hidden


class Pooler(nn.Module):
    """Not used, as in the original model: the published checkpoint has its keys."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)


class RobertaEncoder(nn.Module):
    """RoBERTa without a task: embeddings and layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = LayerStack(config)
        self.pooler = Pooler(config)

    def forward(self, batch: PackedBatch, first_only: bool = False) -> Tensor:
        """Return the last hidden state in packed order: ``[tokens, hidden]``.

        With ``first_only`` the last layer computes only the first token of each sequence, which is
        all that a classifier reads: ``[sequences, hidden]``.
        """
        hidden = self.embeddings(batch.input_ids, batch.position_ids)
        encoded: Tensor = self.encoder(hidden, batch, first_only)
        return encoded


class CustomModel(nn.Module):
    """The encoder, and a head over its first token: ``linear1``, ReLU, dropout, ``linear2``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = RobertaEncoder(config)
        self.linear1 = nn.Linear(config.hidden_size, config.classifier_size)
        self.dropout = nn.Dropout(0.3)
        self.linear2 = nn.Linear(config.classifier_size, config.num_labels)
        # On a CPU, what computes the logits (see :mod:`hatespeech.model.prepared`).
        self.prepared: nn.Module | None = None

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if self.prepared is not None:
            raise RuntimeError("a prepared model cannot be moved or cast")
        moved: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's
        return moved

    @override
    def forward(self, batch: PackedBatch) -> Tensor:
        """Return logits ``[sequences, labels]``, in the order in which the caller packed them."""
        if self.prepared is not None:
            prepared: Tensor = self.prepared(batch)
            return prepared
        first = self.model(batch, first_only=True)
        logits = self.linear2(self.dropout(F.relu(self.linear1(first))))
        restored: Tensor = logits[batch.places]
        return restored

    def forward_sequences(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Pack token id lists on the model's device; return logits ``[sequences, labels]``."""
        device = self.linear1.weight.device
        if device.type != "cpu" or torch.is_grad_enabled():
            return self._logits(sequences, device, 1)
        operations = sum(map(len, sequences)) * self.config.operations_per_token
        with threads.as_many_as_useful(operations):
            return self._in_parts(sequences, device)

    def _in_parts(self, sequences: Sequence[Sequence[int]], device: torch.device) -> Tensor:
        """Read at most ``ROWS_AT_ONCE`` tokens at a time, for inference on a CPU.

        A part goes through all layers before the next: its states stay in the processor's caches,
        and no copy joins parts. If there are parts for all threads, each thread reads its own: then
        they wait for each other once a pass, and not at each product.
        """
        workers = threads.independent()
        parts = parts_of(sequences, ROWS_AT_ONCE, workers)
        if len(parts) < 2:
            with threads.spread():
                return self._logits(sequences, device, ROW_STEP)

        def read(part: list[int]) -> Tensor:
            return self._logits([sequences[i] for i in part], device, ROW_STEP)

        logits = torch.cat(threads.apart(read, parts, workers if len(parts) >= workers else 1))
        restored = torch.empty_like(logits)
        restored[[i for part in parts for i in part]] = logits
        return restored

    def _logits(
        self, sequences: Sequence[Sequence[int]], device: torch.device, row_step: int
    ) -> Tensor:
        pad_token_id = self.config.pad_token_id
        logits: Tensor = self(PackedBatch.pack(sequences, pad_token_id, device, row_step))
        return logits
