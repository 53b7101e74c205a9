"""What ``train.py`` is made of: data, tokenizer, stages of training, evaluation, model card."""

from __future__ import annotations


class TrainingError(Exception):
    """Training cannot start or go on; one line that names file, line or field, never a text."""
