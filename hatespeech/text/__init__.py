"""From a raw tweet to the text that BERTweet was trained on.

    normalizer.py      normalize_tweet: placeholders, emoji names, contractions
    tokens.py          the tokens of NLTK 3.5's TweetTokenizer, in linear time
    emoji_names.tsv    the name of each emoji character, as in ``emoji`` 0.6.0
    readable.py        how much of a text a checkpoint's scripts and vocabulary cover
    language.py        which language a text is in

Nothing here knows the model.
"""
