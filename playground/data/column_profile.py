"""How people name columns, what a sample of each holds, and what a cell says of an answer."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from playground.data.turns import is_turn, is_turns, read_transcript


def clean_name(name: object) -> str:
    """A column's name without invisible characters (byte-order mark, zero-width, control), outer spaces and quotes."""
    text = "" if name is None else str(name)
    if not (text.isascii() and text.isprintable()):
        text = "".join(" " if char in "\n\t" else char for char in text)
        text = "".join(char for char in text if unicodedata.category(char) not in ("Cf", "Cc", "Cs"))
        text = re.sub(r"\s+", " ", text)
    return text.strip().strip("\"'").strip()


def spelling(name: str) -> str:
    """The name as it is compared: no case, accents, spaces or punctuation (``Prompt_Text`` is ``prompttext``)."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    return "".join(char for char in plain if char.isalnum())


def leaf(name: str) -> str:
    """The last part of a nested column's name."""
    return name.rpartition(".")[2]


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names for a message: the first ``most``, each kept short."""
    shown = ", ".join(name if len(name) <= 40 else name[:39] + "…" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _ranks(words: str) -> dict[str, int]:
    return {spelling(word): rank for rank, word in reversed([*enumerate(words.split())])}


PROMPTS = _ranks("""
    prompt instruction question query user user_message user_input user_prompt input inputs problem request task
    prompts instructions questions queries prompt_text input_text human human_message utterance message conversation
    dialogue dialog customer patient premise sentence1 question1 history text texts document article passage sentence
    review tweet comment source src context mr meaning_representation content body text_a post description frage
    eingabe anfrage aufgabe anweisung aufforderung text_eingabe pregunta entrada consulta instrucción enunciado
    question_fr invite requête consigne entrée domanda richiesta istruzione pergunta solicitação instrução vraag
    invoer opdracht fråga uppgift spørsmål spørgsmål kysymys kérdés ερώτηση pytanie polecenie otázka întrebare soru
    girdi вопрос запрос инструкция питання запит 问题 提问 輸入 问 问句 問題 输入 指令 提示 提示词 質問 入力 指示
    プロンプト 질문 입력 지시 प्रश्न सवाल سؤال السؤال שאלה คำถาม câu_hỏi pertanyaan
""")
COMPLETIONS = _ranks("""
    completion response answer output target reply assistant assistant_message completions responses answers outputs
    targets model_output output_text assistant_response model_response expected_output expected expected_answer ideal
    ideal_answer ideal_response gold ground_truth best_answer correct_answer answer_key final_answer chosen_answer
    answers.text bot gpt doctor reference ref references solution canonical_solution result summary highlights tldr
    translation report note section_text headline tgt sql label labels category class intent sentiment tag topic
    emotion annotations.choice label_text class_index is_duplicate ausgabe antwort lösung zusammenfassung respuesta
    salida resultado réponse sortie résumé risposta uscita resposta saída antwoord uitvoer svar vastaus válasz
    απάντηση odpowiedź odpověď răspuns cevap çıktı ответ вывод відповідь 回答 答案 答 输出 輸出 回复 出力 応答 答え
    답변 응답 출력 उत्तर जवाब جواب إجابة الجواب תשובה คำตอบ trả_lời jawaban
""")
INPUTS = _ranks("""
    input inputs context hypothesis sentence2 question2 premise passage eingabe kontext entrada contexto entrée
    contexte contesto 输入 入力 输入内容 上下文 контекст ввод
""")
SYSTEMS = _ranks("system system_prompt system_message system_instruction sys systemprompt preamble systemtext")
CHATS = _ranks("""
    messages conversations conversation chat turns dialog dialogue dialogs dialogues message_list chatml contents
    chat_history chats exchanges data history items thread
""")
CHOSEN = _ranks("""
    chosen preferred preferred_response preferred_output accepted better winner chosen_response positive
    response_chosen response_j chosen_answer chosen_output chosen_messages chosen_text chosen_completion
    better_response better_answer good_response good_answer accepted_response accepted_answer preferred_answer
    preferred_completion win winning_response bevorzugt gewählt elegido elegida preferido choisi préféré scelto
    escolhido выбранный лучший 选择 被选 优选 選択
