"""The protocols that ``COMPAT`` may name, and their routes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from fastapi import APIRouter

from hatespeech.serving.compat.huggingface import HuggingFace, huggingface_routes
from hatespeech.serving.compat.litellm import LiteLLM, litellm_routes
from hatespeech.serving.compat.mapping import load_meanings
from hatespeech.serving.compat.openai import OpenAI, openai_routes
from hatespeech.serving.compat.perspective.google import Perspective
from hatespeech.serving.compat.perspective.routes import perspective_routes
from hatespeech.serving.compat.protocol import Protocol, Shared
from hatespeech.serving.guards.limits import CallerRates
from hatespeech.serving.metrics import Metrics
from hatespeech.serving.settings import ServerSettings

SERVED: Final[Mapping[str, tuple[type[Protocol], Callable[[Shared], APIRouter]]]] = {
    "perspective": (Perspective, perspective_routes),
    "openai": (OpenAI, openai_routes),
    "huggingface": (HuggingFace, huggingface_routes),
    "litellm": (LiteLLM, litellm_routes),
}


def served_protocols(settings: ServerSettings) -> Sequence[Protocol]:
    """Return the protocols that the settings name."""
    return [SERVED[name][0]() for name in settings.protocols]


def protocol_routes(
    settings: ServerSettings, metrics: Metrics, rates: CallerRates
) -> Sequence[APIRouter]:
    """Return their routes; raise :class:`SettingsError` for a file that can't be used."""
    shared = Shared(settings, metrics, rates, load_meanings(settings.compat_mapping))
    return [SERVED[name][1](shared) for name in settings.protocols]
