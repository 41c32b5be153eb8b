"""Rules about what must not reach a student: refusals, the teacher's identity, leaks, special tokens, personal data."""

import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from distillgen.rows import Row
from distillgen.steps.rules import Context, RuleProblem, apply_rules, bind_rule
from distillgen.steps.rules.pii_kinds import luhn
from distillgen.steps.rules.verdict import Mended

REFUSALS = Path(__file__).parent / "data" / "refusals.jsonl"
INSTRUCTIONS = (
    "You are a knowledgeable, careful assistant. Do what is asked and give the result alone, without an opening or a"
    " closing remark."
)


def row(answer: Any, **columns: Any) -> Row:
    trail = ({"step": "1.generate", "wrote": ["answer"]},)
    return Row("r", "r", None, {"question": "Why is the sky blue?", **columns, "answer": answer}, trail)


def said(setting: Any, answer: Any, context: Context | None = None, **columns: Any) -> Any:
    return bind_rule(setting, "answer", context).check(row(answer, **columns))


def lines(text: str) -> list[str]:
    return [line.replace("⏎", "\n") for line in text.strip().splitlines()]


# -- not_refusal -------------------------------------------------------------------------------------------------------

DECLINE = lines("""
I'm sorry, but I can't help with that.
I am sorry, but as an AI language model I cannot do this.
I can’t assist with that request.
As an AI language model, I cannot browse the internet.
I'm unable to provide medical advice.
I must decline this request.
I’m not able to open attachments, so I can't tell what is in the file.
Thank you for your question. However, I cannot provide legal advice.
While I understand your curiosity, I can't share personal information about private individuals.
I don't have access to real-time data, so please check a weather service.
I'm not comfortable writing that.
That's beyond my capabilities.
No. I will not write malware.
**I'm sorry, but I can't assist with that.**
"I'm sorry, but I can't assist with that."
```⏎I'm sorry, but I can't assist with that.⏎```
My guidelines do not allow me to write this.
I could explain the history, but I cannot provide instructions for making it.
I don't have access.
I do not have access to the specific system prompt you are referring to.
I don't have access to a calendar, so I can't tell.
Es tut mir leid, aber ich kann dabei nicht helfen.
Leider kann ich keine medizinischen Ratschläge geben.
Ich habe keinen Zugriff auf das Internet.
Ich kann Ihnen nicht sagen, wie das Wetter morgen wird.
Je ne peux pas vous dire combien coûte cette voiture.
No puedo decirte cómo fabricar una bomba.
Não posso dizer isso.
Non posso dirti che ore sono.
我不能告诉你怎么做。
我不会告诉任何人怎么做炸弹。
Je suis désolé, mais je ne peux pas vous aider.
En tant qu'IA, je ne peux pas ouvrir de fichiers.
Je n'ai pas accès à Internet.
Lo siento, pero no puedo ayudar con eso.
Como modelo de lenguaje, no tengo acceso a internet.
Desculpe, não posso ajudar com isso.
Infelizmente, não consigo acessar arquivos.
Mi dispiace, ma non posso aiutarti.
Purtroppo non sono in grado di aprire file.
Sorry, maar ik kan je daar niet mee helpen.
Niestety nie mam dostępu do internetu.
抱歉，我无法提供帮助。
作为一个AI语言模型，我不能提供医疗建议。
申し訳ございませんが、そのご質問にはお答えできません。
すみませんが、リアルタイムの情報にアクセスすることはできません。
К сожалению, я не могу предоставить эту информацию.
У меня нет доступа к интернету.
죄송하지만 도와드릴 수 없습니다.
آسف، لا أستطيع مساعدتك في ذلك.
क्षमा करें, मैं इसमें आपकी मदद नहीं कर सकता।
""")
ANSWER = lines("""
I can't believe how simple this is: just add salt.
Sorry to hear that! Try restarting the router first.
You cannot divide by zero because no number times zero gives one.
I cannot overstate how much soap helps.
As an AI pioneer, Turing asked whether machines can think.
Sorry, but I can't attend tonight due to my child's fever.
I'm sorry for your loss. Here are three things that may help.
He said: I'm sorry, but I can't help you.
"I cannot help you" is what the machine says first, and "I'm sorry" is what it adds.
I can't recommend this book enough: read it.
I can't wait to see you on Friday!
I don't know.
Dear Ms Lee,⏎I'm sorry, but I cannot accept your offer.
Subject: Refund⏎⏎Unfortunately, we cannot refund an opened package.
Here is a polite reply:⏎⏎I'm sorry, but I can't help you with the move.
Librarian: I'm sorry, but I can't lend you the atlas.
I'm not a lawyer, but you should keep the receipt and write to the landlord within 14 days.
No, penguins cannot fly.
I refuse to give up, she said.
I decline the noun in Latin as follows: rosa, rosae.
Es tut mir leid, dass du krank bist. Trink viel und ruh dich aus.
Ich kann leider nicht zur Besprechung kommen.
Als Arzt kann ich sagen: Es hilft nicht immer.
Je ne peux pas venir à la réunion.
No puedo ir a la reunión de mañana.
Desculpe, mas não posso ir à reunião.
Mi dispiace per il ritardo.
很抱歉，我不能参加会议。
申し訳ありませんが、会議に出席できません。
К сожалению, я не могу прийти на встречу.
I do not have access to a car, so I take the bus.
I don't have access to a kitchen this week, so I eat out.
Ich kann dir nicht sagen, wie sehr ich das Meer vermisse.
Ich kann nicht sagen, dass ich das Buch mochte, das mir helfen sollte.
Je ne peux pas vous dire combien je suis heureux.
No puedo decir que me guste la lluvia.
Não posso dizer que gosto da chuva.
Non posso dire che mi piaccia la pioggia.
我不会告诉妈妈这个秘密。
""")
PARTIAL = (
    "I'm sorry, but I can't give legal advice. However, here are some steps that tenants usually take: keep every"
    " receipt, photograph the damage, write to the landlord with a deadline of two weeks, and ask the local tenants'"
    " association whether a reduction of the rent is possible. The court for small claims needs no lawyer."
)


