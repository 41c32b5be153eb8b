"""The rules of `filter`: rows that must pass, rows that must not, and why."""

import multiprocessing
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from conftest import clean_environment

from distillgen.rows import Rejection, Row
from distillgen.step_settings import FilterStep
from distillgen.steps.filter import Filter
from distillgen.steps.rules import PRESETS, RULES, Context, RuleProblem, apply_rules, bind_rule, settings_of
from distillgen.steps.rules.own import source_of


def row(answer: object, **columns: object) -> Row:
    trail = ({"step": "1.generate", "wrote": ["answer", "reasoning"], "finish_reason": "stop"},)
    return Row("r", "r", None, {"answer": answer, **columns}, trail)


def refusal(setting: object, answer: object, **columns: object) -> str | None:
    verdict = bind_rule(setting, "answer").check(row(answer, **columns))  # type: ignore[arg-type]
    assert verdict is None or isinstance(verdict, str)
    return verdict


def problem(setting: object, folder: Path | None = None) -> RuleProblem:
    with pytest.raises(RuleProblem) as caught:
        bind_rule(setting, "answer", Context(folder) if folder else None)  # type: ignore[arg-type]
    return caught.value


# -- length ------------------------------------------------------------------------------------------------------------


def counted(**tokens: int) -> Row:
    record = {"step": "1.generate", "wrote": ["answer"], "tokens": tokens or None}
    return Row("r", "r", None, {"answer": "four words are here"}, (record, {"step": "2.filter"}))


@pytest.mark.parametrize(
    ("bounds", "tokens", "reason"),
    [
        ({"max_tokens": 50}, {"completion": 50}, None),
        ({"max_tokens": 50}, {"completion": 51}, "answer has 51 tokens, may have 50"),
        ({"max_tokens": 50}, {"completion": 90, "reasoning": 60}, None),
        ({"min_tokens": 50}, {"completion": 90, "reasoning": 60}, "answer has 30 tokens, needs 50"),
        ({"min_tokens": 1}, {"completion": 0}, "answer has 0 tokens, needs 1"),
        ({"max_tokens": 50}, {}, "how many tokens answer has is not known: no teacher reported it"),
        ({"max_words": 3}, {}, "answer has 4 words, may have 3"),
    ],
)
def test_tokens_are_the_teachers(bounds: dict[str, int], tokens: dict[str, int], reason: str | None) -> None:
    assert bind_rule({"rule": "length", **bounds}, "answer").check(counted(**tokens)) == reason


def test_tokens_of_a_column_that_no_teacher_wrote_are_not_known() -> None:
    rule = bind_rule({"rule": "length", "max_tokens": 50, "column": "question"}, "answer")
    assert "is not known" in str(rule.check(counted(completion=5)._replace(columns={"question": "Why?"})))


def test_impossible_lengths() -> None:
    assert problem({"rule": "length", "min_tokens": 9, "max_tokens": 3}).what == (
        "rule 'length': no text has 9 to 3 tokens"
    )


# -- not_truncated -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["length", "model_length", "model_context_window_exceeded"])
def test_every_servers_word_for_a_cut_is_known(said: str) -> None:
    record = {"step": "1.generate", "wrote": ["answer"], "finish_reason": said, "tokens": {"completion": 9}}
    given = row("It floa")._replace(trail=(record,))
    assert bind_rule("not_truncated", "answer").check(given) == "answer was cut off after 9 tokens"
    whole = given._replace(trail=({**record, "finish_reason": "stop"},))
    assert bind_rule("not_truncated", "answer").check(whole) is None


CUT = {"step": "1.generate", "wrote": ["answer"], "finish_reason": "length", "tokens": {"completion": 9}}
WHOLE = {"step": "2.generate", "wrote": ["other"], "finish_reason": "stop", "tokens": {"completion": 5}}
EXCHANGED = {"step": "3.judge", "wrote": ["score"], "pair": ["answer", "other"], "exchanged": True}
AS_A_PAIR = {
    "step": "3.select", "keep": "pair", "on": "answer",
    "rejected": {"steps": ({**CUT, "finish_reason": "stop", "tokens": {"completion": 5}},)},
}  # fmt: skip


@pytest.mark.parametrize(
    ("trail", "column", "reason", "tokens"),
    [
        ((CUT, WHOLE), "answer", "answer was cut off after 9 tokens", 9),
        ((CUT, WHOLE), "other", None, 5),
        ((CUT, WHOLE, EXCHANGED), "answer", None, 5),
        ((CUT, WHOLE, EXCHANGED), "other", "other was cut off after 9 tokens", 9),
        ((CUT, AS_A_PAIR), "chosen", "chosen was cut off after 9 tokens", 9),
        ((CUT, AS_A_PAIR), "rejected", None, 5),
    ],
)
def test_what_is_on_record_goes_with_the_text(
    trail: tuple[dict[str, object], ...], column: str, reason: str | None, tokens: int
) -> None:
    given = Row("r", "r", None, dict.fromkeys(["answer", "other", "chosen", "rejected"], "It floa"), trail)
    assert bind_rule("not_truncated", column).check(given) == reason
    said = bind_rule({"rule": "length", "min_tokens": 99}, column).check(given)
    assert said == f"{column} has {tokens} tokens, needs 99"


