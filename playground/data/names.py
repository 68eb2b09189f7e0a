"""How people name the columns of their data, as compared by ``spelling``: the likeliest name of each role first."""

from __future__ import annotations

from playground.data.records import spelling


def _ranks(words: str) -> dict[str, int]:
    return {spelling(word): rank for rank, word in reversed([*enumerate(words.split())])}


PROMPTS = _ranks("""
    prompt instruction question query user user_message user_input input inputs problem request task
    prompts instructions questions queries prompt_text human utterance message conversation dialogue dialog customer patient
    text texts document article passage sentence source src context mr meaning_representation content body
    frage eingabe anfrage aufgabe anweisung pregunta entrada consulta instrucción enunciado question_fr invite requête consigne
    domanda richiesta istruzione pergunta solicitação instrução vraag invoer opdracht fråga pytanie otázka soru вопрос запрос
    问题 提问 输入 指令 質問 入力 指示 질문 입력 प्रश्न सवाल سؤال
""")
COMPLETIONS = _ranks("""
    completion response answer output target reply assistant assistant_message completions responses answers outputs targets
    model_output expected_output expected expected_answer ideal ideal_answer ideal_response gold ground_truth
    reference ref references solution result summary highlights translation report note section_text headline tgt
    label labels category class intent sentiment tag topic
    ausgabe antwort lösung zusammenfassung respuesta salida resultado réponse sortie résumé risposta uscita
    resposta saída antwoord uitvoer svar odpowiedź odpověď cevap
    ответ 回答 答案 输出 出力 応答 답변 응답 출력 उत्तर जवाब جواب إجابة
""")
INPUTS = _ranks("input inputs context eingabe kontext entrada contexto entrée contexte contesto 输入 入力")
SYSTEMS = _ranks("system system_prompt system_message system_instruction sys systemprompt")
CHATS = _ranks("messages conversations conversation chat turns dialog dialogue dialogs message_list chatml")
CHOSEN = _ranks("chosen preferred preferred_response accepted better winner chosen_response positive response_chosen")
REJECTED = _ranks("rejected dispreferred rejected_response worse loser dispreferred_response negative response_rejected")
LABELS = _ranks("label labels thumbs_up thumbs liked like is_good good desirable accepted feedback vote rating correct")
TEXTS = _ranks("text texts content body document passage article paragraph raw_text story page texto texte testo tekst")

ASKS_FOR_INPUT = _ranks("instruction instructions task question frage aufgabe anweisung pregunta instrucción consigne")
"""Prompts that an input column goes with: Alpaca's, Dolly's."""

IDENTIFIERS = _ranks("id ids idx index uid uuid guid no nr num number row row_id line key column_1")
META = _ranks("""
    url uri link source src date time timestamp created created_at updated_at license licence lang language split meta metadata
    author
""")
"""Columns about a row; never guessed to be its prompt or answer by their content."""
