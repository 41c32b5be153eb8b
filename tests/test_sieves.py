"""Quality steps in pipes: anybody's rows in, the same rows out, in order; what is refused goes aside with its reason."""

import json
import os
import subprocess
import sys
import time
from typing import Any

import pytest
from conftest import Project, clean_environment
from hypothesis import given
from hypothesis import strategies as st

from distillgen.foreign import columns_of, put_back, text_at, view_of

GOOD = "Ice floats because it is less dense than the water around it, and so the lake freezes from above."
SORRY = "I'm sorry, but I can't help with that request."
CHAT = {"messages": [{"role": "user", "content": "Why does ice float?"}, {"role": "assistant", "content": GOOD}]}
SHAREGPT = {"conversations": [{"from": "human", "value": "Why does ice float?"}, {"from": "gpt", "value": SORRY}]}
ALPACA = {"instruction": "Why does it float?", "input": "Ice", "output": GOOD}
PAIR = {
    "prompt": [{"role": "user", "content": "Why?"}], "chosen": [{"role": "assistant", "content": GOOD}],
    "rejected": [{"role": "assistant", "content": SORRY}],
}  # fmt: skip


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("row", "prompt", "answer", "reasoning"),
    [
        (CHAT, "Why does ice float?", GOOD, None),
        (SHAREGPT, "Why does ice float?", SORRY, None),
        (ALPACA, "Why does it float?\n\nIce", GOOD, None),
        (PAIR, "Why?", GOOD, None),
        ({"prompt": "q", "completion": "a", "thinking": "t"}, "q", "a", "t"),
        ({"question": "q", "answer": "a"}, "q", "a", None),
        ({"text": "only this"}, None, "only this", None),
        ({"messages": [{"role": "assistant", "content": "a", "reasoning_content": "r"}]}, None, "a", "r"),
        ({"messages": [{"role": "user", "content": "q"}]}, "q", None, None),
        ({"messages": [7, {"role": "user"}, {"role": "user", "content": None}]}, None, None, None),
        ({"n": 3}, None, None, None),
    ],
    ids=["chat", "sharegpt", "alpaca", "pair", "completion", "question", "text", "reasoned", "asked", "odd", "none"],
)
def test_prompt_answer_and_reasoning_are_found(
    row: dict[str, Any], prompt: str | None, answer: str | None, reasoning: str | None
) -> None:
    columns = columns_of(row)
    assert (columns.get("prompt") if prompt else None) == prompt
    assert columns.get("answer") == answer and columns.get("reasoning") == reasoning
    assert put_back(row, columns, columns) == row
    if view_of(row).answer is not None:
        masked = {**columns, "answer": "masked"}
        changed = put_back(row, columns, masked)
        assert columns_of(changed)["answer"] == "masked" and put_back(changed, masked, columns) == row


json_values = st.recursive(
    st.none() | st.booleans() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["messages", "conversations", "prompt", "output", "text", "chosen"]), json_values)
)
def test_rows_of_any_kind_are_looked_at_without_a_crash_and_changed_in_one_place(row: dict[str, Any]) -> None:
    columns = columns_of(row)
    for name, path in zip(("prompt", "answer"), view_of(row)[:2], strict=True):
        if path is not None:
            changed = put_back(row, columns, {**columns, name: "something else"})
            assert text_at(changed, path) == "something else" and columns_of(changed)[name] == "something else"
            assert put_back(changed, columns_of(changed), columns) == row


def test_rows_leave_byte_for_byte_as_they_came(project: Project) -> None:
    odd = '{"id": 123456789012345678901234567890,   "answer":"\\u00e9t\\u00e9", "x": 1e2, "y": -0.0}\r\n'
    last = '{"answer": "no line break behind it"}'
    done = project.run("filter", "-r", "not_empty", stdin=odd + last)
    assert done.stdout == odd.replace("\r", "") + last + "\n"
    masked = project.run(
        "filter", "-r", '{ rule = "pii", action = "mask" }', stdin=odd.replace("t\\", "t me@post.org \\")
    )
    assert '"id": 123456789012345678901234567890, "answer": "ét [EMAIL] é"' in masked.stdout


def test_what_was_left_out_keeps_a_column_called_rejected(project: Project) -> None:
    pair = {"prompt": "Why?", "chosen": "", "rejected": "the worse answer"}
    project.run("filter", "-r", "not_empty", "--rejected", "bad.jsonl", stdin=lines([pair]))
    [bad] = read((project.folder / "bad.jsonl").read_text())
    assert bad == {**pair, "left_out": {"step": "1.filter", "rule": "not_empty", "detail": "answer is empty"}}


@pytest.mark.parametrize(
    ("instruction", "more", "masked"),
    [
        ("Write a mail to", "ann.lee@post.org please", ("Write a mail to", "[EMAIL] please")),
        ("Write to ann.lee@post.org", "today", ("Write to [EMAIL]\n\ntoday", "")),
        ("Write to ann.lee@post.org", "", ("Write to [EMAIL]", "")),
    ],
)
def test_the_prompt_of_alpaca_is_masked_in_both_of_its_places(
    project: Project, instruction: str, more: str, masked: tuple[str, str]
) -> None:
    row = {"instruction": instruction, "input": more, "output": GOOD}
    done = project.run("filter", "-c", "prompt", "-r", '{ rule = "pii", action = "mask" }', stdin=lines([row]))
    [out] = read(done.stdout)
    assert out == {"instruction": masked[0], "input": masked[1], "output": GOOD}


