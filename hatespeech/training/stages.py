"""The two stages of training: masked-language modelling, and classification."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from hatespeech.labels import LABELS
from hatespeech.model.network import CustomModel, ModelConfig
from hatespeech.model.packing import PackedBatch
from hatespeech.training import sequences
from hatespeech.training.corpus import Corpus
from hatespeech.training.initial_models import initialise
from hatespeech.training.recipe import Recipe
from hatespeech.training.sequences import Sample
from hatespeech.training.vocabulary import BOS, EOS, MASK, PAD, UNK, special_id


class Stage(Protocol):
    """The interface that the loop uses."""

    name: str
    index: int
    module: nn.Module  # its parameters are optimised
    epochs: int
    learning_rate: float
    dropout: bool

    def samples(self, rng: np.random.Generator) -> list[Sample]:
        """Return one epoch's sequences."""
        ...

    def weight(self, part: Sequence[Sample]) -> float:
        """Return a part's weight among the parts of its batch."""
        ...

    def loss(self, part: Sequence[Sample]) -> Tensor:
        """Return the mean loss of a part."""
        ...


class MaskedLanguageModel(nn.Module):
    """A model with RoBERTa's language-modelling head, tied to the word embeddings."""

    def __init__(self, model: CustomModel) -> None:
        """Share ``model``'s weights; the head gets new ones."""
        super().__init__()
        config = model.config
        self.model = model
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        initialise(self.dense)

    def forward(self, batch: PackedBatch, chosen: Tensor) -> Tensor:
        """Return logits ``[chosen, vocab]`` at the ``chosen`` (bool ``[tokens]``) positions."""
        hidden = self.model.model(batch)[chosen]
        hidden = self.layer_norm(F.gelu(self.dense(hidden)))
        return F.linear(hidden, self.model.model.embeddings.word_embeddings.weight, self.bias)


class Pretraining:
    """Masked-language modelling on the training texts; it does not use the labels."""

    name = "pre-training"
    index = 0
    dropout = False  # a small model that sees each text only a few times underfits

    def __init__(
        self, model: CustomModel, tokenizer: Tokenizer, corpus: Corpus, recipe: Recipe
    ) -> None:
        """Prepare to train ``model``."""
        self._device = model.linear1.weight.device
        self._language_model = MaskedLanguageModel(model).to(self._device)
        self.module: nn.Module = self._language_model
        self.epochs = recipe.pretrain_epochs
        self.learning_rate = recipe.pretrain_learning_rate
        self._tokenizer = tokenizer
        self._corpus = corpus
        self._recipe = recipe
        self._masking = Masking(tokenizer, model.config)

    def samples(self, rng: np.random.Generator) -> list[Sample]:
        """Return every text once, some of them joined into long texts."""
        return sequences.pretraining_samples(
            self._corpus, self._tokenizer, self._recipe.joined_share, rng
        )

    def weight(self, part: Sequence[Sample]) -> float:
        """Return the number of tokens."""
        return float(sum(len(sample.ids) for sample in part))

    def loss(self, part: Sequence[Sample]) -> Tensor:
        """Return the mean cross-entropy of the hidden tokens."""
        batch = PackedBatch.pack([s.ids for s in part], self._masking.pad_token_id, self._device)
        masked, chosen = self._masking.mask(batch, self._recipe.mask_share)
        logits = self._language_model(masked, chosen)
        # The sum over at least 1: by chance, a part may have no hidden token.
        total = F.cross_entropy(logits.float(), batch.input_ids[chosen], reduction="sum")
        return total / max(1, int(chosen.sum()))


