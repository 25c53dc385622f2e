"""Yes and no in the words of users: whole answers in ten languages, and nothing that says more.

A "no" that is missed is scored like any text. A "yes" that is none carries out an act, so only what
means yes wherever it is said counts: not Polish "tak" (Malay: no), not Italian "fallo" (Spanish:
failure), not "bitte", "danke" or "merci", which decline as often as they accept.
"""

from __future__ import annotations

import re
import unicodedata

_YES = (
    r"(?:yes|yeah|yep|yup|ok|okay|sure|alright|right|correct|exactly|please|confirmed|i confirm|"
    r"go ahead|go for it|do it|do so|do that|please do|sounds good|thats (?:right|it))"
)
_ASSENTS = re.compile(rf"{_YES}(?: {_YES}| thank you| thanks)*")
_THESE = r"(?: of (?:these|those|them|the two|the above))?"
_DECLINES = re.compile(
    r"(?:(?:no|nope|nah|sorry|well) )*"
    rf"(?:no|nope|nah|neither(?: one)?{_THESE}|none{_THESE}|not (?:these|those|either|any){_THESE}|"
    r"(?:its |it is )?something (?:else|different)|never ?mind)"
    r"(?: (?:sorry|thanks|thank you))?"
)

_OTHERS_ASSENT = """
es: sí, sí por favor, sí gracias, claro, claro que sí, por supuesto, de acuerdo, correcto, exacto,
    adelante, sí adelante, hágalo, hazlo, sí hágalo, sí hazlo, confirmo, sí confirmo
fr: oui, oui merci, oui s'il vous plaît, oui s'il te plaît, oui svp, bien sûr, oui bien sûr,
    d'accord, oui d'accord, exactement, tout à fait, allez y, oui allez y, vas y, oui vas y,
    faites le, oui faites le, fais le, oui fais le, je confirme, oui je confirme
de: ja, ja bitte, ja gerne, ja gern, ja danke, ja genau, jawohl, genau, richtig, ja richtig, stimmt,
    einverstanden, ja einverstanden, in ordnung, natürlich, ja natürlich, mach das, mach es,
    ja mach das, ja mach es, machen sie das, machen sie es, ja machen sie das, nur zu,
    ich bestätige, ja ich bestätige
pt: sim, sim por favor, sim obrigado, sim obrigada, sim claro, com certeza, isso mesmo,
    está bem, pode fazer, sim pode fazer, pode prosseguir, sim pode prosseguir, faça isso,
    sim faça isso, sim confirmo
it: sì, sì grazie, sì per favore, sì certo, certo, certamente, va bene, sì va bene, d'accordo,
    esatto, proceda, sì proceda, sì procedi, lo faccia, sì lo faccia, sì confermo
nl: ja graag, ja hoor, ja natuurlijk, ja zeker, ja klopt, dat klopt, akkoord, doe maar, ja doe maar,
    doe het, ja doe het, doe dat maar, ja doe dat maar, ga je gang, ja ga je gang, natuurlijk
pl: tak proszę, tak dziękuję, tak oczywiście, oczywiście, tak zgadza się, zgadza się, zgoda,
    tak zgoda, proszę to zrobić, tak proszę to zrobić, potwierdzam, tak potwierdzam
zh: 是的, 是的谢谢, 是的謝謝, 对, 對, 对的, 對的, 好, 好的, 好的谢谢, 好的謝謝, 可以, 可以的,
    没错, 沒錯, 同意, 我同意
ja: はい, はいお願いします, お願いします, はいそうです, そうです, はいそうしてください,
    そうしてください
"""