# -- repetition --------------------------------------------------------------------------------------------------------

# What the embedded smollm2-135m wrote at temperature 0 to "Write lyrics", "List all numbers", ..., shortened.
LOOPS = {
    "phrase": ("The song about love is a beautiful melody, " + "a soulful melody, " * 57 + "a soulful m", "58 times"),
    "word": ("The words that begin with a are: " + "a, " * 146, "ends in 'a,' 146 times over"),
    "list of one": ("\n".join(f"{n}. Mona Lelaki" for n in range(1, 35)), "ends in 'mona lelaki' 34 times over"),
    "numbers": ("1. " * 100, "ends in '1.' 100 times over"),
    "numbered numbers": ("\n".join(f"{n}. 1" for n in range(1, 52)) + "\n52.", "times over"),
    "two lines in turn": ("Tom:\n\nAnna:\n\n" * 37, "ends in 'tom: anna:' 37 times over"),
    "sentence": ("In ancient times, bread was a symbol. " + "It was a symbol of the elite. " * 9, "9 times over"),
    "cut off": ("Tea is old. " + "a tree that was made from " * 12 + "a tr", "12 times over"),
    "cycle": (
        "\n".join(f"{n}. {('China', 'India', 'Brazil', 'Peru', 'Chad')[n * n * n // 7 % 5]}" for n in range(60)),
        "repeats 5-word phrases",
    ),
    "letters": ("Goal! G" + "o" * 500, "ends in 'o' 500 times over"),
    "Chinese": ("从前有一只猫。" + "它喜欢睡觉和吃鱼。" * 12, "12 times over"),
    "in open code": ("Here:\n```python\nn = 0\n" + "print('the number is', n)\n" * 12, "12 times over"),
    "not at the end": ("I like tea. " + "The magic of it is the magic of the soul. " * 12 + "So it ends.", "sentences"),
}


@pytest.mark.parametrize("name", LOOPS)
def test_loops_are_refused(name: str) -> None:
    text, reason = LOOPS[name]
    assert reason in (refusal("repetition", text) or "passed")


VERSE = "The {0} goes by and the evening is near,\nthe {1} is asleep and the road is clear,\n"
REFRAIN = "Oh carry me home, carry me home,\nwherever the winds may roam.\n"
TO_DO = (
    "sort your socks by colour", "water the ferns", "oil the hinges of the garden gate", "mend the two old chairs",
    "wash the windows with vinegar", "feed the cats of your neighbour", "air all rooms for ten minutes",
    "stack the wood behind the shed", "write to your aunt in Lisbon", "read a chapter of that long novel",
)  # fmt: skip
SAID = "hello there|who is it|only me|come in then|is it raining|it never stops|have some tea|with milk, please"
SURVIVORS = {
    "poem with a refrain": "\n".join(
        VERSE.format(*pair) + REFRAIN for pair in (("river", "dog"), ("train", "smith"), ("cloud", "child"))
    ),
    "list with the same beginning": "\n".join(f"- You should always remember to {what}." for what in TO_DO),
    "times table": "\n".join(f"{a} x {b} = {a * b}" for a in range(1, 6) for b in range(1, 11)),
    "matrix": "\n".join(" ".join("1" if a == b else "0" for a in range(10)) for b in range(10)),
    "numbers": "The primes are " + ", ".join(str(n) for n in range(3, 400, 2)),
    "table": "| day | open |\n|---|---|\n" + "\n".join(f"| day {n} | yes |" for n in range(60)),
    "empty table": "| a | b |\n|---|---|\n" + "| | |\n" * 12,
    "closed code": "Run this:\n```python\n" + "print('the number is', n)\n" * 40 + "```\nThat is all of it.",
    "closing tags": "```html\n<div>" + "</div>\n" * 30 + "```",
    "yes and no": "\n".join(f"{n}. {'yes' if n * n * n // 7 % 3 else 'no'}" for n in range(1, 40)),
    "emphasis": "No, no, no, no, no! That is very, very, very wrong.",
    "laugh": "Hahahahahaha, that was good.",
    "line to fill in": "Name: " + "_" * 120,
    "rule below": "All of it.\n" + "=" * 200,
    "play": "\n".join(
        f"{who}:\n{what.capitalize()}." for who, what in zip(["TOM", "ANNA"] * 4, SAID.split("|"), strict=True)
    ),
    "twice is no loop": "The cat sat on the mat. The cat sat on the mat.",
    "empty": "",
}


@pytest.mark.parametrize("name", SURVIVORS)
def test_what_repeats_with_reason_survives(name: str) -> None:
    assert refusal("repetition", SURVIVORS[name]) is None


REPEATED_PARAGRAPHS = "\n\n".join(["A first paragraph that says little of note.", "A second one, about tea."] * 4)