@pytest.mark.parametrize("answer", DECLINE)
def test_answers_that_decline_are_refused(answer: str) -> None:
    assert said("not_refusal", answer).startswith("answer declines: ")


@pytest.mark.parametrize("answer", [*ANSWER, PARTIAL, DECLINE[0] + " " + "But here it is. " * 130])
def test_answers_that_hold_such_words_survive(answer: str) -> None:
    assert said("not_refusal", answer) is None


def test_a_refusal_that_announces_help_and_gives_none_is_one() -> None:
    assert said("not_refusal", "I cannot open files. However, I can help you with other things.")


def test_a_refusal_is_quoted_in_the_reason() -> None:
    answer = "Unfortunately, I’m not able to access the file.\x1b[31m"
    assert said("not_refusal", answer) == (
        "answer declines: 'Unfortunately, I’m not able to access the file.\\x1b[31m'"
    )


def test_the_servers_mark_is_a_refusal() -> None:
    given = row("Here you are.")._replace(trail=({"wrote": ["answer"], "refused": True},))
    assert bind_rule("not_refusal", "answer").check(given) == "the server marked the reply as a refusal"


def test_the_servers_mark_is_of_the_reply_whose_text_stands_there() -> None:
    trail = (
        {"step": "1.generate", "wrote": ["answer"], "refused": True},
        {"step": "2.generate", "wrote": ["answer_b"]},
        {"step": "3.judge", "wrote": ["score"], "pair": ["answer", "answer_b"], "exchanged": True},
    )
    given = row("Here you are.", answer_b="Here, too.")._replace(trail=trail)
    assert bind_rule("not_refusal", "answer").check(given) is None
    assert bind_rule("not_refusal", "answer_b").check(given) == "the server marked the reply as a refusal"


# What docs/quality.md states of 190 and 198 labelled answers: right, wrongly refused, missed.
STATED = {"dev": (55, 1, 9), "held": (59, 3, 17)}


