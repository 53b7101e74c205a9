"""A raw tweet to the text that BERTweet was trained on."""