@pytest.mark.parametrize(
    ("off", "text", "reason"),
    [
        ({"loop": 0}, "no way " * 20, "ends in 'no way' 20 times over"),
        ({"lines": 1.0}, "\n".join(["one line is this"] * 3 + [f"line {n}" for n in range(9)]) * 3, "repeats lines"),
        ({"paragraphs": 1.0}, REPEATED_PARAGRAPHS, "repeats paragraphs"),
        ({"sentences": 1.0}, "It is so. He said it. " * 4 + "It ends here now, at last.", "repeats sentences"),
        ({"top_ngrams": [1.0, 1.0, 1.0]}, " ".join(f"anyhow because {w}" for w in "abcdefghijklmnopqr"), "one phrase"),
        (
            {"duplicate_ngrams": [1.0] * 6},
            " ".join(f"{w} there is always a little more to it than that" for w in "abcdefgh"),
            "repeats 5-word phrases",
        ),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else None,
)
def test_each_part_can_be_turned_off(off: dict[str, object], text: str, reason: str) -> None:
    others = {
        "loop": 0, "lines": 1.0, "paragraphs": 1.0, "sentences": 1.0, "top_ngrams": [1.0] * 3,
        "duplicate_ngrams": [1.0] * 6, "min_words": 10,
    }  # fmt: skip
    kept = {name: value for name, value in others.items() if name not in off}
    assert reason in (refusal({"rule": "repetition", **kept}, text) or "passed")
    assert refusal({"rule": "repetition", **others}, text) is None


def test_one_turns_a_share_off_without_a_point() -> None:
    off = {"loop": 0, "lines": 1, "paragraphs": 1, "sentences": 1, "top_ngrams": [1, 1, 1], "duplicate_ngrams": [1] * 6}
    assert refusal({"rule": "repetition", **off}, "over and over " * 100) is None


def test_shares_need_words() -> None:
    text = "It is so. He said it. " * 4 + "End."
    assert refusal({"rule": "repetition", "min_words": 100}, text) is None
    assert "repeats" in str(refusal({"rule": "repetition", "min_words": 10, "loop": 0}, text))


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ({"lines": 0.0}, "lines"), ({"sentences": 1.5}, "sentences"), ({"top_ngrams": [0.5]}, "top_ngrams"),
        ({"duplicate_ngrams": []}, "duplicate_ngrams"), ({"loop": 1}, "loop"), ({"min_words": 0}, "min_words"),
    ],
)  # fmt: skip
def test_impossible_shares(setting: dict[str, object], key: str) -> None:
    assert problem({"rule": "repetition", **setting}).key == key


# -- language ----------------------------------------------------------------------------------------------------------

TEXTS = {
    "en": "Ice floats on water because it takes up more room than the water it was made of. That is rare: most things shrink when they turn solid.",
    "de": "Eis schwimmt auf dem Wasser, weil es mehr Platz braucht als das Wasser, aus dem es entstanden ist. Das ist selten: Die meisten Stoffe ziehen sich beim Erstarren zusammen.",
    "fr": "La glace flotte sur l'eau parce qu'elle occupe plus de place que l'eau dont elle est faite. C'est rare : la plupart des corps se contractent en devenant solides.",
    "es": "El hielo flota en el agua porque ocupa más espacio que el agua de la que está hecho. Es raro: casi todas las sustancias se encogen al volverse sólidas.",
    "pt": "O gelo flutua na água porque ocupa mais espaço do que a água de que é feito. Isso é raro: quase todas as substâncias encolhem quando ficam sólidas.",
    "it": "Il ghiaccio galleggia sull'acqua perché occupa più spazio dell'acqua di cui è fatto. È raro: quasi tutte le sostanze si restringono quando diventano solide.",
    "nl": "IJs drijft op water omdat het meer ruimte inneemt dan het water waarvan het gemaakt is. Dat is zeldzaam: de meeste stoffen krimpen als ze vast worden.",
    "sv": "Is flyter på vatten eftersom den tar mer plats än vattnet som den blev till av. Det är ovanligt: de flesta ämnen krymper när de stelnar.",
    "pl": "Lód pływa po wodzie, ponieważ zajmuje więcej miejsca niż woda, z której powstał. To rzadkość: większość substancji kurczy się, gdy krzepnie.",
    "tr": "Buz suyun üzerinde yüzer, çünkü oluştuğu sudan daha fazla yer kaplar. Bu nadir görülür: maddelerin çoğu katılaşınca küçülür.",
    "vi": "Nước đá nổi trên mặt nước vì nó chiếm nhiều chỗ hơn lượng nước đã tạo ra nó. Điều đó hiếm gặp: phần lớn các chất co lại khi đông đặc.",
    "ru": "Лёд плавает на воде, потому что занимает больше места, чем вода, из которой он возник. Это редкость: большинство веществ сжимается при затвердевании.",
    "uk": "Лід плаває на воді, тому що займає більше місця, ніж вода, з якої він утворився. Це рідкість: більшість речовин стискається, коли твердне.",
    "zh": "冰浮在水面上，是因为它占的空间比形成它的水更大。这种情况很少见：大多数物质在凝固时都会收缩，体积变得更小。",
    "ja": "氷が水に浮くのは、もとの水よりも大きな場所を占めるからです。これは珍しいことで、ほとんどの物質は固まるときに縮みます。",
    "ko": "얼음이 물에 뜨는 까닭은 얼음이 된 물보다 더 많은 자리를 차지하기 때문입니다. 이것은 드문 일로, 대부분의 물질은 굳을 때 줄어듭니다.",
    "ar": "يطفو الجليد على الماء لأنه يشغل مكانا أكبر من الماء الذي تكون منه. وهذا أمر نادر، فمعظم المواد تنكمش عندما تتجمد.",
    "hi": "बर्फ पानी पर तैरती है क्योंकि वह उस पानी से अधिक जगह लेती है जिससे वह बनी है। यह दुर्लभ है: अधिकांश पदार्थ जमने पर सिकुड़ जाते हैं।",
    "el": "Ο πάγος επιπλέει στο νερό επειδή καταλαμβάνει περισσότερο χώρο από το νερό από το οποίο έγινε. Αυτό είναι σπάνιο: τα περισσότερα υλικά συρρικνώνονται όταν στερεοποιούνται.",
}  # fmt: skip


