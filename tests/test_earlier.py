"""Rows kept before: `against` the version that is appended to, other datasets, and files; their index is only a cache."""

import shutil

import pytest
from conftest import Project
from loopback import Loopback, answer, reply

from distillgen.files import read_jsonl


def own(number: int) -> str:
    return " ".join(f"w{number * 31 + place * place}" for place in range(20))


@pytest.fixture
def growing(demo: Project, loopback: Loopback) -> Project:
    """A recipe that appends; the teacher answers by the number in the question, alike for those below 100."""

    def behave(body: dict) -> object:
        number = int(body["messages"][-1]["content"].rsplit(" ", 1)[-1])
        return reply(own(number) if number >= 100 else f"{own(7)} and {number}")

    loopback.behave = behave
    demo.edit("near = 0.8", 'near = 0.6\nagainst = "previous"')
    demo.recipe.write_text(demo.recipe.read_text() + "append = true\n")
    return demo


def ask(project: Project, *numbers: int) -> None:
    project.seeds([{"question": f"question {number}"} for number in numbers])


def rejected(project: Project, number: int) -> dict[str, str]:
    return {
        row["columns"]["question"].split()[-1]: f"{row['rule']} {row['detail']}"
        for row in project.sidecar("rejected", number)
    }


def test_new_rows_are_compared_with_the_version_they_are_appended_to(growing: Project, loopback: Loopback) -> None:
    ask(growing, 1, 100, 101)
    growing.build()
    ask(growing, 1, 100, 101, 2, 102)
    growing.build()
    assert [row["messages"][0]["content"] for row in growing.rows(2)][:3] == [
        r["messages"][0]["content"] for r in growing.rows(1)
    ][:3]
    ids = {row["columns"]["question"].split()[-1]: row["id"] for row in growing.sidecar("provenance", 2)}
    assert set(ids) == {"1", "100", "101", "102"}
    assert rejected(growing, 2)["2"].startswith(f"near_duplicate of demo@1/{ids['1']}, Jaccard 0.")
    ask(growing, 1, 100, 101, 2, 102, 3, 103)
    growing.build()
    assert rejected(growing, 3)["3"].startswith(f"near_duplicate of demo@2/{ids['1']}, Jaccard 0.")


def test_the_index_is_only_a_cache(growing: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    def third_digest(*, forget: bool) -> str:
        for path in (growing.folder / "datasets", growing.folder / ".distillgen/near"):
            shutil.rmtree(path, ignore_errors=True)
        for numbers in ((1, 100), (1, 100, 2, 101, 102), (1, 100, 2, 101, 102, 3, 4, 103)):
            ask(growing, *numbers)
            growing.build()
            if forget:
                shutil.rmtree(growing.folder / ".distillgen/near")
        return growing.manifest(3)["digest"]

    kept = third_digest(forget=False)
    indexes = list((growing.folder / ".distillgen/near/demo").glob("*/*"))
    assert len(indexes) == 1  # that of the newest version only
    assert third_digest(forget=True) == kept


def test_a_damaged_index_is_made_anew(growing: Project) -> None:
    ask(growing, 1, 100)
    growing.build()
    for file in (growing.folder / ".distillgen/near").rglob("*"):
        if file.is_file():
            file.chmod(0o644)
            file.write_bytes(file.read_bytes()[:-3] + b"???")
    ask(growing, 1, 100, 2)
    growing.build()
    assert "2" not in {row["columns"]["question"].split()[-1] for row in growing.sidecar("provenance", 1)}
    done = growing.run("build")
    assert done.returncode == 0


def test_rows_that_were_kept_by_the_step_but_not_published_reject_nobody(growing: Project) -> None:
    growing.edit(
        "[student]", '[[steps]]\nuse = "filter"\nrules = [{ rule = "format", not_contains = ["and 1"] }]\n\n[student]'
    )
    ask(growing, 1, 100)
    growing.build()
    ask(growing, 1, 100, 2)
    growing.build()
    assert {row["columns"]["question"].split()[-1] for row in growing.sidecar("provenance", 2)} == {"100", "2"}


def test_against_datasets_and_files(demo: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: reply(own(len(body["messages"][-1]["content"])))
    demo.seeds([{"question": "q" * size} for size in (1, 2, 3, 4)])
    demo.build("--limit", "1")
    chat = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": own(2)}]}
    demo.seeds([chat], "old.jsonl")
    demo.write("csv/old.csv", f'n,text\n7,"{own(3).upper()}"\n')
    demo.edit('name = "demo"', 'name = "other"')
    demo.edit("near = 0.8", 'near = 0.8\nagainst = ["demo@1", "old.jsonl", "csv/old.csv"]')
    demo.build()
    rows = list(read_jsonl(demo.version(1, "other") / "rejected.jsonl.zst"))
    details = {row["columns"]["question"]: (row["rule"], row["detail"]) for row in rows}
    first = demo.sidecar("provenance", 1)[0]["id"]
    assert details == {
        "q": ("exact_duplicate", f"of demo@1/{first}"),
        "qq": ("exact_duplicate", "of old.jsonl:1"),
        "qqq": ("exact_duplicate", "of old.csv:2"),
    }


@pytest.mark.parametrize(
    ("setting", "said", "status"),
    [
        ('against = "previous"', "set `append = true` under [dataset]", 2),
        ('against = ["nothing"]', "no dataset 'nothing'", 10),
        ('against = ["none.jsonl"]', "no such file: 'none.jsonl'", 2),
        ('against = ["torn.jsonl"]', "not valid JSON", 2),
        ('against = ["other.jsonl"]', "no column 'answer' to compare with in ", 2),
        ('against = ["other.jsonl"]\nagainst_column = "esay"', "did you mean 'essay'?", 2),
        ("bands = [20, 7]", "product is at most 128", 2),
        ("bands = [20]", "at least 2 items", 2),
        ("words = 0", "greater than or equal to 1", 2),
        ('samples = "drop"', "'keep' or 'compare'", 2),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_with_is_said_before_anything_is_sent(
    demo: Project, loopback: Loopback, setting: str, said: str, status: int
) -> None:
    demo.write("torn.jsonl", '{"answer": "a"}\n{"ans')
    demo.write("other.jsonl", '{"essay": "a"}\n')
    demo.edit("near = 0.8", f"near = 0.8\n{setting}")
    done = demo.run("build")
    assert done.returncode == status and said in done.stderr and not loopback.bodies, done.stderr


def test_samples_of_one_prompt_are_kept_unless_it_is_asked_for(demo: Project, loopback: Loopback) -> None:
    loopback.behave = lambda body: answer(body)  # every sample says the same
    demo.edit('prompt = "answer"', 'prompt = "answer"\nsamples = 3')
    loopback.behave = lambda body: reply(own(3))
    demo.seeds([{"question": "one"}, {"question": "two"}])
    demo.build()
    assert [row["id"].rpartition(".")[2] for row in demo.rows()] == [
        "0",
        "1",
        "2",
    ]  # of one question; the other repeats it
    demo.edit("near = 0.8", 'near = 0.8\nsamples = "compare"')
    demo.build()
    assert len(demo.rows(2)) == 1
