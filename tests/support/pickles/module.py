"""Saves whole modules as the published checkpoint was saved, with today's torch and transformers.

Run in a process of its own: the class is pickled as `utils.custom_model.CustomModel`, so it
stands in for the service's module of that name, and a plain `torch.load` runs what it loads.

    python -m tests.support.pickles.module variants DIRECTORY PUBLISHED...
    python -m tests.support.pickles.module (medium | full) FILE
"""

import argparse
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from transformers import RobertaConfig, RobertaModel

from tests.support.pickles.variants import VARIANTS


class CustomModel(nn.Module):
    """The published module: an encoder and a head."""

    def __init__(self, config: RobertaConfig, classifier_size: int) -> None:
        super().__init__()
        self.model = RobertaModel(config)
        self.linear1 = nn.Linear(config.hidden_size, classifier_size)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(0.3)
        self.linear2 = nn.Linear(classifier_size, 4)


def pose_as_published() -> None:
    module = types.ModuleType("utils.custom_model")
    CustomModel.__module__ = module.__name__
    module.__dict__["CustomModel"] = CustomModel
    sys.modules[module.__name__] = module


# Vocabulary, hidden size, layers, heads, feed-forward size, positions, classifier.
SIZES = {
    "tiny": (60, 16, 2, 4, 32, 20, 8),
    "medium": (20000, 512, 4, 8, 2048, 514, 256),
    "full": (50265, 1024, 24, 16, 4096, 514, 512),
}


def build(size: str) -> CustomModel:
    vocabulary, hidden, layers, heads, feed_forward, positions, classifier = SIZES[size]
    config = RobertaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=feed_forward,
        max_position_embeddings=positions,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    return CustomModel(config, classifier).eval()


def tied(model: CustomModel) -> CustomModel:
    prefix = "model.encoder.layer.0.attention.self"
    model.get_submodule(f"{prefix}.key").weight = model.get_parameter(f"{prefix}.query.weight")
    return model


def strided(model: CustomModel) -> CustomModel:
    """`linear1` as every other column of a matrix, from the second on; its bias lies there too."""
    matrix = torch.randn(16, 16)
    model.linear1.weight = nn.Parameter(matrix[:, 1::2].t())
    model.linear1.bias = nn.Parameter(matrix[3, 2:10])
    return model


def data_parallel(model: CustomModel) -> nn.Module:
    parallel = nn.DataParallel(model)
    # What it holds where there are GPUs.
    parallel.device_ids = [0, 1]
    parallel.output_device = 0
    parallel.src_device_obj = torch.device("cuda", 0)
    return parallel


def with_attributes(model: CustomModel) -> CustomModel:
    for parameter in model.parameters():
        parameter._is_hf_initialized = True  # type: ignore[attr-defined]  # as transformers does
    return model


CHANGES: dict[str, Callable[[CustomModel], nn.Module]] = {
    "eval": lambda model: model,
    "train": lambda model: model.train(),
    "half": lambda model: model.half(),
    "bfloat16": lambda model: model.bfloat16(),
    "tied": tied,
    "strided": strided,
    "data_parallel": data_parallel,
    "attributes": with_attributes,
    "cuda": lambda model: model,
}


def save_variants(directory: Path, published: list[Path]) -> None:
    """Write each variant in both formats; and the state dicts of those and of `published`."""
    for name in VARIANTS:
        torch.manual_seed(len(name))
        model = CHANGES[name](build("tiny"))
        tag = "cuda:0" if name in ("cuda", "data_parallel") else "cpu"
        with mock.patch("torch.serialization.location_tag", return_value=tag):
            torch.save(model, directory / f"{name}_zip.pt")
            with warnings.catch_warnings():
                # torch cannot find the source of a class that is not where it says.
                warnings.simplefilter("ignore", UserWarning)
                torch.save(
                    model, directory / f"{name}_legacy.pt", _use_new_zipfile_serialization=False
                )
        torch.save(dict(model.state_dict()), directory / f"{name}.state_dict")
    for path in published:
        model = torch.load(path, weights_only=False)
        torch.save(dict(model.state_dict()), directory / f"{path.stem}.state_dict")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("variants", "medium", "full"))
    parser.add_argument("paths", nargs="+", type=Path)
    args = parser.parse_args()
    pose_as_published()
    if args.what == "variants":
        save_variants(args.paths[0], args.paths[1:])
    else:
        torch.save(build(args.what), args.paths[0])


if __name__ == "__main__":
    main()
