"""Rows kept before: `against` the version that is appended to, other datasets, and files; their index is only a cache."""

import shutil
from pathlib import Path

import orjson
import pytest
from conftest import Project
from loopback import Loopback, answer, reply

from distillgen.dataset.versions import find_version
from distillgen.earlier import Memory, Place
from distillgen.files import read_jsonl
from distillgen.steps.deduplicate import Deduplicate


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


@pytest.mark.parametrize("forget", [False, True])
def test_rows_that_a_later_step_changed_are_compared_as_they_were_published(
    growing: Project, loopback: Loopback, forget: bool
) -> None:
    """The index held the address, the version does not: the same row was rejected with the one and kept with the other."""
    loopback.behave = lambda body: reply("Write to anna.maria@corp-mail.de for more about it, please, today")
    mask = '[[steps]]\nuse = "filter"\nrules = [{ rule = "pii", action = "mask" }]\n\n[student]'
    growing.edit("[student]", mask)
    ask(growing, 1)
    growing.build()
    assert "[EMAIL]" in growing.rows(1)[0]["messages"][1]["content"]
    if forget:
        shutil.rmtree(growing.folder / ".distillgen/near", ignore_errors=True)
    ask(growing, 1, 2)
    growing.build()
    assert len(growing.rows(2)) == 2 and not rejected(growing, 2)
    ask(growing, 1, 2, 3)
    growing.edit(mask, "[student]")
    loopback.behave = lambda body: reply("Write to [EMAIL] for more about it, please, today")
    growing.build()
    assert rejected(growing, 3)["3"].startswith("exact_duplicate of demo@2/")


def test_rows_that_were_taken_apart_later_are_in_the_index(growing: Project) -> None:
    """Several published rows may be of one that was kept."""
    growing.edit(
        "[student]",
        '[[steps]]\nuse = "generate"\nprompt = "answer"\nsamples = 2\nwrite = { answer = "more" }\n\n[student]',
    )
    ask(growing, 100, 101)
    growing.build()
    assert (
        len(growing.rows(1)) == 4 and len(list((growing.folder / ".distillgen/near/demo").glob("*/*/index.json"))) == 1
    )
    ask(growing, 100, 101, 102)
    growing.build()
    assert len(growing.rows(2)) == 6


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


# -- what is compared with -----------------------------------------------------------------------------------------------


@pytest.fixture
def old(demo: Project, loopback: Loopback) -> Project:
    """Three questions, the answer to each known; a file of rows with two texts."""
    loopback.behave = lambda body: reply(own(len(body["messages"][-1]["content"])))
    demo.seeds([{"question": "q" * size, "n": str(size)} for size in (1, 2, 3)])
    demo.seeds([{"a": own(1), "b": own(2)}, {"b": own(3)}, {"a": None}], "old.jsonl")
    return demo


def compared(project: Project, number: int, name: str = "demo") -> dict[str, str]:
    return {row["columns"]["question"]: row["detail"] for row in project.sidecar("rejected", number, name)}


def test_another_column_is_another_index(old: Project) -> None:
    old.edit("near = 0.8", 'near = 0.8\nagainst = ["old.jsonl"]\nagainst_column = "a"')
    old.build()
    assert compared(old, 1) == {"q": "of old.jsonl:1"}
    old.edit('against_column = "a"', 'against_column = "b"')
    old.build()
    assert compared(old, 2) == {"qq": "of old.jsonl:1", "qqq": "of old.jsonl:2"}


def test_the_same_bytes_under_another_name_may_be_other_rows(old: Project) -> None:
    text = f"{own(1)}\n{own(2)}\n"
    old.write("old.txt", text)
    old.write("old.csv", text)
    old.edit("near = 0.8", 'near = 0.8\nagainst = ["old.txt"]\nagainst_column = "text"')
    old.build()
    assert compared(old, 1) == {"q": "of old.txt:1", "qq": "of old.txt:2"}
    old.edit('["old.txt"]', '["old.csv"]')
    done = old.run("build")
    assert done.returncode == 2 and "no column 'text' to compare with" in done.stderr


def test_indexes_that_no_step_compares_with_are_removed(old: Project) -> None:
    indexes = old.folder / ".distillgen/near/demo"
    old.edit("near = 0.8", 'near = 0.8\nagainst = ["old.jsonl"]\nagainst_column = "b"')
    old.build()
    first = list(indexes.glob("*/*"))
    old.edit("near = 0.8", "near = 0.9")
    assert old.run("build").returncode == 0
    second = list(indexes.glob("*/*"))
    old.seeds([{"b": own(5)}], "old.jsonl")
    assert old.run("build").returncode == 0
    third = list(indexes.glob("*/*"))
    assert [len(each) for each in (first, second, third)] == [1, 1, 1]
    assert first != second != third and len(list(indexes.iterdir())) == 1
    other = old.folder / ".distillgen/near/other/way/content"
    other.mkdir(parents=True)
    old.edit("near = 0.9", "near = 0.7")
    assert old.run("build").returncode == 0
    assert other.is_dir(), "that of another dataset"


