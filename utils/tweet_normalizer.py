"""``utils.tweet_normalizer.normalize_tweet``: where the first version had it."""

from hatespeech.text.normalizer import NORMALIZER_VERSION, normalize_tweet

__all__ = ["NORMALIZER_VERSION", "normalize_tweet"]