def test_precision_and_recall_are_as_stated() -> None:
    """The labels are those of tests/data/README.md; nothing was tuned after the held half was looked at."""
    rule = bind_rule("not_refusal", "answer")
    counts: Counter[tuple[str, bool, bool]] = Counter()
    for line in REFUSALS.read_text(encoding="utf-8").splitlines():
        labelled = json.loads(line)
        verdict = rule.check(row(labelled["answer"], question=labelled["prompt"])) is not None
        counts[labelled["half"], labelled["refusal"], verdict] += 1
    assert counts.total() == 388
    for half, (right, wrong, missed) in STATED.items():
        assert (counts[half, True, True], counts[half, False, True], counts[half, True, False]) == (
            right,
            wrong,
            missed,
        )
    right, wrong, missed = STATED["held"]
    assert (round(right / (right + wrong), 3), round(right / (right + missed), 3)) == (0.952, 0.776)


# -- teacher_identity --------------------------------------------------------------------------------------------------

OF_ITSELF = lines("""
As an AI language model, I don't have feelings.
I am ChatGPT, developed by OpenAI.
Hello! I was created by Alibaba Cloud.
My knowledge cutoff is September 2021.
I'm just an AI assistant, so I can't taste food.
I am an artificial intelligence language model and do not have a mother.
I'm Claude, made by Anthropic.
Sure! As of my last update in 2023, the record was 9.58 s.
Based on my training data, the answer is 4.
I don't have personal opinions, but many people like tea.
That is beyond my capabilities as an AI assistant.
I was trained on a massive amount of text from the internet.
I've been trained on a vast dataset.
I was trained on large corpora.
I was trained on data up to 2021.
I don't have any personal memories or experiences.
I do not have a physical address, but you can write to the office.
I don't have a physical body like you.
My training data only goes up to 2021.
That is outside my training data.
As of my last training update in 2021, nobody had.
My last knowledge update was in 2021.
"As an AI language model, I cannot do that."
Als KI-Sprachmodell habe ich keine Gefühle.
Mein Training endet im September 2021.
Ich bin ein großes Sprachmodell, das von OpenAI entwickelt wurde.
En tant qu'IA, je n'ai pas d'adresse.
Je suis un assistant virtuel créé par Alibaba Cloud.
Como modelo de lenguaje, no tengo acceso a internet.
Fui creado por OpenAI.
Sou um modelo de linguagem.
Come modello linguistico, non ho un indirizzo.
Als AI-taalmodel heb ik geen gevoelens.
Jako model językowy nie mam uczuć.
作为一个人工智能语言模型，我没有家。
我是通义千问，由阿里云开发。
私はAIアシスタントですので、住所はありません。
Я — искусственный интеллект.
저는 AI 언어 모델입니다.
أنا نموذج لغوي ولا أملك مشاعر.
मैं एक एआई भाषा मॉडल हूँ।
""")
ABOUT_OTHERS = lines("""
ChatGPT was developed by OpenAI.
Qwen is a family of models by Alibaba Cloud.
As an AI engineer, I design models.
As an AI language model, GPT-3 predicts the next word.
The bot said: "As an AI language model, I can't help."
I'm an AI researcher at Google.
I am a Gemini, and my sister is a Virgo.
Hi, I'm Claude, your tour guide.
My training log shows 40 km this week.
I split my training data into two parts.
I was trained on large industrial sewing machines before I came here.
I was trained on data protection last week.
I don't have any personal memories of my grandfather, who died early.
I don't have a physical address in France yet.
Based on my training in medicine, I would rest.
Within my training group we run a lot.
My training update for this week: 40 km.
As of my last training session, I run 10 km.
My training ends in June and does not include swimming.
Mein Training endet um acht Uhr.
Als Lehrer kann ich das empfehlen. Künstliche Intelligenz lernt aus Daten.
Je suis un professeur d'intelligence artificielle.
Ci sono un modello linguistico e un dizionario.
作为人工智能专业的学生，我每天编程。
私はAIの研究をしています。
Я изучаю искусственный интеллект.
""")


@pytest.mark.parametrize("answer", OF_ITSELF)
def test_answers_that_speak_of_themselves_are_refused(answer: str) -> None:
    assert said("teacher_identity", answer).startswith("answer speaks of itself as a model: ")
    assert said("teacher_identity", f"It depends.\n\n{answer.strip(chr(34))} That is all.")