@pytest.mark.parametrize("reference", ["qwen2.5", "qwen2.5@1", "qwen2.5@latest"])
def test_datasets_are_found_by_names_that_look_like_files_or_folders(old: Project, reference: str) -> None:
    old.edit('name = "demo"', 'name = "qwen2.5"')
    old.build("--limit", "1")
    (old.folder / "qwen2.5").mkdir()
    old.edit('name = "qwen2.5"', 'name = "other"')
    old.edit("near = 0.8", f'near = 0.8\nagainst = ["{reference}"]')
    old.build()
    assert compared(old, 1, "other")["q"].startswith("of qwen2.5@1/")
    old.edit(f'"{reference}"', '"datasets/qwen2.5/v0001"')
    old.build()
    assert compared(old, 1, "other")["q"].startswith("of qwen2.5@1/")


@pytest.mark.parametrize(
    ("reference", "said", "status"),
    [
        ("qwen2.5", "no such file: 'qwen2.5'", 2),
        ("qwen@2", "no dataset 'qwen'", 10),
        ("some/folder", "no such file: 'some/folder'", 2),
        ("folder", "no dataset 'folder'", 10),
        ("x" * 300 + ".jsonl", "cannot look at 'xxx", 2),
    ],
)
def test_what_is_neither_a_file_nor_a_dataset(old: Project, reference: str, said: str, status: int) -> None:
    for folder in ("folder", "some/folder"):
        (old.folder / folder).mkdir(parents=True)
    old.edit("near = 0.8", f'near = 0.8\nagainst = ["{reference}"]')
    done = old.run("build")
    assert done.returncode == status and said in done.stderr, done.stderr


def test_rows_that_lack_the_column_count_as_empty(old: Project) -> None:
    old.seeds([{"question": "q", "n": own(2)}, {"question": "qq"}])
    old.build()
    old.edit('name = "demo"', 'name = "other"')
    old.edit("near = 0.8", 'near = 0.8\nagainst = ["demo@1"]\nagainst_column = "n"')
    old.build()
    assert list(compared(old, 1, "other")) == ["qq"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("other.jsonl", '{"essay": "a"}\n', "no column 'answer' to compare with in other.jsonl\n      known: essay\n"),
        (
            "old.dat",
            "x",
            "cannot tell the format of 'old.dat' in old.dat\n      what to compare with is a file whose name",
        ),
        ("torn.jsonl", '{"answer": "a"}\n{"ans', "not valid JSON"),
        ("odd.jsonl.gz", "x", "cannot decompress"),
    ],
)
def test_in_a_pipe_no_key_of_a_recipe_is_named(project: Project, name: str, content: str, said: str) -> None:
    project.write(name, content)
    done = project.run("deduplicate", "--against", name, stdin='{"answer": "a b c"}\n')
    assert done.returncode == 2, done.stderr
    assert said in done.stderr.replace(f"{project.folder}/", "")
    assert "against_column" not in done.stderr and "[seeds]" not in done.stderr


def test_a_chat_without_an_answer_is_compared_with_as_it_is_read(project: Project) -> None:
    chats = [
        {"messages": [{"role": "user", "content": "x"}]},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "one two three"}]},
    ]
    project.seeds(chats, "old.jsonl")
    rows = "".join(orjson.dumps(each).decode() + "\n" for each in [*reversed(chats), {"answer": "another one"}])
    done = project.run("deduplicate", "--against", "old.jsonl", "--rejected", "bad.jsonl", stdin=rows)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    (bad,) = read_jsonl(project.folder / "bad.jsonl")
    assert "of old.jsonl:2" in str(bad)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="nothing here that even root cannot read")
@pytest.mark.parametrize("is_pipe", [False, True])
def test_a_file_that_cannot_be_read(old: Project, is_pipe: bool) -> None:
    (old.folder / "hidden.jsonl").symlink_to("/proc/self/mem")
    old.edit("near = 0.8", 'near = 0.8\nagainst = ["hidden.jsonl"]')
    pipe = ("deduplicate", "--against", "hidden.jsonl")
    done = old.run(*pipe, stdin='{"answer": "a"}\n') if is_pipe else old.run("build")
    assert done.returncode == 2 and "DG100 cannot read it: " in done.stderr, done.stderr
    assert "hidden.jsonl" in done.stderr


@pytest.mark.parametrize(
    ("on", "said"),
    [
        ("on = []", "name at least one column"),
        ('on = ["question", "answer"]\nagainst = ["old.jsonl"]\nagainst_column = "a"', "a single column as `on`"),
        ('on = "answer"\nagainst = "previous"\nagainst_column = "a"', "goes with a list as `against`"),
    ],
)
def test_columns_that_cannot_be_compared(old: Project, loopback: Loopback, on: str, said: str) -> None:
    old.edit('on = "answer"', on)
    done = old.run("build")
    assert done.returncode == 2 and "DG103 " in done.stderr and said in done.stderr, done.stderr
    assert not loopback.bodies


def test_an_index_that_cannot_be_kept_is_no_failure(growing: Project) -> None:
    """The version is out by then, whatever becomes of the cache."""
    ask(growing, 1, 100)
    near = growing.write(".distillgen/near", "not a folder")
    growing.build()
    assert len(growing.rows(1)) == 2
    version = find_version("demo", growing.folder / "datasets")
    place = Place(growing.folder, growing.folder / "datasets/demo", growing.folder / ".distillgen")
    step = Deduplicate("3.deduplicate", ["answer"], 0.6, remembers=True)
    (warning,) = Memory(place, {step.name: step}).save(version)
    assert warning.what.startswith("demo@1 is published, but the index of its rows is not kept: cannot write ")
    step.close()
    near.unlink()
    ask(growing, 1, 100, 2)
    growing.build()
    assert rejected(growing, 2)["2"].startswith("near_duplicate of demo@1/")