class Classification:
    """Classification: weighted cross-entropy with the labels and with a teacher's probabilities.

    The distillation follows Hinton and others 2015 (https://arxiv.org/abs/1503.02531).
    """

    dropout = True

    def __init__(
        self,
        model: CustomModel,
        tokenizer: Tokenizer,
        corpus: Corpus,
        recipe: Recipe,
        targets: Sequence[tuple[float, ...]] | None = None,
        name: str = "fine-tuning",
        index: int = 2,
    ) -> None:
        """Prepare to train ``model``; ``targets`` are a teacher's logits for the corpus."""
        self.name, self.index = name, index
        self.module: nn.Module = model
        self._device = model.linear1.weight.device
        self.epochs = recipe.epochs
        self.learning_rate = recipe.learning_rate
        self.class_weights = class_weights(corpus.labels, recipe)
        self._targets = targets
        self._tokenizer = tokenizer
        self._corpus = corpus
        self._recipe = recipe
        self._masking = Masking(tokenizer, model.config)

    def samples(self, rng: np.random.Generator) -> list[Sample]:
        """Return every text once, and the texts that the recipe adds."""
        return sequences.finetuning_samples(
            self._corpus, self._tokenizer, self._recipe, rng, self._targets
        )

    def weight(self, part: Sequence[Sample]) -> float:
        """Return the sum of the weights of both losses."""
        return sum(sum(self._weights(sample)) for sample in part)

    def _weights(self, sample: Sample) -> tuple[float, float]:
        """Return the weights of a sample's label and of its target."""
        soft = 0.0 if sample.target is None else self._recipe.soft_share
        return (1 - soft) * self.class_weights[sample.label], soft

    def loss(self, part: Sequence[Sample]) -> Tensor:
        """Return the weighted mean of both losses."""
        batch = PackedBatch.pack([s.ids for s in part], self._masking.pad_token_id, self._device)
        if self._recipe.token_dropout:
            batch = self._masking.drop(
                batch, self._recipe.token_dropout, self._recipe.unknown_share
            )
        logits = self.module(batch).float()
        labels = torch.tensor([sample.label for sample in part]).to(self._device)
        none = (0.0,) * logits.shape[1]
        targets = torch.tensor([sample.target or none for sample in part]).to(self._device)
        hard, soft = torch.tensor([self._weights(s) for s in part]).to(self._device).unbind(1)
        softness = self._recipe.soft_temperature
        # The gradient shrinks with the square of the temperature, which the factor undoes.
        far = F.cross_entropy(
            logits / softness, F.softmax(targets / softness, dim=1), reduction="none"
        ) * (softness * softness)
        near = F.cross_entropy(logits, labels, reduction="none")
        return (hard * near + soft * far).sum() / (hard + soft).sum()


class Masking:
    """Hides tokens of a packed batch, never ``<s>``, ``<pad>`` or ``</s>``."""

    def __init__(self, tokenizer: Tokenizer, config: ModelConfig) -> None:
        """Learn the tokenizer's special ids."""
        self.pad_token_id = config.pad_token_id
        self._vocab_size = tokenizer.get_vocab_size()
        self._mask_id, self._unk_id = special_id(tokenizer, MASK), special_id(tokenizer, UNK)
        unmasked = [special_id(tokenizer, name) for name in (BOS, PAD, EOS)]
        self._unmasked = torch.tensor(unmasked)

    def mask(self, batch: PackedBatch, share: float) -> tuple[PackedBatch, Tensor]:
        """Choose a ``share`` of the tokens: 80 % become ``<mask>``, 10 % a random token, 10 % stay.

        Returns the changed batch and the chosen tokens (bool ``[tokens]``). The proportions are
        BERT's (https://arxiv.org/abs/1810.04805, 3.1).
        """
        ids = batch.input_ids
        chosen = self._choose(ids, share)
        fate = torch.rand(ids.shape, device=ids.device)
        random_ids = torch.randint_like(ids, self._vocab_size)
        masked = torch.where(chosen & (fate < 0.8), self._mask_id, ids)
        masked = torch.where(chosen & (fate >= 0.9), random_ids, masked)
        return dataclasses.replace(batch, input_ids=masked), chosen

    def drop(self, batch: PackedBatch, share: float, unknown: float = 0.0) -> PackedBatch:
        """Replace a ``share`` of the tokens by ``<mask>``, and a share by ``<unk>``."""
        ids = batch.input_ids
        dropped = torch.where(self._choose(ids, share), self._mask_id, ids)
        if unknown:
            dropped = torch.where(self._choose(ids, unknown), self._unk_id, dropped)
        return dataclasses.replace(batch, input_ids=dropped)

    def _choose(self, ids: Tensor, share: float) -> Tensor:
        special = torch.isin(ids, self._unmasked.to(ids.device))
        return (torch.rand(ids.shape, device=ids.device) < share) & ~special


def class_weights(labels: Sequence[int], recipe: Recipe) -> tuple[float, ...]:
    """Return a weight for each label: the recipe's, or a larger one for a rarer label.

    The inverse frequency itself would let the few spam texts dominate, so it is raised to a power
    below 1. A label without texts has weight 1.
    """
    if recipe.class_weights is not None:
        return recipe.class_weights
    counts = np.bincount(labels, minlength=len(LABELS))
    shares = counts / max(1, counts.max())
    weights = np.where(counts > 0, np.maximum(shares, 1e-9) ** -recipe.class_weight_power, 1.0)
    return tuple(round(float(weight), 4) for weight in weights)
