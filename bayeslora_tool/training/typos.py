"""Texts as people type them: small, seeded slips. Knows no file, no tokenizer, no model."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")  # letters, with apostrophes inside
# A slip here could change what is asked, and with it the right label.
_KEPT = {
    "no", "not", "nor", "never", "none", "nothing", "cannot", "without", "zero", "one", "two",
    "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "hundred",
    "thousand", "million", "first", "second", "third", "am", "pm",
    "dont", "cant", "wont", "isnt", "arent", "wasnt", "doesnt", "didnt", "havent", "hasnt",
    "couldnt", "wouldnt", "shouldnt",
}  # fmt: skip
_INSTEAD: dict[str, tuple[str, ...]] = {  # words that sound alike, and short forms of chats
    word: tuple(others.split())
    for word, others in {
        "their": "there they're thier", "there": "their they're", "they're": "their there",
        "your": "you're ur", "you're": "your ur", "you": "u ya", "are": "r", "its": "it's",
        "it's": "its", "too": "to", "to": "too", "hear": "here", "here": "hear", "right": "write",
        "write": "right", "buy": "by", "by": "buy", "than": "then", "then": "than",
        "where": "were wear", "were": "where", "weather": "whether wether", "whether": "weather",
        "whose": "who's", "who's": "whose", "piece": "peace", "whole": "hole", "week": "weak",
        "new": "knew", "know": "kno", "see": "sea", "would": "wood wud", "could": "cud",
        "mail": "male", "sale": "sail", "brake": "break", "check": "cheque chek", "pair": "pear",
        "meet": "meat", "meat": "meet", "flour": "flower", "fare": "fair", "fair": "fare",
        "great": "grate", "made": "maid", "hour": "our", "our": "hour", "road": "rode",
        "steel": "steal", "plane": "plain", "through": "thru", "though": "tho", "please": "plz pls",
        "thanks": "thx", "people": "ppl", "because": "cuz bc", "tomorrow": "tmrw tomorow",
        "what": "wat wut", "what's": "whats wats", "want": "wanna", "going": "goin", "with": "w/",
        "about": "abt", "message": "msg", "account": "acct acount", "really": "rly realy",
        "should": "shud", "tell": "tel", "okay": "ok", "definitely": "definately",
        "receive": "recieve", "calendar": "calender", "restaurant": "restaraunt",
    }.items()
}  # fmt: skip
_FILLERS = ("um", "uh", "hey", "so", "well", "ok", "like", "please", "plz", "lol", "hmm", "just",
            "you know", "i mean", "hi", "oh")  # fmt: skip
_AT_ENDS = (".", "..", "...", "!", "??", " thanks", " thx", " please", " plz", " pls")


def _neighbours() -> dict[str, str]:
    place = {key: (x + y / 2, y) for y, row in enumerate(_ROWS) for x, key in enumerate(row)}
    return {
        key: "".join(
            k for k, (u, v) in place.items() if k != key and abs(u - x) <= 1 and abs(v - y) <= 1
        )
        for key, (x, y) in place.items()
    }


_NEAR = _neighbours()


def mistype(text: str, rng: Random, edits: int = 1) -> str:
    """The text with so many slips of one kind or another.

    Words with digits, numbers and negations stay as they are. A text in which no slip finds a place
    stays as it is.

    Args:
        text: In an alphabet with spaces; the neighbours of keys are those of an English keyboard.
        rng: Decides kinds and places.
        edits: Slips, >= 0.
    """
    for _ in range(edits):
        kinds = list(_KINDS)
        while kinds:
            kind = rng.choices(kinds, [_KINDS[k] for k in kinds])[0]
            changed = kind(text, rng)
            if changed is not None and changed != text:
                text = changed
                break
            kinds.remove(kind)
    return text


def mistype_one(text: str, share: float, seed: str, edits: int | None = None) -> str:
    """The text, mistyped with a probability of ``share``.

    Args:
        text: See :func:`mistype`.
        share: In [0, 1].
        seed: Decides all; the same text and seed give the same slips in each process.
        edits: Slips; None: one, or two in a third of the cases.
    """
    rng = Random(seed)
    if not rng.random() < share:
        return text
    return mistype(text, rng, edits if edits is not None else 1 + (rng.random() < 1 / 3))


def mistype_share(
    texts: Sequence[str], share: float, seed: int, edits: int | None = 1
) -> list[str]:
    """The texts, each mistyped with a probability of ``share``; see :func:`mistype_one`."""
    return [mistype_one(text, share, f"{seed} {place}", edits) for place, text in enumerate(texts)]


def _words(text: str) -> list[re.Match[str]]:
    return [word for word in _WORD.finditer(text) if not _is_kept(text, word)]


def _is_kept(text: str, word: re.Match[str]) -> bool:
    written = word[0].casefold()
    return written in _KEPT or written.endswith("n't") or _touches_a_digit(text, word)


def _touches_a_digit(text: str, word: re.Match[str]) -> bool:
    around = text[max(word.start() - 1, 0) : word.start()] + text[word.end() : word.end() + 1]
    return any(character.isdigit() for character in around)


def _letter(text: str, rng: Random, least: int = 2) -> int | None:
    """The place of a letter, each of those in words of so many letters being as likely."""
    places = [
        i
        for word in _words(text)
        if word.end() - word.start() >= least
        for i in range(word.start(), word.end())
        if text[i] != "'"
    ]
    return rng.choice(places) if places else None


def _neighbour(text: str, rng: Random) -> str | None:
    i = _letter(text, rng)
    if i is None or text[i].lower() not in _NEAR:
        return None
    key = rng.choice(_NEAR[text[i].lower()])
    return text[:i] + (key.upper() if text[i].isupper() else key) + text[i + 1 :]


def _added(text: str, rng: Random) -> str | None:
    """A key hit together with its neighbour."""
    i = _letter(text, rng)
    if i is None or text[i].lower() not in _NEAR:
        return None
    after = i + rng.randrange(2)
    return text[:after] + rng.choice(_NEAR[text[i].lower()]) + text[after:]


def _dropped(text: str, rng: Random) -> str | None:
    i = _letter(text, rng)
    return None if i is None else text[:i] + text[i + 1 :]


def _doubled(text: str, rng: Random) -> str | None:
    i = _letter(text, rng)
    return None if i is None else text[:i] + text[i] + text[i:]


def _swapped(text: str, rng: Random) -> str | None:
    pairs = [
        i
        for word in _words(text)
        for i in range(word.start(), word.end() - 1)
        if text[i] != text[i + 1]
    ]
    if not pairs:
        return None
    i = rng.choice(pairs)
    return text[:i] + text[i + 1] + text[i] + text[i + 2 :]


def _no_apostrophe(text: str, rng: Random) -> str | None:
    # Of negations, too: "dont" says what "don't" says.
    places = [m.start() + m[0].index("'") for m in _WORD.finditer(text) if "'" in m[0]]
    if not places:
        return None
    i = rng.choice(places)
    return text[:i] + text[i + 1 :]


def _no_space(text: str, rng: Random) -> str | None:
    """Two words run together, neither of which is to be kept."""
    words = _words(text)
    gaps = [a.end() for a, b in pairwise(words) if text[a.end() : b.start()] == " "]
    if not gaps:
        return None
    i = rng.choice(gaps)
    return text[:i] + text[i + 1 :]


def _split(text: str, rng: Random) -> str | None:
    """A space too many, or one letter too early or too late."""
    inside = [i for word in _words(text) for i in range(word.start() + 1, word.end())]
    inside = [i for i in inside if "'" not in text[i - 1 : i + 1]]
    if not inside:
        return None
    i = rng.choice(inside)
    return text[:i] + " " + text[i:]


def _cased(text: str, rng: Random) -> str | None:
    words = _words(text)
    how: Sequence[Callable[[str], str]] = (str.upper, str.lower, str.capitalize, str.swapcase)
    if not words:
        return None
    if rng.random() < 0.3:
        return rng.choice(how)(text)
    word = rng.choice(words)
    return text[: word.start()] + rng.choice(how)(word[0]) + text[word.end() :]


def _filled(text: str, rng: Random) -> str | None:
    if rng.random() < 0.3:
        return text + rng.choice(_AT_ENDS)
    starts = [m.start() for m in _WORD.finditer(text) if not _touches_a_digit(text, m)]
    i = rng.choice(starts) if starts else 0
    return f"{text[:i]}{rng.choice(_FILLERS)} {text[i:]}"


def _otherwise(text: str, rng: Random) -> str | None:
    """A word written as another that sounds alike, or short."""
    words = [word for word in _words(text) if word[0].lower() in _INSTEAD]
    if not words:
        return None
    word = rng.choice(words)
    return text[: word.start()] + rng.choice(_INSTEAD[word[0].lower()]) + text[word.end() :]


Kind = Callable[[str, Random], str | None]
# Each kind with its weight: slips of the fingers are the most frequent, and the hardest to read.
_KINDS: dict[Kind, float] = {
    _neighbour: 4, _swapped: 4, _dropped: 4, _doubled: 2, _added: 2, _no_space: 1, _split: 0.5,
    _no_apostrophe: 1, _otherwise: 1, _cased: 0.5, _filled: 1,
}  # fmt: skip