_OTHERS_DECLINE = """
es: no, no gracias, ninguno, ninguna, ninguno de los dos, ninguna de las dos, ninguno de estos,
    ninguna de estas, ninguno de ellos, ninguna de ellas, no ninguno, no ninguna, nada de eso,
    ni uno ni otro, ni lo uno ni lo otro, otra cosa, es otra cosa, algo diferente, olvídalo
fr: non, non merci, aucun, aucune, aucun des deux, aucune des deux, non aucun des deux,
    ni l'un ni l'autre, ni l'une ni l'autre, rien de tout ça, rien de tout cela, autre chose,
    c'est autre chose, laissez tomber, laisse tomber
de: nein, nein danke, nee, keins, keines, keine, keins von beiden, keines von beiden,
    keine von beiden, nein keins von beiden, weder noch, keins davon, keines davon, keine davon,
    nichts davon, etwas anderes, was anderes, vergiss es, vergessen sie es
pt: não, não obrigado, não obrigada, nenhum, nenhuma, nenhum dos dois, nenhuma das duas,
    nenhum deles, nenhuma delas, nem um nem outro, outra coisa, é outra coisa, deixa pra lá,
    esqueça, esquece
it: no, no grazie, nessuno, nessuna, nessuno dei due, nessuna delle due, nessuno di questi,
    nessuna di queste, né l'uno né l'altro, qualcos'altro, un'altra cosa, altro, lascia stare,
    lasci stare, lascia perdere, lasci perdere
nl: nee, nee bedankt, nee dank je, nee dank u, geen, geen van beide, geen van beiden, geen van deze,
    geen van allen, iets anders, laat maar
pl: nie, nie dziękuję, żadne, żaden, żadna, żadne z nich, żaden z nich, żadna z nich, żadne z tych,
    żadna z tych, żadne z powyższych, ani jedno ani drugie, coś innego, nieważne
zh: 不, 不是, 不是的, 不用, 不用了, 都不是, 都不对, 都不對, 两个都不是, 兩個都不是,
    以上都不是, 没有, 沒有, 别的, 別的, 其他, 其他的, 算了
ja: いいえ, いや, 違います, ちがいます, どちらでもない, どちらでもありません,
    どれでもない, どれでもありません, どちらも違います, どれも違います, それ以外, その他,
    別のこと, 別の件, 結構です
"""

_ACCENT = re.compile("[\u0300-\u036f]")
# What a "yes" may stand beside: no "?", and no sign or emoji, which may take it back.
_PLAIN = re.compile(r"""[\w\s.,;:!\u00a1'"()\-\u2010-\u201f\u2026\u3001\u3002\u300c\u300d~]*""")


def assents(answer: str) -> bool:
    """Whether a user says yes to what they were asked, and no more.

    For example: Yes. / ok, do it / sure, go ahead / ja, bitte / はい
    """
    if not _PLAIN.fullmatch(unicodedata.normalize("NFKC", answer)):
        return False
    words = _words(answer)
    return _ASSENTS.fullmatch(words) is not None or _is_in(ASSENTS, words)


def declines(answer: str) -> bool:
    """Whether a user means none of what a question offers, and says no more.

    For example: Neither. / no, none of those / never mind / keins von beiden / どちらでもない
    """
    words = _words(answer)
    return _DECLINES.fullmatch(words) is not None or _is_in(DECLINES, words)


def _words(answer: str) -> str:
    """Without case, punctuation, width, and Latin letters' accents, which people leave out."""
    wide = unicodedata.normalize("NFKC", answer).casefold()
    bare = _ACCENT.sub("", unicodedata.normalize("NFD", wide))
    plain = unicodedata.normalize("NFC", re.sub("['\u2019]", "", bare))
    return " ".join(re.findall(r"\w+", plain))


def _is_in(phrases: frozenset[str], words: str) -> bool:
    # Chinese and Japanese write no spaces, so there these are all punctuation.
    unspaced = words if words.isascii() else words.replace(" ", "")
    return words in phrases or unspaced in phrases


def _phrases(table: str) -> frozenset[str]:
    lines = re.sub(r"\n +", " ", table.strip()).splitlines()
    return frozenset(_words(p) for line in lines for p in line.partition(":")[2].split(","))


ASSENTS, DECLINES = _phrases(_OTHERS_ASSENT), _phrases(_OTHERS_DECLINE)
