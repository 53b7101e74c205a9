"""Scores tweets: hate, abusing, neutral, spam."""
