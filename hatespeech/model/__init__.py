"""The network in plain torch, and the folder that its weights come from.

    network.py       RoBERTa and the classification head
    packing.py       the sequences of a batch end to end, without padding between them
    prepared.py      a model for inference on a CPU: oneDNN's order, one call of TorchScript
    threads.py       how threads share a product, a pass, or several passes
    int8.py          products in int8 on CPUs: weights by output, activations by token
    identity.py      a model's id and the thresholds that it recommends, without torch
    checkpoint.py    the checkpoint folder: describe, load, save, verify
    hub_cache.py     checkpoint folders in caches of Hugging Face's hub

Nothing here knows settings, requests or HTTP.
"""