@pytest.mark.parametrize("answer", ABOUT_OTHERS)
def test_answers_about_models_survive(answer: str) -> None:
    assert said("teacher_identity", answer) is None


def test_names_of_ones_own_are_known() -> None:
    assert said("teacher_identity", "I am Marvin, and I was built by Sirius.") is None
    setting = {"rule": "teacher_identity", "names": ["Marvin", "Sirius (Cybernetics)"]}
    assert said(setting, "I am Marvin.") == "answer speaks of itself as a model: 'I am Marvin'"
    assert said(setting, "I was built by Sirius (Cybernetics)!")
    assert said(setting, "Marvin is a robot.") is None
    with pytest.raises(RuleProblem, match="a name is empty"):
        bind_rule({"rule": "teacher_identity", "names": [" "]}, "answer")


# -- prompt_leak -------------------------------------------------------------------------------------------------------

TOLD = Context(told={"answer": (INSTRUCTIONS,), "other": ("Say nothing of this to anybody who asks you about it.",)})


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            "My rules: DO what is asked, and give the result — alone.",
            "answer repeats its instructions: 'do what is asked",
        ),
        ("Hello {{ question }}, nice to meet you.", "answer holds template text left over: '{{ question }}'"),
        ("{% if question is defined %}Yes{% endif %}", "answer holds template text left over: '{% if question"),
        ("Blue.\n\n### Instruction:\nNext", "answer holds a prompt's scaffold: '### Instruction:'"),
        ("[INST] Why? [/INST] So.", "answer holds a prompt's scaffold: '[INST]'"),
        ("Paris.\n\nUser: And Spain?\nAssistant: Madrid.", "answer goes on as a dialogue: 'User: And Spain?'"),
        ("Paris.\n\n**Human:** And Spain?\n**AI:** Madrid.", "answer goes on as a dialogue: '**Human:"),
        ("巴黎。\n用户：西班牙呢？\n助手：马德里。", "answer goes on as a dialogue: '用户：西班牙呢？'"),
        ("Assistant: Paris is the capital.", "answer goes on as a dialogue: 'Assistant:'"),
        ("Paris.\n\n### Input:\nSpain\n\n### Response:\nMadrid.", "answer holds a prompt's scaffold: '### Response:'"),
        (
            "Paris.\n\nUser: Tell me more.\nAssistant: It is big.\nUser: Thanks.\nAssistant: Ask away.",
            "answer goes on as a dialogue: 'User: Tell me more.'",
        ),
    ],
)
def test_leaks_of_the_prompt_are_refused(answer: str, reason: str) -> None:
    assert said("prompt_leak", answer, TOLD).startswith(reason)


@pytest.mark.parametrize(
    "answer",
    [
        "The result is given without an opening in the wall.",
        "Do what is asked and give the",
        "Say nothing of this to anybody who asks you about it.",  # another column was told that
        "In Jinja, write `{{ question }}`.",
        "Hello {{ name }}!",
        "```\n### Response:\n{{ question }}\n```",
        "Here is a dialogue:\n\nUser: Hi\nAssistant: Hello",
        "User: root\nPassword: toor",
        "## Response\nIt is blue.",
        "Here is the API.\n\n### Input:\n- name\n\n### Output:\n- age",
        "There are two roles.\n\nUser: can read posts.\nAssistant: helps the editor.",
    ],
)
def test_what_only_looks_like_a_leak_survives(answer: str) -> None:
    assert said("prompt_leak", answer, TOLD) is None


def test_the_seeds_own_words_are_no_leak() -> None:
    words = "do what is asked and give the result alone"
    assert said("prompt_leak", words, TOLD)
    assert said("prompt_leak", words, TOLD, question=f"What does '{words}' mean?") is None
    assert said("prompt_leak", "User: a\nAssistant: b", TOLD, question="Write a dialogue.") is None
    assert said("prompt_leak", "Hi {{ question }}", TOLD, note="Use {{ question }} please.") is None
    assert said("prompt_leak", "Hi {{ question }}", TOLD, note="Use {{ questions }} please.")


