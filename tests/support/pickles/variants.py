"""The ways of saving a module that `pickled_module` knows; apart, for it imports transformers."""

VARIANTS = (
    "eval",
    "train",
    "half",
    "bfloat16",
    "tied",
    "strided",
    "data_parallel",
    "attributes",
    "cuda",
)