@pytest.mark.parametrize("code", TEXTS)
def test_a_language_passes_for_itself_and_for_no_other(code: str) -> None:
    assert refusal({"rule": "language", "wanted": [code]}, TEXTS[code]) is None
    other = "fr" if code == "en" else "en"
    reason = refusal({"rule": "language", "wanted": [other]}, TEXTS[code]) or ""
    assert reason.startswith(f"answer is in {code}, not in {other}: ")


def test_several_languages_may_be_wanted() -> None:
    both = f"{TEXTS['en']}\n\n{TEXTS['de']}"
    assert refusal({"rule": "language", "wanted": ["de", "en"]}, both) is None
    assert " of answer is in de, not in en or fr" in (refusal({"rule": "language", "wanted": ["en", "fr"]}, both) or "")


@pytest.mark.parametrize("code", [code for code in TEXTS if code != "en"])
def test_mixed_answers(code: str) -> None:
    text = f"{TEXTS['en']} {TEXTS['en']}\n{TEXTS[code]}"
    assert f"% of answer is in {code}, not in en" in (refusal({"rule": "language", "wanted": ["en"]}, text) or "")
    assert refusal({"rule": "language", "wanted": ["en"], "mixed": False}, text) is None


PASSES_AS_ENGLISH = {
    "short": "Guten Tag, wie geht es Ihnen?",
    "numbers": "12345 67890 " * 40,
    "code": f"Ice floats, as this shows.\n```python\n# {TEXTS['de']}\n# {TEXTS['de']}\n```\nThat is what you asked for, I think.",
    "code without a word": "```\n" + TEXTS["de"] + "\n```",
    "inline code": "Use `"
    + TEXTS["fr"][:80]
    + "` as the text that is shown on the first page of the book, if you like.",
    "a quoted word": TEXTS["en"] + " The Germans say „Eis schwimmt“ and the Chinese 冰浮在水上, which is the same.",
    "formulas": r"The sum is $\alpha + \beta \cdot \gamma$ and then \[ \int_0^\infty x^2 dx \] which is what we had to show here.",
    "addresses": "See https://example.org/der-die-das/und-nicht-oder/weil-wenn for the rest of what there is to say on it.",
    "names": "The rivers are Rhine, Danube, Elbe and Oder, and they all flow through towns that are older than the state.",
    "curly quotes": "It’s “fine” – that’s what she said when they asked her about it on the way home from the station…",
    "upper case": TEXTS["en"].upper(),
    "Greek letters": "Let α and β be the angles of the triangle, then γ is what is left of the half circle: γ = π - α - β.",
}


@pytest.mark.parametrize("name", PASSES_AS_ENGLISH)
def test_what_is_no_other_language_passes(name: str) -> None:
    assert refusal({"rule": "language", "wanted": ["en"]}, PASSES_AS_ENGLISH[name]) is None


def test_relatives_pass_for_each_other() -> None:
    norwegian = (
        "Is flyter på vann fordi den tar mer plass enn vannet den ble til av. Det er sjeldent at stoffer gjør det."
    )
    assert refusal({"rule": "language", "wanted": ["nb"]}, norwegian) is None


@pytest.mark.parametrize(
    ("setting", "fix"),
    [
        ({"wanted": []}, 'wanted = ["en"]'), ({}, 'wanted = ["en"]'), ({"wanted": ["EN"]}, "did you mean 'en'?"),
        ({"wanted": ["english"]}, "did you mean 'en'?"), ({"wanted": ["pt-BR"]}, "did you mean 'pt'?"),
        ({"wanted": ["zxx"]}, ""), ({"wanted": ["en"], "min_chars": 3}, ""),
    ],
)  # fmt: skip
def test_unknown_languages(setting: dict[str, object], fix: str) -> None:
    assert fix in problem({"rule": "language", **setting}).fix


def test_the_reasoning_is_in_the_language_of_the_answer() -> None:
    def judged(answer: str, trace: object, **more: object) -> str | None:
        return refusal({"rule": "reasoning_language", **more}, answer, reasoning=trace)

    said = judged(TEXTS["en"], TEXTS["zh"])
    assert said is not None and said.startswith("reasoning is in zh, answer in en: ")
    assert (judged(TEXTS["fr"], TEXTS["es"]) or "").startswith("reasoning is in es, answer in fr: ")
    assert judged(TEXTS["de"], TEXTS["de"] * 3) is None
    for missing in (None, "", "Okay.", "12 + 30 = 42"):
        assert judged(TEXTS["en"], missing) is None
    assert judged("42", TEXTS["zh"]) is None
    assert judged(TEXTS["en"], TEXTS["zh"], reasoning="thoughts") is None