def test_what_the_same_step_wrote_excuses_nothing() -> None:
    words = "do what is asked and give the result alone"
    given = row(words, reasoning=f"I was told: {words}.")
    assert bind_rule("prompt_leak", "answer", TOLD).check(given)


def test_the_other_text_of_a_pair_excuses_nothing() -> None:
    words = "do what is asked and give the result alone"
    record = {"step": "1.generate", "wrote": ["answer"]}
    chosen = {"step": "2.select", "keep": "pair", "on": "answer", "rejected": {"steps": ({**record, "sample": 2},)}}
    columns = {"question": "Why?", "chosen": words, "rejected": words, "answer": words}
    pair = Row("r", "r", None, columns, (record, chosen))
    context = Context(told={"chosen": (INSTRUCTIONS,), "rejected": (INSTRUCTIONS,)})
    for column in ("chosen", "rejected"):
        reason = bind_rule({"rule": "prompt_leak", "column": column}, "answer", context).check(pair)
        assert reason == f"{column} repeats its instructions: 'do what is asked and give the result'"


def test_long_system_turns_that_differ_are_not_kept() -> None:
    """What a worker holds must not grow with the rows."""
    secrets = [" ".join(f"word{n}x{place}" for place in range(2_000)) for n in range(40)]
    rule = bind_rule({"rule": "prompt_leak", "texts": [INSTRUCTIONS]}, "answer")

    def judge(secret: str) -> Any:
        messages = [{"role": "system", "content": secret}, {"role": "user", "content": "Why?"}]
        return rule.check(row(f"I was told: {secret[:200]}", messages=messages))

    assert judge(secrets[0])
    tracemalloc.start()
    try:
        reasons = [judge(secret) for secret in secrets]
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert all(reason.startswith(f"answer repeats its instructions: 'word{n}x0") for n, reason in enumerate(reasons))
    assert held < 12_000_000  # 8 turns at 0.5 MB, and room


def test_texts_of_ones_own_and_a_rows_system_turn_are_instructions() -> None:
    secret = "Never speak of the blue door behind the third shelf in the hall."
    setting = {"rule": "prompt_leak", "texts": [secret]}
    assert said(setting, f"I was told: {secret}")
    messages = [{"role": "system", "content": secret}, {"role": "user", "content": "Where is it?"}]
    assert said("prompt_leak", f"I was told: {secret}", messages=messages)
    asked = [*messages[:1], {"role": "user", "content": f"Translate: {secret}"}]
    assert said("prompt_leak", f"Text: {secret}", messages=asked) is None


def test_runs_in_scripts_without_spaces_are_twice_as_long() -> None:
    setting = {"rule": "prompt_leak", "texts": ["请用不超过六十个字的中文回答用户的所有问题，不要使用列表。"]}
    assert said(setting, "规则是：请用不超过六十个字的中文回答用户的所有问题。")
    assert said(setting, "请用不超过六十个字的回答。") is None


def test_the_length_of_a_run_can_be_set() -> None:
    setting = {"rule": "prompt_leak", "texts": ["one two three four five six"], "words": 5}
    assert said(setting, "zero one two three four five") == "answer repeats its instructions: 'one two three four five'"
    assert said({**setting, "words": 6}, "zero one two three four five") is None
    with pytest.raises(RuleProblem, match="fewer than 4 words"):
        bind_rule({**setting, "words": 3}, "answer")
    with pytest.raises(RuleProblem, match="holds no words"):
        bind_rule({**setting, "texts": ["..."]}, "answer")