""")
REJECTED = _ranks("""
    rejected dispreferred rejected_response non_preferred_output non_preferred worse loser dispreferred_response
    negative response_rejected response_k rejected_answer rejected_output rejected_messages rejected_text
    rejected_completion worse_response worse_answer bad_response bad_answer dispreferred_answer non_preferred_response
    non_preferred_answer dispreferred_completion non_preferred_completion dispreferred_output lose losing_response
    abgelehnt verworfen rechazado rechazada rejeté rifiutato scartato rejeitado отклоненный отвергнутый худший 拒绝
    被拒 拒否
""")
LABELS = _ranks("""
    label labels thumbs_up thumbs liked like is_good good desirable is_desirable accepted feedback vote rating correct
    is_correct kto_tag score reward preference chosen bewertung etiqueta
""")
WINNERS = _ranks("""
    winner preferred preference preferred_response better better_response better_response_id better_answer best
    best_response choice chosen chosen_id selected human_preference overall_preference vote verdict label labels
""")
TEXTS = _ranks("text texts content body document passage article paragraph raw_text story page texto texte testo tekst")
ANSWER_PAIRS = _ranks("output outputs response responses completion completions candidates generations")
"""Columns whose list of two answers holds a better and a worse, the better first unless there are scores beside it."""
SCORED = ANSWER_PAIRS | _ranks("answers answer replies")
"""Columns whose list of answers with scores holds a best and a worst."""
SCORES = _ranks("ratings rating scores score")
KINDS = _ranks("label labels category class tag topic choices")
"""Columns whose list is no list of right answers."""

ASKS_FOR_INPUT = _ranks("""
    instruction instructions task question premise sentence1 question1 frage aufgabe anweisung pregunta instrucción
    consigne 指令 指示 инструкция
""")
"""Prompts that an input column goes with: Alpaca's, Dolly's."""

IDENTIFIERS = _ranks("id ids idx index uid uuid guid no nr num number row row_id row_idx line key column_1 custom_id")
META = _ranks("""
    url uri link source src date time timestamp created created_at updated_at license licence lang language split meta
    metadata author model model_name generator role data_source dataset annotator annotation_id lead_time
""")
"""Columns about a row; never guessed to be its prompt or answer by their content."""

_TWO = re.compile(r"(?P<stem>\D*?)(?P<which>[ab]|[012])")
_STEMS = _ranks("""
    response answer completion output reply conversation chat text candidate generation summary option message human_ref
