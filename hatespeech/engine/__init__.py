"""From texts to scores on one device, for one caller or many.

    predictor.py     one model on one device: texts in, predictions out
    encoder.py       a text as token ids in windows, without torch
    spans.py         words and windows as places in the text that was sent
    explanation.py   how much of a score each word carries
    device.py        one pass at a time, and what follows one that fails
    batcher.py       many callers share the device: the reader thread and the device threads
    pass_size.py     how many tokens the next pass may read
    queues.py        turns among requests, and a bound on the texts that wait
    audit.py         a line for each decision, in a file
    scorer.py        a request in, a reply out: what every front calls

Nothing here knows which front calls it.
"""
