from __future__ import annotations

import pytest

from bayeslora_tool.review.phrases import ASSENTS, DECLINES, assents, declines

# ruff: noqa: RUF001  (people's own letters)

# "No" as people say it, by language; Malay's is Polish for "yes", Greek's sounds like one.
NO = {
    "English": "no", "Spanish": "no", "Italian": "no", "French": "non", "German": "nein",
    "Portuguese": "não", "Dutch": "nee", "Polish": "nie", "Czech": "ne", "Danish": "nej",
    "Swedish": "nej", "Norwegian": "nei", "Icelandic": "nei", "Finnish": "ei", "Estonian": "ei",
    "Hungarian": "nem", "Romanian": "nu", "Russian": "нет", "Ukrainian": "ні", "Bulgarian": "не",
    "Serbian": "не", "Greek": "όχι", "Turkish": "hayır", "Arabic": "لا", "Hebrew": "לא",
    "Persian": "نه", "Hindi": "नहीं", "Bengali": "না", "Thai": "ไม่", "Vietnamese": "không",
    "Indonesian": "tidak", "Malay": "tak", "Tagalog": "hindi", "Korean": "아니요",
    "Chinese": "不", "Japanese": "いいえ", "Swahili": "hapana", "Latvian": "nē",
    "Lithuanian": "ne", "Albanian": "jo", "Catalan": "no", "Basque": "ez", "Welsh": "na",
    "Irish": "níl", "Amharic": "አይ", "Zulu": "cha", "Mongolian": "үгүй",
}  # fmt: skip


@pytest.mark.parametrize("answer", NO.values(), ids=NO)
def test_no_in_no_language_is_a_yes(answer: str) -> None:
    assert not assents(answer)
    assert not assents(f" {answer.upper()}! ")


@pytest.mark.parametrize(
    "answer",
    [
        "tak", "fallo", "bitte", "danke", "merci", "gracias", "obrigado", "grazie", "結構です",
        "大丈夫です", "いいです", "pois não", "ja, aber nur 100", "sí, pero no hoy", "oui mais non",
        "no sí", "stimmt nicht", "不对", "不可以", "不好", "是不是",
        "ja?", "yes?", "好？", "yes 👎", "ok / no",
    ],
)  # fmt: skip
def test_what_may_mean_another_thing_is_no_yes(answer: str) -> None:
    assert not assents(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "Sí, por favor.", "si", "¡Claro que sí!", "D’accord", "oui, allez-y", "Ja, bitte!", "JA",
        "Sim!", "Sì, certo", "Va bene.", "Ja, graag", "Tak, proszę.",
        "是的。", "好的！", "はい", "ＯＫ", "はい、お願いします。", "yes, do it",
    ],
)  # fmt: skip
def test_what_says_yes_and_no_more_assents(answer: str) -> None:
    assert assents(answer)
    assert not declines(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "Ninguna de las dos", "Non, merci", "ni l’un ni l’autre", "Keins von beiden!", "nein",
        "NENHUM DOS DOIS", "Não, obrigada", "nessuno dei due", "Geen van beide.", "żadne z nich",
        "nie, dziękuję", "都不是。", "どちらでもありません", "いいえ", "ｎｏ", "zadne z nich",
    ],
)  # fmt: skip
def test_what_says_none_of_these_and_no_more_declines(answer: str) -> None:
    assert declines(answer)
    assert not assents(answer)


@pytest.mark.parametrize(
    "answer",
    ["nein, mein Konto sperren", "no me gusta", "keine Karte", "不想付钱", "nie mam karty"],
)
def test_words_that_say_more_do_not_decline(answer: str) -> None:
    assert not declines(answer)


def test_no_phrase_means_both() -> None:
    assert not ASSENTS & DECLINES
    assert not [phrase for phrase in ASSENTS if declines(phrase)]
    assert not [phrase for phrase in DECLINES if assents(phrase)]