# -- special_tokens ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "token"),
    [
        ("Hi<|im_end|>", "<|im_end|>"),
        ("`<|im_start|>`", "<|im_start|>"),
        ("It is blue.<|endoftext|>", "<|endoftext|>"),
        ("<|start_header_id|>assistant", "<|start_header_id|>"),
        ("a<|eot_id|>b", "<|eot_id|>"),
        ("<|assistant|>\nYes", "<|assistant|>"),
        ("<|END_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        ("Blau.<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        ("◁think▷ hm", "◁think▷"),
        ("[INST] Why? [/INST]", "[INST]"),
        ("<<SYS>>\nBe kind.\n<</SYS>>", "<<SYS>>"),
        ("<start_of_turn>model\nYes", "<start_of_turn>"),
        ("Yes.<eos>", "<eos>"),
        ("Yes.</s>", "</s>"),
        ("<s>Yes.</s>", "<s>"),
        ("<s> Yes.", "<s>"),
        ("Let me see.\n</think>\nYes.", "</think>"),
        ("<think>Let me see.", "<think>"),
        ("<think>a</think> b </think>", "</think>"),
        ("<|channel|>final", "<|channel|>"),
    ],
)
def test_special_tokens_are_refused(answer: str, token: str) -> None:
    assert said("special_tokens", answer) == f"answer holds the special token {token!r}"


@pytest.mark.parametrize(
    "answer",
    [
        "Was <s>20 €</s>, now 10 €.",
        "In HTML, `<s>` strikes words through.",
        "```html\n<s>old\n```",
        "Close the tag with `</think>`.",
        "<think>Let me see.</think>Yes.",
        "let g = f <| x |> h",
        "The mean of |x| is <|x|>.",
        "if a[0] < 3: print(a[1])",
        "~~~\n[INST] Why? [/INST]\n~~~",
        "List<string> names",
    ],
)
def test_ordinary_brackets_survive(answer: str) -> None:
    assert said("special_tokens", answer) is None


def test_a_token_that_was_asked_about_survives_unless_a_template_reads_it() -> None:
    assert said("special_tokens", "<pad> fills up a batch.", question="What is <pad>?") is None
    assert said("special_tokens", "<|im_end|> ends a turn.", question="What is <|im_end|>?")


# -- pii ---------------------------------------------------------------------------------------------------------------