def test_without_the_extra_the_rules_of_language_say_how_to_get_it(tmp_path: Path) -> None:
    code = """
        import sys
        sys.modules["py3langid"] = None
        from distillgen.errors import ExtraMissing
        from distillgen.steps.rules import PRESETS, bind_rule
        for preset in PRESETS.values():
            for setting in preset:
                bind_rule(setting, "answer")
        for setting in ({"rule": "language", "wanted": ["en"]}, "reasoning_language"):
            try:
                bind_rule(setting, "answer")
            except ExtraMissing as error:
                print(error.problems[0].what, error.problems[0].fix)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=clean_environment(),
        cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.count("pip install 'distillgen[language]'") == 2, done.stderr


# -- format: code ------------------------------------------------------------------------------------------------------


def fenced(language: str, code: str, fence: str = "```") -> str:
    return f"Here it is:\n\n{fence}{language}\n{code}\n{fence}\nThat is all."


@pytest.mark.parametrize(
    ("code", "text", "reason"),
    [
        ("python", fenced("python", "print(1)"), None),
        ("python", fenced("py", "x = '\\d'"), None),
        ("python3", fenced("Python", "print(1)", "~~~~"), None),
        ("python", fenced('python title="a.py"', "print(1)"), None),
        ("any", fenced("", "whatever this is {"), None),
        ("any", fenced("rust", "fn main( {"), None),
        ("c++", fenced("cpp", "int main() {}"), None),
        ("json", fenced("json", '{"a": 1}'), None),
        ("toml", fenced("toml", "a = 1"), None),
        ("python", "1. Write this:\n   ```python\n   print(1)\n   ```", None),
        ("python", "print(1)", "answer has no code block of python"),
        ("any", "Use ```print(1)``` for it.", "answer has no code block"),
        ("python", fenced("js", "let a = 1"), "answer has no code block of python"),
        ("python", "```python\nprint(1)", "answer has a python block 1 that is not closed"),
        ("python", fenced("python", "  \n"), "answer has a python block 1 that is empty"),
        (
            "python",
            fenced("python", "print(1)") + fenced("python", "print("),
            "answer has a python block 2 that cannot be parsed: '(' was never closed in line 1",
        ),
        ("any", fenced("json", "{'a': 1}"), "answer has a code block 1 that cannot be parsed: "),
        ("toml", fenced("toml", "a = "), "answer has a toml block 1 that cannot be parsed: "),
    ],
)
def test_code_blocks(code: str, text: str, reason: str | None) -> None:
    said = refusal({"rule": "format", "code": code}, text)
    assert said is None if reason is None else (said or "").startswith(reason)


@pytest.mark.parametrize(
    ("language", "code", "reason"),
    [
        ("python", "(" * 20_000, "cannot be parsed"),
        ("python", "-" * 90_000 + "1", "nested too deeply"),
        ("python", "a" + ".b" * 40_000, "nested too deeply"),
        ("python", "[" * 90 + "]" * 90, "cannot be parsed|nested too deeply|passed"),
        ("python", "a\0b", "cannot be parsed"),
        ("python", "a = '\ud800'", "cannot be parsed"),
        ("python", "a = 1\n" * 40_000, "it has 239,999 characters, 100,000 are the most"),
        ("python", "a = " + "9" * 20_000, "cannot be parsed"),
        ("json", "[" * 40_000, "cannot be parsed"),
        ("toml", "a = " + "[" * 40_000, "cannot be parsed"),
        ("toml", "a." * 4_000 + "a = 1", "passed"),
        ("toml", "a." * 30_000 + "a = 1", "it has 60,005 characters, 10,000 are the most"),
    ],
)
def test_hostile_code_is_refused_and_no_more(language: str, code: str, reason: str) -> None:
    said = refusal({"rule": "format", "code": language}, fenced(language, code.rstrip("\n"))) or "passed"
    assert any(each in said for each in reason.split("|")), said[:200]


def test_a_language_is_one_word() -> None:
    assert problem({"rule": "format", "code": "python or so"}).key == "code"


# -- own functions -----------------------------------------------------------------------------------------------------

MY_RULES = '''
import random
import helper

def short(columns, least=3):
    """Refuse short answers."""
    if len(columns["answer"].split()) < least:
        return f"only {columns['answer']!r}"

def meddles(columns):
    columns["answer"] = "changed"
    columns["list"].append(1)

def raises(columns):
    return helper.divide(
        1, len(columns["answer"])
    )

def leaves(columns):
    raise SystemExit(3)

def wrong(columns):
    return False

def talks(columns):
    print("printed by the rule")
    return "\\x1b[31mred\\n" + "x" * 1000

def deep(columns):
    return deep(columns)

async def later(columns):
    return None

def no_reason(columns):
    return ""

LIMIT = 3
'''


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., str | None]:
    (tmp_path / "my_rules.py").write_text(MY_RULES)
    (tmp_path / "helper.py").write_text("def divide(a, b):\n    return a / (b - b)\n")
    # What has the name of an installed module is found as a rule, and takes nobody's place.
    (tmp_path / "random.py").write_text("def nothing(columns):\n    return 'from the file'\n")

    def judge(setting: object, answer: str, **columns: object) -> str | None:
        verdict = bind_rule(setting, "answer", Context(tmp_path)).check(row(answer, **columns))  # type: ignore[arg-type]
        assert verdict is None or isinstance(verdict, str)
        return verdict

    return judge


def test_own_functions_refuse_and_keep(own: Callable[..., str | None]) -> None:
    assert own("my_rules:short", "two words") == "only 'two words'"
    assert own("my_rules:short", "these are four words") is None
    longer = {"rule": "function", "call": "my_rules:short", "arguments": {"least": 9}}
    assert own(longer, "these are four words") == "only 'these are four words'"
    said = own("os.path:basename", "x") or ""
    assert said.startswith("os.path:basename raised TypeError: expected str, bytes or os.PathLike object, not dict")


def test_rejections_name_the_own_function(own: Callable[..., str | None], tmp_path: Path) -> None:
    assert bind_rule("my_rules:short", "answer", Context(tmp_path)).name == "my_rules:short"
    assert source_of("my_rules:short", tmp_path) == tmp_path / "my_rules.py"
    assert source_of("json:loads", tmp_path) is None


def test_an_own_function_changes_nothing(own: Callable[..., str | None], tmp_path: Path) -> None:
    given = row("as it was", list=[])
    assert bind_rule("my_rules:meddles", "answer", Context(tmp_path)).check(given) is None
    assert given.columns == {"answer": "as it was", "list": []}


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("raises", "my_rules:raises raised ZeroDivisionError: division by zero at my_rules.py:"),
        ("leaves", "my_rules:leaves raised SystemExit: 3 at my_rules.py:"),
        ("wrong", "my_rules:wrong returned bool, not a reason (text) or None"),
        ("deep", "my_rules:deep raised RecursionError: maximum recursion depth exceeded"),
        ("no_reason", "my_rules:no_reason refused it without a reason"),
    ],
)
def test_an_own_function_that_fails_refuses_the_row(own: Callable[..., str | None], function: str, reason: str) -> None:
    assert (own(f"my_rules:{function}", "word") or "").startswith(reason)


def test_what_an_own_function_says_is_cut_and_harmless(
    own: Callable[..., str | None], capsys: pytest.CaptureFixture[str]
) -> None:
    said = own("my_rules:talks", "word") or ""
    assert len(said) <= 300 and said.isprintable() and said.startswith("[31mred xxx")
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == "printed by the rule\n"


def test_a_keyboard_interrupt_is_the_users(tmp_path: Path) -> None:
    (tmp_path / "stop.py").write_text("def now(columns):\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        bind_rule("stop:now", "answer", Context(tmp_path)).check(row("x"))


def test_a_file_beside_the_recipe_takes_no_modules_place(own: Callable[..., str | None], tmp_path: Path) -> None:
    import random

    assert own("random:nothing", "x") == "from the file"
    assert own("my_rules:short", "long enough, it is") is None  # it imports random, the real one
    assert random.random and str(tmp_path) not in sys.path and not list(tmp_path.rglob("*.pyc"))


def test_a_module_is_imported_once_and_two_folders_have_their_own(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "once.py").write_text(
            f"with open(__file__ + '.log', 'a') as log:\n    log.write('x')\n"
            f"def one(columns):\n    return 'one of {folder}'\ndef two(columns):\n    return None\n"
        )
    for _ in range(2):
        for folder in ("a", "b"):
            context = Context(tmp_path / folder)
            assert bind_rule("once:one", "answer", context).check(row("x")) == f"one of {folder}"
            assert bind_rule("once:two", "answer", context).check(row("x")) is None
    assert [(tmp_path / folder / "once.py.log").read_text() for folder in ("a", "b")] == ["x", "x"]


def test_packages_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "checks").mkdir()
    (tmp_path / "checks" / "__init__.py").write_text("from .parts import it\n")
    (tmp_path / "checks" / "parts.py").write_text("def it(columns):\n    return 'it'\n")
    for call in ("checks:it", "checks.parts:it"):
        assert bind_rule(call, "answer", Context(tmp_path)).check(row("x")) == "it"


@pytest.mark.parametrize(
    ("files", "setting", "what", "fix"),
    [
        ({}, {"rule": "function"}, "'' is not \"module:function\"", "call = "),
        ({}, "my rules:short", "is not \"module:function\"", "call = "),
        ({"my_rules.py": ""}, "my_ruels:short", "no module 'my_ruels' beside the recipe", "did you mean 'my_rules'?"),
        ({}, "my_rules:short", "no module 'my_rules' beside the recipe", "write my_rules.py"),
        ({"my_rules.py": MY_RULES.replace("import helper", "")}, "my_rules:shrot", "my_rules.py has no function 'shrot'", "did you mean 'short'?"),
        ({"my_rules.py": MY_RULES.replace("import helper", "")}, "my_rules:LIMIT", "my_rules:LIMIT is not a function but int", ""),
        ({"my_rules.py": MY_RULES.replace("import helper", "")}, "my_rules:later", "my_rules:later is a generator or asynchronous", ""),
        ({"my_rules.py": "\ndef broken(:\n"}, "my_rules:x", "my_rules cannot be imported: SyntaxError: invalid syntax", ""),
        ({"my_rules.py": "\n1 / 0\n"}, "my_rules:x", "my_rules cannot be imported: ZeroDivisionError: division by zero at my_rules.py:2", ""),
        ({"my_rules.py": "import not_there\n"}, "my_rules:x", "my_rules cannot be imported: ModuleNotFoundError: No module named 'not_there' at my_rules.py:1", ""),
        ({"my_rules.py": "raise SystemExit(1)\n"}, "my_rules:x", "my_rules cannot be imported: SystemExit: 1", ""),
        (
            {"my_rules.py": MY_RULES.replace("import helper", "")},
            {"rule": "function", "call": "my_rules:short", "arguments": {"most": 3}},
            "my_rules:short cannot be called so: got an unexpected keyword argument 'most'", "",
        ),
    ],
)  # fmt: skip
def test_own_functions_that_cannot_be_had(
    tmp_path: Path, files: dict[str, str], setting: object, what: str, fix: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    found = problem(setting, tmp_path)
    assert what in found.what and fix in found.fix
    if "SyntaxError" in what:
        assert "my_rules.py:2" in found.what


# -- presets -----------------------------------------------------------------------------------------------------------

GOOD = "Ice floats because it is less dense than the water it is made of; most other things sink in what they melt to."
BAD_FOR_ALL = {
    "not_empty": " ",
    "special_tokens": f"{GOOD}<|im_end|>",
}
BAD_FOR_CHAT = BAD_FOR_ALL | {
    "not_refusal": "I'm sorry, but I can't help with that request, as it is not something I do.",
    "teacher_identity": f"As an AI language model, I know that much. {GOOD}",
    "prompt_leak": f"### Response:\n{GOOD}",
    "repetition": "Ice floats. " + "It is so very light. " * 20,
}
BAD = {
    "chat": BAD_FOR_CHAT,
    "reasoning": BAD_FOR_CHAT,
    "labels": BAD_FOR_ALL | {"length": "yes " * 30},
    "strict": BAD_FOR_CHAT | {"length": "It floats.", "pii": f"{GOOD} Write to alice.miller@gmail.com for more."},
}


def preset_refusal(preset: str, given: Row) -> tuple[str, str] | None:
    step = FilterStep(use="filter", preset=preset)
    return apply_rules(given, [bind_rule(setting, "answer") for setting, _ in settings_of(step)]).refused


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_keep_what_is_good(preset: str) -> None:
    answer = "positive" if preset == "labels" else GOOD
    assert preset_refusal(preset, row(answer, reasoning="Ice has a lower density. So it floats.")) is None


@pytest.mark.parametrize(("preset", "rule"), [(preset, rule) for preset, bad in BAD.items() for rule in bad])
def test_presets_refuse_by_the_rule_that_says_why(preset: str, rule: str) -> None:
    refused = preset_refusal(preset, row(BAD[preset][rule], reasoning="Let me think. It floats."))
    assert refused is not None and refused[0] == rule, refused


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_refuse_what_was_cut_off(preset: str) -> None:
    given = row("It floa")
    cut = given._replace(trail=({**given.trail[0], "finish_reason": "length"},))
    assert preset_refusal(preset, cut) == ("not_truncated", "answer was cut off after an unknown number of tokens")


@pytest.mark.parametrize(
    ("reasoning", "rule", "reason"),
    [
        ("", "not_empty", "reasoning is empty"),
        ("It floats.<|im_end|>", "special_tokens", "reasoning "),
        ("Wait, let me check again. " * 12, "repetition", "reasoning ends in "),
    ],
)
def test_the_trace_counts_in_preset_reasoning(reasoning: str, rule: str, reason: str) -> None:
    refused = preset_refusal("reasoning", row(GOOD, reasoning=reasoning))
    assert refused is not None and refused[0] == rule and refused[1].startswith(reason)
    assert preset_refusal("chat", row(GOOD, reasoning=reasoning)) is None


def test_a_trace_may_go_over_the_same_ground_again() -> None:
    trace = "Let me check that again: the sum is forty and two, so half of it must be twenty one.\n"
    thoughts = "".join(trace + f"Step {n} gives {n * 7} more than step {n - 1}, by rule {n * n}.\n" for n in range(5))
    assert preset_refusal("reasoning", row(GOOD, reasoning=thoughts)) is None
    assert refusal({"rule": "repetition", "lines": 0.3}, thoughts) is not None


def test_a_rule_of_the_recipe_takes_the_place_of_the_presets() -> None:
    step = FilterStep(
        use="filter", preset="chat", without=["prompt_leak"], rules=[{"rule": "repetition", "loop": 9}, "json:loads"]
    )
    settings = settings_of(step)
    assert [setting for setting, place in settings if place is not None] == step.rules
    assert [setting for setting, place in settings if place is None] == [
        name for name in PRESETS["chat"] if name not in ("prompt_leak", "repetition")
    ]


def test_it_takes_only_the_place_on_its_own_column() -> None:
    def kept(rule: dict[str, object]) -> list[object]:
        step = FilterStep(use="filter", preset="reasoning", rules=[rule])
        settings = settings_of(step, "answer")
        assert settings[-1] == (rule, 0)
        return [setting for setting, _ in settings[:-1]]

    assert kept({"rule": "not_empty", "column": "title"}) == list(PRESETS["reasoning"])
    of_answer = [setting for setting in PRESETS["reasoning"] if setting != "not_empty"]
    assert kept({"rule": "not_empty", "column": "answer"}) == of_answer == kept({"rule": "not_empty"})
    of_trace = [setting for setting in PRESETS["reasoning"] if setting != {"rule": "not_empty", "column": "reasoning"}]
    assert kept({"rule": "not_empty", "column": "reasoning"}) == of_trace
    without = FilterStep(use="filter", preset="reasoning", without=["not_empty"])
    assert not [setting for setting, _ in settings_of(without, "answer") if "not_empty" in str(setting)]


def test_a_rule_that_is_no_name_is_a_problem_and_no_more() -> None:
    for rule in ({"rule": ["x"]}, {"rule": {"x": 1}, "column": []}):
        step = FilterStep(use="filter", preset="chat", rules=[rule])
        assert settings_of(step, "answer")[-1] == (rule, 0)
        assert problem(rule).what == "a rule without `rule`"


# -- in another process ------------------------------------------------------------------------------------------------


def judged_there(makings: bytes, rows: list[Row]) -> list[object]:
    """Rebuild a filter, and return what it says of rows."""
    step = pickle.loads(makings)
    return [outcome for row in rows for outcome in step(row)]


def test_a_filter_says_the_same_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "my_rules.py").write_text("def short(columns):\n    return 'own: ' + columns['answer'][:9]\n")
    told = "Do what is asked and give the result alone, without an opening or a closing remark."
    context = Context(tmp_path, {"answer": (told,)})
    mask = {"rule": "pii", "action": "mask", "column": "reasoning"}
    settings = [*PRESETS["strict"], {"rule": "format", "regex": r"[.!?]\s*$"}, mask, "my_rules:short"]
    step = Filter("2.filter", [bind_rule(setting, "answer", context) for setting in settings])
    texts = [*BAD["strict"].values(), GOOD, GOOD[:-1], told]
    rows = [row(text, reasoning="Ask a@b-c.de.") for text in texts]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(judged_there, pickle.dumps(step), rows).result()
    assert there == [outcome for row in rows for outcome in step(row)]
    refused = {outcome.rule for outcome in there if isinstance(outcome, Rejection)}
    assert refused == {*BAD["strict"], "format", "my_rules:short"}


def test_a_filter_with_a_function_of_ones_own_may_have_a_memory() -> None:
    assert Filter("2.filter", [bind_rule(setting, "answer") for setting in PRESETS["strict"]]).is_pure
    assert not Filter("2.filter", [bind_rule(setting, "answer") for setting in ("not_empty", "json:loads")]).is_pure


# -- what no rule may choke on -----------------------------------------------------------------------------------------

TEN_MEGABYTES = 10_000_000
SETTINGS: dict[str, dict[str, object]] = {
    "length": {"max_words": 10, "max_chars": 100},
    "language": {"wanted": ["de"]},
    "format": {"regex": "(x+x+)+y", "not_contains": ["never there"], "code": "python", "json": True},
    "function": {"call": "json:dumps"},
    "prompt_leak": {"texts": ["You are a helpful assistant who answers in one short and friendly sentence."]},
}
HUGE: dict[str, Callable[[], str]] = {
    "one letter": lambda: "x" * TEN_MEGABYTES,
    "one word": lambda: "word " * (TEN_MEGABYTES // 5),
    "lines": lambda: "\n".join(f"This is line {n} of many." for n in range(TEN_MEGABYTES // 28)),
    "blank lines": lambda: "\n" * TEN_MEGABYTES,
    "fences": lambda: "```python\n~~~~\n" * (TEN_MEGABYTES // 15),
    "marks": lambda: "$<`\\[{{<|@://" * (TEN_MEGABYTES // 13),
    "digits": lambda: "1234567890" * (TEN_MEGABYTES // 10),
    "Chinese": lambda: "冰浮在水面上，是因为它占的空间更大。" * (TEN_MEGABYTES // 54),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("text", HUGE)
def test_ten_megabytes_are_judged(rule: str, text: str) -> None:
    answer = HUGE[text]()
    verdict = bind_rule({"rule": rule, **SETTINGS.get(rule, {})}, "answer").check(row(answer, reasoning=answer))
    assert verdict is None or len(str(verdict)) < 1000 or not isinstance(verdict, str)


def test_a_catastrophic_pattern_refuses_the_row() -> None:
    reason = refusal({"rule": "format", "regex": r"^(([a-z])+.)+[A-Z]([a-z])+$"}, "a" * 100_000) or ""
    assert reason == "answer took '^(([a-z])+.)+[A-Z]([a-z])+$' more than 1 s to match" or "does not match" in reason


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("value", [None, 0, 1.5, True, [], {"a": ["b"]}, "", "\ud800 alone", "\0", "é́́" * 50])
def test_every_rule_takes_every_value(rule: str, value: object) -> None:
    given = {"not": "used"} if rule == "never" else SETTINGS.get(rule, {})
    verdict = bind_rule({"rule": rule, **given}, "answer").check(row(value, reasoning=value))
    assert verdict is None or verdict
