"""``utils.custom_model.CustomModel``: the class that the published checkpoint names."""

from hatespeech.model.network import CustomModel, ModelConfig

__all__ = ["CustomModel", "ModelConfig"]
