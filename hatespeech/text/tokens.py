"""The tokens of NLTK 3.5's ``TweetTokenizer``, in linear time.

NLTK matches one large regular expression at every token. Five of its alternatives look ahead
without a limit: URLs with and without a scheme, domain names, HTML tags and e-mail addresses. If
they fail, they look again from the next token, so that ``"a." * 5000`` takes quadratic time. Here
`_LongTokens` finds these five beforehand: from what must end them (``.com/``, ``.com``, ``>``,
``@host.com``) it goes back to where they may start, reading each character once. `_SHORT` is the
rest of the expression, in NLTK's order; its alternatives read a character a bounded number of
times.

The classes ``\\w``, ``\\s`` and ``\\d`` are those of the ``regex`` package, as in NLTK 3.5. They
differ from those of ``re`` in combining marks, joiners and U+001C to U+001F, and they change with
the pinned package, not with Python. On ASCII text both packages agree, and ``re`` is faster.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator
from html.entities import name2codepoint

import regex

ENTITY = regex.compile(r"&(#?(x?))([^&;\s]++);")
_LONG_REPEAT = re.compile(r"([^a-zA-Z0-9])\1{3,}")

_PHONE = r"(?=[+(\d]) (?:\+?[01][ *\-.)]*)? (?:\(?\d{3}[ *\-.)]*)? \d{3}[ *\-.)]*\d{4}"
_EMOTICON = r"""
    [<>]?[:;=8][\-oO*']?[)\](\[dDpP/:}{@|\\]
  | [)\](\[dDpP/:}{@|\\][\-oO*']?[:;=8][<>]?
  | <3
"""
_SHORT_TOKEN = rf"""
    [^\W\d_]++(?![\w'\-:;=8*])            # for speed: letters that no alternative below extends
  | {_PHONE}
  | {_EMOTICON}
  | -+>|<-+                               # arrows
  | @\w+                                  # mentions
  | \#+\w[\w'\-]*\w                       # hashtags
  | [^\W\d_](?:(?!\d)[\w'\-])+[^\W\d_]    # words with apostrophes or dashes
  | [+\-]?\d+[,/.:-]\d+[+\-]?             # fractions, decimals, times
  | \w+
  | \.(?:\s*\.)+                          # ellipses
  | \S
"""
_SHORT = regex.compile(_SHORT_TOKEN, regex.VERBOSE)
_SHORT_IN_ASCII = re.compile(_SHORT_TOKEN, re.VERBOSE | re.ASCII)
_PHONE_OR_EMOTICON = regex.compile(f"{_PHONE}|{_EMOTICON}", regex.VERBOSE)
EMOTICON = regex.compile(_EMOTICON, regex.VERBOSE)

# NLTK ignores case, and `regex` then takes these three for an i, an s and a k.
_LETTER = "a-zA-Z\u0130\u017f\u212a"
_ALNUM = f"{_LETTER}0-9"

# Most tweets hold nothing that could end a long token or begin a URL's scheme.
_LONG_TOKEN_HINT = re.compile(r"\.[^\s.]|:[^\s()]|>")
# What ends a long token, and the run before it in which the token may start, read leftwards (?r).
# A domain's run never has two dots or dashes together. A repeated group could say so, but `regex`
# takes quadratic time to read one leftwards.
_DOMAIN = (
    regex.compile(rf"\.(?<=[{_ALNUM}]\.)[{_LETTER}]{{2,13}}+(?!\w)(?:/(?!@)|(?!@))"),
    regex.compile(rf"(?r)(?<![{_ALNUM}])(?<![{_ALNUM}][.\-])[{_ALNUM}][{_ALNUM}.\-]*?"),
)
_DOMAIN_SLASH = (
    regex.compile(rf"\.[{_LETTER}]{{2,13}}+/"),
    regex.compile(rf"(?r)[{_ALNUM}.\-]++"),
)
_EMAIL = (
    regex.compile(r"@[\w\-]++\.[\w\-](?:\.?[\w\-])++"),
    regex.compile(r"(?r)[\w.+\-]++"),
)
_TAG = (
    regex.compile(r">"),
    regex.compile(r"(?r)[^>\s]++"),
)

# After its scheme or domain a URL is `(?: X+ | PAIR | \(\S+?\) )+ (?: PAIR | \(\S+?\) | Z )`.
_URL_SCHEME = regex.compile(rf"[hH][tT][tT][pP][sS\u017f]?:(?=[/{_ALNUM}%])")
_NOT_X = r"\s()<>{}\[\]"
_NOT_Z = r"`!;:'\".,?«»“”‘’"
_URL_RUN = regex.compile(rf"[^{_NOT_X}]++")
_URL_RUN_TO_LAST_Z = regex.compile(rf"[^{_NOT_X}]*[^{_NOT_X}{_NOT_Z}]")
_URL_PAIR = regex.compile(r"\([^\s()]*+\([^\s()]++\)[^\s()]*+\)")
_URL_CLOSER = regex.compile(rf"\)(?=[{_NOT_Z}]*+(?:[^{_NOT_X}]|\(\S+?\)))")
_STRETCH = regex.compile(r"\S++")


def tokenize(text: str) -> list[str]:
    """Split a text as ``TweetTokenizer().tokenize`` of NLTK 3.5 does.

    HTML entities are decoded. Four or more of one character become three, unless it is an ASCII
    letter or digit. White space separates tokens, but phone numbers and ellipses may hold some.
    An entity beyond Unicode, for which NLTK 3.5 raises an exception, is removed.
    """
    if "&" in text:
        text = ENTITY.sub(decode_entity, text)
    text = _LONG_REPEAT.sub(r"\1\1\1", text)
    short = _SHORT_IN_ASCII if text.isascii() else _SHORT
    if not _LONG_TOKEN_HINT.search(text):
        return short.findall(text)
    long_tokens = _LongTokens(text)
    tokens: list[str] = []
    position, end = 0, -1
    while end:
        end = 0
        for match in short.finditer(text, position):
            start = match.start()
            if start in long_tokens.starts and (end := long_tokens.end(start)):
                tokens.append(text[start:end])
                position = end
                break
            tokens.append(match.group())
    return tokens


def decode_entity(entity: regex.Match[str]) -> str:
    """Return an HTML entity's character, which may be a lone surrogate; empty if it has none."""
    number_sign, hexadecimal, body = entity.groups()
    if not number_sign:
        return chr(name2codepoint[body]) if body in name2codepoint else ""
    try:
        number = int(body, 16 if hexadecimal else 10)
        # Browsers and NLTK read these as Windows-1252.
        return bytes([number]).decode("cp1252") if 0x80 <= number <= 0x9F else chr(number)
    except (ValueError, OverflowError):
        return ""


class _LongTokens:
    """Where the tokens that `_SHORT` leaves out may start in one text, and where they end.

    Such a token may start at any position of its run; the tokens before it decide at which one it
    does.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._url_bodies: dict[int, int] = {}
        self._domains: dict[int, int] = {}
        self._tags_and_emails: dict[int, int] = {}
        if ":" in text:
            # The scheme includes one more letter or slash; further slashes may begin the body.
            self._url_bodies = {m.start(): m.end() + 1 for m in _URL_SCHEME.finditer(text)}
        if "." in text:
            self._find_domains()
            if "@" in text:
                for first, last, end in _runs(text, *_EMAIL):
                    self._tags_and_emails.update(dict.fromkeys(range(first, last), end))
        if "<" in text:
            for first, last, end in _runs(text, *_TAG):
                self._tags_and_emails.update(
                    (start, end) for start in range(first, last - 1) if text[start] == "<"
                )
        self.starts = {*self._url_bodies, *self._domains, *self._tags_and_emails}
        self._no_body = -1
        # The stretch without white space in which `_url_end` worked last.
        self._stretch_end = 0
        self._last_closer = -1
        self._closers: list[int] = []

    def _find_domains(self) -> None:
        for first, last, end in _runs(self._text, *_DOMAIN):
            # In "@mail.com" a domain cannot start at the m, but it may start at the a.
            after_at = first > 0 and self._text[first - 1] == "@"
            self._domains.update(
                (start, end)
                for start in range(first + 1 if after_at else first, last)
                if self._text[start] not in ".-"
            )
        if "/" in self._text:
            for first, last, end in _runs(self._text, *_DOMAIN_SLASH):
                self._url_bodies.update(dict.fromkeys(range(first, last), end))

    def end(self, start: int) -> int:
        """Return the end of the long token that starts at `start`, or 0 if none does.

        Calls for the starts of tokens in their order take linear time in total.
        """
        body = self._url_bodies.get(start, self._no_body)
        if body != self._no_body:
            if end := self._url_end(body):
                return end
            # The next tokens cannot start a URL with the same body either.
            self._no_body = body
        if start in self._domains:
            return self._domains[start]
        if _PHONE_OR_EMOTICON.match(self._text, start):
            return 0
        return self._tags_and_emails.get(start, 0)

    def _url_end(self, body: int) -> int:
        """Return the end of the URL whose part after the scheme or domain begins at `body`, or 0.

        This is what a backtracking engine finds first, but without backtracking: take a run of X
        or a parenthesis if the expression can still end after it. After a run it can if a
        parenthesis opens there and is closed anywhere. After a parenthesis it can if the next run
        holds a Z or another such parenthesis follows (`_URL_CLOSER`).
        """
        text = self._text
        self._enter_stretch(body)
        position = body
        while True:
            opener = _after(_URL_RUN, text, position)
            if self._last_closer < opener + 2 or text[opener] != "(":
                if opener == body:
                    return 0
                to_last_z = _URL_RUN_TO_LAST_Z.match(text, max(position, body + 1))
                return to_last_z.end() if to_last_z else 0
            pair = _URL_PAIR.match(text, opener)
            if pair and self._first_closer(pair.end() - 1) == pair.end() - 1:
                position = pair.end()
                continue
            closer = self._first_closer(opener + 2)
            if closer < 0:
                if opener == body:
                    return 0
                return pair.end() if pair else text.index(")", opener + 2) + 1
            position = closer + 1

    def _first_closer(self, position: int) -> int:
        index = bisect_left(self._closers, position)
        return self._closers[index] if index < len(self._closers) else -1

    def _enter_stretch(self, position: int) -> None:
        if position >= self._stretch_end:
            self._stretch_end = end = _after(_STRETCH, self._text, position)
            self._last_closer = self._text.rfind(")", position, end)
            self._closers = [m.start() for m in _URL_CLOSER.finditer(self._text, position, end)]


def _after(pattern: regex.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def _runs(
    text: str, ending: regex.Pattern[str], run: regex.Pattern[str]
) -> Iterator[tuple[int, int, int]]:
    """Yield each maximal run before an ending: its start, the ending's start, the ending's end.

    If a run has several endings, the last one counts, as in a greedy match.
    """
    first = len(text)
    for match in reversed(list(ending.finditer(text))):
        if match.start() < first and (before := run.match(text, 0, match.start())):
            first = before.start()
            yield first, match.start(), match.end()