""")


def two_answers(columns: Sequence[str]) -> tuple[str, str, int] | None:
    """(first, second, the number that the first goes by) of columns such as ``response_a`` and ``response_b``.

    The Stanford Human Preferences say 1 where ``human_ref_A`` is the better: there B comes first, with 0.
    """
    found: dict[tuple[str, str], str] = {}
    for column in columns:
        match = _TWO.fullmatch(spelling(column))
        if match and match["stem"] in _STEMS:
            found.setdefault((match["stem"], match["which"]), column)
    for (stem, which), column in found.items():
        for first, second, lowest in (("a", "b", 0), ("0", "1", 0), ("1", "2", 1)):
            if which == first and (stem, second) in found:
                other = found[stem, second]
                return (other, column, 0) if stem == "humanref" else (column, other, lowest)
    return None


def _each(words: str, value: bool) -> dict[str, bool]:
    return dict.fromkeys(words.split(), value)


_TRUTHS = _each("true yes 1 1.0 good y t up 👍 thumbs_up thumbsup like liked positive desirable", True)
_TRUTHS |= _each("chosen accept accepted correct +1", True)
_TRUTHS |= _each("false no 0 0.0 bad n f down 👎 thumbs_down thumbsdown dislike disliked negative", False)
_TRUTHS |= _each("undesirable rejected reject incorrect -1", False)
_FIRST, _SECOND = ("a", "j", "first", "left", "chosen"), ("b", "k", "second", "right", "rejected")
_STEM = re.compile(
    r"^(model|response|answer|completion|output|option|assistant|reply|conversation|text|candidate|choice)[\s_-]*"
)


def truth(value: object) -> bool | None:
    """A label as true or false; None when it is neither."""
    return _TRUTHS.get(str(value).strip().casefold())


def first_won(value: object, lowest: int) -> bool | None:
    """Whether a cell (``a``, ``model_b``, ``response 1``) says that the first of two answers is better; None: neither.

    lowest: the number that stands for the first answer, 0 or 1; below 0 every negative number does.
    """
    word = _STEM.sub("", str(value).strip().casefold()).removesuffix(".0")
    if lowest < 0 and re.fullmatch(r"-?\d+", word):
        return None if int(word) == 0 else int(word) < 0
    if word in _FIRST or word == str(lowest):
        return True
    return False if word in _SECOND or word == str(lowest + 1) else None


@dataclass(frozen=True)
class Column:
    """What a sample of one column holds."""

    name: str
    kind: str  # turns, turn, texts, text, number, flag, other
    filled: float  # share of sampled records that have a value
    words: float  # mean of a value
    distinct: float  # share of different values
    constant: bool
    transcript: bool  # most values are chats written as one text, ``Human: … Assistant: …``

    @property
    def is_identifier(self) -> bool:
        plain = spelling(leaf(self.name))
        ends = re.search(r"[_\s-](id|idx|uuid)$", self.name.lower()) or re.search(r"[a-z]I[dD]$", self.name)
        return plain in IDENTIFIERS or plain.startswith("unnamed") or ends is not None

    @property
    def is_meta(self) -> bool:
        """Whether its name, or that of a column around it, says that it is about the row rather than of it."""
        return any(spelling(part) in META for part in self.name.split("."))

    @property
    def is_content(self) -> bool:
        """Whether it may be a prompt or an answer by what it holds."""
        about = self.is_meta or self.is_identifier or self.constant
        return self.kind in ("text", "number", "flag") and not about

    @property
    def is_prose(self) -> bool:
        return self.kind == "text" and self.words >= 1.5


def rank(name: str, ranks: Mapping[str, int]) -> float | None:
    """How well a name fits a role, 0 the best; a nested column goes by its last part if its whole name says nothing."""
    whole = ranks.get(spelling(name))
    if whole is not None or "." not in name:
        return whole
    *parents, last = map(spelling, name.split("."))
    return ranks[last] + 0.5 if last in ranks and META.keys().isdisjoint(parents) else None


def named(columns: Iterable[Column], ranks: Mapping[str, int], *kinds: str) -> str | None:
    """The best-named column of these kinds; one that most records have goes before one that few have."""
    able = [
        (column.filled < 0.5, place, column.name)
        for column in columns
        if (place := rank(column.name, ranks)) is not None and (not kinds or column.kind in kinds)
    ]
    return min(able, key=lambda item: item[:2])[2] if able else None


def profile(name: str, values: list[Any]) -> Column:
    """What a column holds, from a sample of its values."""
    present = [value for value in values if (value.strip() if isinstance(value, str) else value not in (None, []))]
    count = max(1, len(present))
    texts = [str(value) for value in present if not isinstance(value, list | dict)]
    distinct = len(set(texts))
    return Column(
        name=name,
        kind=_kind(present),
        filled=len(present) / max(1, len(values)),
        words=sum(len(text[:2000].split()) for text in texts) / count,
        distinct=distinct / count,
        constant=distinct == 1 and count >= 5,
        transcript=sum(bool(read_transcript(text)) for text in texts) * 2 > count,
    )


def _kind(values: list[Any]) -> str:
    """The first kind that most values are of."""
    for kind, is_kind in _KINDS.items() if values else ():
        if sum(map(is_kind, values)) * 2 > len(values):
            return kind
    return "text" if values else "other"


_KINDS: dict[str, Callable[[Any], bool]] = {
    "turns": is_turns,
    "turn": is_turn,
    "texts": lambda value: isinstance(value, list) and bool(value) and isinstance(value[0], str),
    "other": lambda value: isinstance(value, list | dict),
    "flag": lambda value: truth(value) is not None,
    "number": lambda value: re.fullmatch(r"[-+]?\d+([.,]\d+)*", str(value).strip()) is not None,
}
