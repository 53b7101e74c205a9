"""Training, ``train.py``: labelled texts in, a checkpoint folder out.

    command.py             the command line, and the order of the stages
    recipe.py              hyper-parameters of each kind of training
    session.py             one training, stage by stage, each resumable
    loop.py                the loop: optimiser, schedule, saved state, interruption
    stages.py              what a stage trains: masked-language modelling, classification

    corpus.py              reads the labelled TSV files
    functional.py          invented texts about groups, from the templates of functional.toml
    disguise.py            hides words by their spelling, in texts of all labels
    undisguise.py          what the student's tokenizer undoes of that
    foreign.py             harmless texts in other languages, from foreign.toml
    sequences.py           from texts to token ids and batches; makes long texts
    vocabulary.py          trains a tokenizer; the special tokens
    words.py               the words of a corpus, for the fold of disguised texts

    initial_models.py      where a model starts: fresh weights, or a pre-trained RoBERTa or BERT
    compression.py         cuts a small student out of a teacher

    evaluation.py          predictions, and how well hate is told from the rest
    model_card.py          the card, README.md of the checkpoint folder
    checkpoint_writer.py   keeps the best weights, writes the finished folder
    mini.md                the embedded checkpoint's part of its card

A finished folder has the form of :mod:`hatespeech.model.checkpoint`.
"""

from __future__ import annotations


class TrainingError(Exception):
    """Training can't start or continue.

    The message is one line, names the file, line or field, and never quotes a text.
    """
