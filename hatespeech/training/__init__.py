"""What ``train.py`` is made of: data, tokenizer, stages of training, evaluation, model card."""