def test_the_columns_that_rules_name_are_wanted_and_no_others(project: Project) -> None:
    row = lines([{"title": "A title"}])
    good = project.run("filter", "-r", '{ rule = "length", column = "title", min_words = 2 }', stdin=row)
    assert (good.returncode, good.stdout) == (0, row)
    wrong = project.run("filter", "-r", '{ rule = "format", column = "titel", not_contains = ["x"] }', stdin=row)
    assert wrong.returncode == 2 and "no column 'titel' in standard input:1" in wrong.stderr
    assert "did you mean 'title'?" in wrong.stderr and not wrong.stdout


def test_filter_keeps_rows_as_they_came_and_says_why_others_went(project: Project) -> None:
    rows = [CHAT, SHAREGPT, ALPACA, {"question": "q", "answer": "", "note": {"deep": [1, None]}}]
    done = project.run("filter", "-r", "not_empty", "-r", "not_refusal", "--rejected", "bad.jsonl", stdin=lines(rows))
    assert done.returncode == 0 and read(done.stdout) == [CHAT, ALPACA]
    bad = read((project.folder / "bad.jsonl").read_text())
    assert [row["left_out"]["rule"] for row in bad] == ["not_refusal", "not_empty"]
    assert {**bad[0], "left_out": 0} == {**SHAREGPT, "left_out": 0} and bad[0]["left_out"]["step"] == "1.filter"
    assert "2 rejected" in done.stderr and not (project.folder / ".distillgen").exists()


def test_filter_reads_toml_rules_presets_and_other_columns(project: Project) -> None:
    rows = [{"essay": "one two three"}, {"essay": "one"}, {"other": 1}]
    rule = '{ rule = "length", min_words = 2 }'
    done = project.run("filter", "-r", rule, "--column", "essay", stdin=lines(rows))
    assert read(done.stdout) == rows[:1]
    done = project.run("filter", "--preset", "chat", "--without", "not_refusal", stdin=lines([SHAREGPT]))
    assert done.returncode == 0 and read(done.stdout) == [SHAREGPT]


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["filter"], "", "name a `preset`, `rules`, or both in --preset"),
        (["filter", "-p", "chatt"], "", "did you mean 'chat'?"),
        (["filter", "-r", "not_emty"], "", "unknown rule 'not_emty' in --rule\n      did you mean 'not_empty'?"),
        (["filter", "-r", "{ rule = "], "", "not a TOML table"),
        (["filter", "-p", "chat", "--without", "pie"], "", "preset 'chat' has no rule 'pie' in --without"),
        (["filter", "-r", "{ rule = 'length', min_word = 2 }"], "", "did you mean 'min_words'?"),
        (["filter", "-r", "not_empty"], '{"n": 1}\n', "name it: --column (n)"),
        (["filter", "-r", "not_empty", "-c", "essy"], '{"essay": 1}\n', "no column 'essy' in standard input:1\n      did you mean 'essay'?"),
        (["filter", "-r", "not_empty"], '{"answer": "a"}\n{torn\n', "in standard input:2\n      mend it, or go over such lines: --skip-bad-rows"),
        (["filter", "-r", "not_empty"], "[1]\n", "a JSON list, not an object in standard input:1"),
        (["deduplicate", "--near", "1.5"], "", "'near' is 1.5: input should be less than or equal to 1 in --near"),
        (["deduplicate", "--against", "old.jsonl"], "", "no such file: 'old.jsonl'"),
        (["deduplicate", "--against", "old"], "", "no dataset 'old'"),
        (["decontaminate", "--against", "none.jsonl"], "", "no such benchmark"),
        (["decontaminate"], "", "Missing option '--against'"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)  # fmt: skip
def test_what_is_wrong_is_said_without_a_traceback(
    project: Project, arguments: list[str], stdin: str, said: str
) -> None:
    done = project.run(*arguments, stdin=stdin)
    assert done.returncode in (2, 10) and said in done.stderr and "Traceback" not in done.stderr
    assert "DG000" not in done.stderr


def test_bad_lines_can_be_gone_over(project: Project) -> None:
    done = project.run(
        "filter", "-r", "not_empty", "--skip-bad-rows", stdin='{"answer": "a"}\n{torn\n{"answer": "b"}\n'
    )
    assert done.returncode == 0 and len(read(done.stdout)) == 2 and "bad rows skipped: 1" in done.stderr