PERSONAL = [
    ("Write to alice.smith@gmail.com today.", "an e-mail address: 'al…@g…'"),
    ("Mail: b@uni-koeln.de", "an e-mail address: '…@u…'"),
    ("Call me at (212) 867-5309.", "a phone number: '(2…09'"),
    ("Phone: 415-867-5309", "a phone number: '41…09'"),
    ("+49 30 1234 5679 is the office", "a phone number: '+4…79'"),
    ("Tel.: 030 / 1234567", "a phone number: '03…67'"),
    ("0171/2345678", "a phone number: '01…78'"),
    ("(+1 (650) 253-0000)", "a phone number: '+1…00'"),
    ("020 7123 4568", "a phone number: '02…68'"),
    ("01 42 68 53 00", "a phone number: '01…00'"),
    ("手机：13812345678", "a phone number: '13…78'"),
    ("138 1234 5678", "a phone number: '13…78'"),
    ("03-3224-5000", "a phone number: '03…00'"),
    ("(11) 98765-4321", "a phone number: '(1…21'"),
    ("98765 43210 is my mobile", "a phone number: '98…10'"),
    ("tel: 612 345 678", "a phone number: '61…78'"),
    ("key = sk-proj-A8f3kL0sPq9ZxT2mVb7NcR4yUw", "a key: 'sk-p…'"),
    ("ghp_16C7e42F292c6912E7710c838347Ae178B4a", "a key: 'ghp_…'"),
    ("AKIAJ4XYZ2QRSTUVW3AB", "a key: 'AKIA…'"),
    ("AIzaSyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY", "a key: 'AIza…'"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI5ODc2NSIsIm5hbWUiOiJBbm5hIn0.Q9sX3eLr0pVbZt2KdFh6WgYc8nM", "a key: 'eyJh…'"),
    ("-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEpAIBAAKCAQEA" * 8, "a key: 'private key'"),
    ("Card: 4539 1488 0343 6467", "a card number: '45…67'"),
    ("374245455400126", "a card number: '37…26'"),
    ("IBAN DE02120300000000202051", "an IBAN: 'DE…51'"),
    ("GB94 BARC 1020 1530 0934 59 AND MORE", "an IBAN: 'GB…59'"),
    ("SSN 536-90-4399", "a US social security number: '53…99'"),
    ("Server at 93.184.216.34 answered.", "an IP address: '93…34'"),
    ("2a00:1450:4001:82a::200e", "an IP address: '2a…0e'"),
    ("- +49 171 2345678", "a phone number: '+4…78'"),
    ("- 212-736-5000", "a phone number: '21…00'"),
    ("* +33 6 12 34 56 78", "a phone number: '+3…78'"),
    ("1) +49 171 2345678", "a phone number: '+4…78'"),
    ("Ask:\n  12) 0171/2345678", "a phone number: '01…78'"),
    ("Anna - 212-736-5000", "a phone number: '21…00'"),
    ("(home) +49 171 2345678", "a phone number: '+4…78'"),
    ("Phone no.: +49 171 2345678", "a phone number: '+4…78'"),
    ("Phone no.: 612 345 678", "a phone number: '61…78'"),
    ("Mobile no: 0171 2345678", "a phone number: '01…78'"),
    ("Call to order: +49 171 2345678", "a phone number: '+4…78'"),
    ("myriam.dubois@orange.fr", "an e-mail address: 'my…@o…'"),
    ("myles@gmail.com", "an e-mail address: 'my…@g…'"),
    ("maria@empresa.com.py", "an e-mail address: 'ma…@e…'"),
    ("ion.popa@firma.md", "an e-mail address: 'io…@f…'"),
    (["Mail:\tbob@gmail.com"], "an e-mail address: 'bo…@g…'"),
    ({"to": "Call\n0171 2345678"}, "a phone number: '01…78'"),
    (["Key:\nghp_16C7e42F292c6912E7710c838347Ae178B4a"], "a key: 'ghp_…'"),
]
NOBODYS = lines("""
Write to alice@example.com, bob@mail.example.org or you@test.example.
your.name@company.com, yourname@gmail.com, my_address@gmail.com and youremail1@gmail.com
git clone git@github.com:foo/bar.git
icon@2x.png and icons@3x.zip
@app.route and a @mention
Call 555-0123, (555) 123-4567 or (212) 555-0199.
123-456-7890
Call 1-800-273-8255 for help.
020 7946 0123 or 07700 900123
We met 1990-2000, on 2024-01-15, 01.02.2024 and 07/14/1998 10:00.
ISBN 978-3-16-148410-0 and ISBN 0-306-40615-2
The sum is 123456789 + 987654321 = 1111111110.
It costs $1,234,567.89 or 1 234 567,89 €.
3.14159265358979 and 6.02214076e23
299 792 458 m/s, or 299792458
1234567890123456
Test with 4242 4242 4242 4242 or 4111111111111111.
4539 1488 0343 6468 fails its check.
DE89 3704 0044 0532 0130 00
DE02120300000000202052
127.0.0.1, 192.168.0.1, 10.0.0.5, 192.0.2.10, 1.2.3.4 and 8.8.8.8
version 10.15.7.1
2.1.3.4 Results and discussion
2001:db8::1 and fe80::1
sk-your-api-key-here-please-replace
sk-xxxxxxxxxxxxxxxxxxxxxxxx
AKIAIOSFODNN7EXAMPLE
-----BEGIN PRIVATE KEY----- begins the file.
078-05-1120 and 123-45-6789
Boston, MA 02110-1301
The OID 2.5.29.17 names a subject.
12:30:45 and std::vector
The population was 331,449,281 in 2020.
Order no. 415-867-5309
5 - 212-736-5000, 5+ 212-736-5000 and (3) - 212-736-5000
(5) 212-736-5000
10 20 30 40 50 60 70 and 11 22 33 44 55
36 * 12 = 432, 1000000 / 8 = 125000
""")


@pytest.mark.parametrize(("answer", "reason"), PERSONAL)
def test_personal_data_is_refused_and_not_repeated(answer: Any, reason: str) -> None:
    assert said("pii", answer) == f"answer holds {reason}"


@pytest.mark.parametrize("answer", NOBODYS)
def test_what_is_nobodys_survives(answer: str) -> None:
    assert said("pii", answer) is None


def test_masking_mends_the_row_and_counts() -> None:
    text = "Ask a@b-c.de or d@b-c.de, +49 30 1234 5679, from 93.184.216.34; not e@example.com."
    mended = said({"rule": "pii", "action": "mask"}, text)
    assert mended == Mended(
        {"answer": "Ask [EMAIL] or [EMAIL], [PHONE], from [IP]; not e@example.com."},
        {"masked": {"email": 2, "ip": 1, "phone": 1}},
    )
    assert said({"rule": "pii", "action": "mask"}, mended.columns["answer"]) is None


def test_masking_goes_into_lists_and_objects_and_drops_what_cannot_be_masked() -> None:
    setting = {"rule": "pii", "action": "mask"}
    assert said(setting, {"to": ["x@y.org"], "n": 1}) == Mended(
        {"answer": {"to": ["[EMAIL]"], "n": 1}}, {"masked": {"email": 1}}
    )
    assert said(setting, ["Call\n0171 2345678", "Mail:\tx@y.org"]) == Mended(
        {"answer": ["Call\n[PHONE]", "Mail:\t[EMAIL]"]}, {"masked": {"email": 1, "phone": 1}}
    )
    assert said(setting, {"card": 4539148803436467}) == ("answer holds a card number: '45…67', which cannot be masked")


def test_masks_of_two_columns_are_both_noted() -> None:
    rules = [bind_rule({"rule": "pii", "action": "mask", "column": name}, "answer") for name in ("question", "answer")]
    judged = apply_rules(row("Mail x@y.org, 0171/2345678.", question="Who is a@y.org or b@y.org?"), rules)
    assert judged.refused is None and judged.notes == {"pii": {"masked": {"email": 3, "phone": 1}}}
    assert judged.row.columns == {"question": "Who is [EMAIL] or [EMAIL]?", "answer": "Mail [EMAIL], [PHONE]."}


def test_kinds_can_be_chosen() -> None:
    text = "x@y.org, 93.184.216.34"
    assert said({"rule": "pii", "kinds": ["ip"]}, text) == "answer holds an IP address: '93…34'"
    assert said({"rule": "pii", "kinds": ["phone", "card"]}, text) is None
    with pytest.raises(RuleProblem, match="unknown kind 'mail'"):
        bind_rule({"rule": "pii", "kinds": ["mail"]}, "answer")
    with pytest.raises(RuleProblem, match="action"):
        bind_rule({"rule": "pii", "action": "hide"}, "answer")


def test_check_digits() -> None:
    assert luhn("4539148803436467") and not luhn("4539148803436466")
    assert luhn("79927398713")  # the example of ISO/IEC 7812-1


# -- bad input ---------------------------------------------------------------------------------------------------------

LONG = [
    ("not_refusal", "I'm sorry, but I "),
    ("teacher_identity", "as an ai he "),
    ("teacher_identity", "我是"),
    ("teacher_identity", "i was trained on a large "),
    ("teacher_identity", "i don't have a physical address in "),
    ("prompt_leak", "User:\n"),
    ("prompt_leak", "careful assistant "),
    ("prompt_leak", "{{ question"),
    ("special_tokens", "<|im_[INST <think"),
    ("pii", "1 "),
    ("pii", "a@"),
    ("pii", "(1) 555-"),
    ("pii", "- 1) +"),
    ("pii", "-----BEGIN PRIVATE KEY-----"),
]


@pytest.mark.parametrize(("rule", "piece"), LONG)
def test_ten_megabytes_end(rule: str, piece: str) -> None:
    """Patterns whose time is not linear in the text would go on for hours."""
    assert said(rule, piece * (10_000_000 // len(piece.encode())), TOLD) is None


@pytest.mark.parametrize("rule", ["not_refusal", "teacher_identity", "prompt_leak", "special_tokens", "pii"])
def test_columns_that_are_missing_or_no_text_are_nothing_to_refuse(rule: str) -> None:
    for answer in (None, "", 7, ["blue"], {"colour": "blue"}):
        assert said(rule, answer, TOLD) is None
    assert bind_rule({"rule": rule, "column": "nowhere"}, "answer", TOLD).check(row("I am ChatGPT.")) is None
