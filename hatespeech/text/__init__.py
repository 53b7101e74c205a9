"""From a raw tweet to the text that BERTweet was trained on, and from a disguised to a plain one.

    normalizer.py      normalize_tweet: placeholders, emoji names, contractions
    tokens.py          the tokens of NLTK 3.5's TweetTokenizer, in linear time
    emoji_names.tsv    the name of each emoji character, as in ``emoji`` 0.6.0
    readable.py        how much of a text a checkpoint's scripts and vocabulary cover
    language.py        which language a text is in
    folding.py         fold: a disguised text in the spelling that a person reads
    lookalikes.py      the Latin letter that a character looks like
    spellings.py       the word that an odd spelling stands for
    words.txt          the words that this knows, the most frequent first

Nothing here knows the model.
"""