def test_deduplicate_names_the_row_that_another_is_like(project: Project) -> None:
    near = GOOD.replace("above", "the top")
    project.write("old.jsonl", lines([{"answer": "Something that was known before, word for word, in an old file."}]))
    rows = [
        {"id": "first", "output": GOOD},
        {"output": "  " + GOOD.upper()},
        {"output": near},
        {"output": "Something that was known before, word for word, in an old file!"},
        {"output": "Quite another answer, about bread and how it rises in a warm kitchen."},
    ]
    done = project.run(
        "deduplicate", "--near", "0.7", "--against", "old.jsonl", "--rejected", "twins.jsonl", stdin=lines(rows)
    )
    assert done.returncode == 0, done.stderr
    assert read(done.stdout) == [rows[0], rows[4]]
    why = [row["left_out"] for row in read((project.folder / "twins.jsonl").read_text())]
    assert [each["rule"] for each in why] == ["exact_duplicate", "near_duplicate", "near_duplicate"]
    assert why[0]["detail"] == "of first" and why[1]["detail"].startswith("of first, Jaccard 0.")
    assert why[2]["detail"].startswith("of old.jsonl:1, Jaccard 1.000")


def test_decontaminate_names_benchmark_item_and_text(project: Project) -> None:
    item = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."
    project.write("test.jsonl", lines([{"question": item, "answer": "72"}]))
    rows = [{"question": f"Please solve this. {item} How many?", "answer": GOOD}, CHAT]
    done = project.run("decontaminate", "--against", "test.jsonl", "--rejected", "held.jsonl", stdin=lines(rows))
    assert done.returncode == 0, done.stderr
    assert read(done.stdout) == [CHAT]
    (held,) = read((project.folder / "held.jsonl").read_text())
    assert held["left_out"]["rule"] == "contaminated"
    assert "test item 1 (question)" in held["left_out"]["detail"] and "natalia sold clips" in held["left_out"]["detail"]


def test_masked_text_goes_back_to_its_place(project: Project) -> None:
    row = {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "Write to ann.lee@corp-mail.com now."},
        ],
        "n": 1,
    }
    rule = '{ rule = "pii", action = "mask" }'
    done = project.run("filter", "-r", rule, stdin=lines([row]))
    (out,) = read(done.stdout)
    assert (
        out["messages"][1]["content"] == "Write to [EMAIL] now."
        and out["n"] == 1
        and out["messages"][0] == row["messages"][0]
    )


def start(project: Project, *arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "distillgen", *arguments], cwd=project.folder, env=clean_environment(),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("command", [["filter", "-r", "not_empty"], ["deduplicate", "--near", "0.8"]], ids=" ".join)
def test_rows_leave_while_the_input_is_still_open(project: Project, command: list[str]) -> None:
    with start(project, *command) as process:
        assert process.stdin and process.stdout
        for number in range(2):
            process.stdin.write(lines([{"answer": f"the answer number {number} is {number * 7}"}]).encode())
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["answer"].startswith(f"the answer number {number}")
        process.stdin.close()
        assert process.wait(30) == 0


def test_a_reader_that_goes_away_ends_the_pipe(project: Project) -> None:
    rows = project.write("rows.jsonl", lines([{"answer": f"answer {n} of many, " + "x" * 200} for n in range(20_000)]))
    shell = f"{sys.executable} -m distillgen filter -r not_empty < {rows} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, env=clean_environment(), timeout=60, check=False
    )
    first, status = done.stdout.splitlines()
    assert json.loads(first)["answer"].startswith("answer 0") and status == "141" and done.stderr == ""


def test_ctrl_c_ends_a_waiting_pipe_at_once(project: Project) -> None:
    import signal

    with start(project, "filter", "-r", "not_empty") as process:
        assert process.stdin and process.stdout
        process.stdin.write(lines([{"answer": "a"}]).encode())
        process.stdin.flush()
        process.stdout.readline()
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130 and time.monotonic() - began < 20


def test_pipes_compose(project: Project) -> None:
    rows = [CHAT, CHAT, SHAREGPT, ALPACA, {"text": "a third thing, said of bread and of its rising in the warm"}]
    project.write("rows.jsonl", lines(rows))
    project.write("bench.txt", "the quick brown fox jumps over the lazy dog again and again until the night\n")
    run = f"{sys.executable} -m distillgen"
    shell = (
        f"{run} filter -p chat < rows.jsonl | {run} deduplicate --near 0.8 | {run} decontaminate --against bench.txt"
    )
    done = subprocess.run(
        ["bash", "-c", shell],
        capture_output=True,
        text=True,
        cwd=project.folder,
        env=clean_environment(),
        timeout=60,
        check=False,
    )
    assert read(done.stdout) == [CHAT, rows[4]], done.stderr
    assert os.listdir(project.folder).count(".distillgen") == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_said(project: Project) -> None:
    rows = project.write("rows.jsonl", lines([{"answer": "a"}]))
    run = f"{sys.executable} -m distillgen filter -r not_empty"
    for shell in (
        f"{run} < {rows} > /dev/full",
        f"{run} -r '{{ rule = \"length\", min_words = 5 }}' --rejected /dev/full < {rows}",
    ):
        done = subprocess.run(
            ["bash", "-c", shell], capture_output=True, text=True, env=clean_environment(), timeout=60, check=False
        )
        assert done.returncode == 12 and "DG703 no room to write" in done.stderr and "Traceback" not in done.stderr, (
            done.stderr
        )
        assert "Exception ignored" not in done.stderr
