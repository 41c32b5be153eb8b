"""Terms on the road: what stops a build, what is told, what manifest and card keep."""

import datetime
import json
import subprocess
import sys

import pytest
from conftest import Project, clean_environment
from loopback import Loopback

from distillgen.recipe import read_recipe
from distillgen.teacher.terms import NOT_ADVICE, UNKNOWN_MODEL, entries
from distillgen.terms import weigh

OPENAI = "openai-services-agreement"


def with_terms(project: Project, terms: str, model: str = 'model = "scripted"') -> None:
    """Put a [terms] table into the recipe, and another model."""
    project.write("recipe.toml", f"{project.recipe.read_text()}\n[terms]\n{terms}\n")
    project.edit('model = "scripted"', model)


def of_openai(project: Project, terms: str) -> None:
    """Say that the teacher is OpenAI's; its address stays the loopback server's."""
    with_terms(project, terms, 'model = "gpt-5-mini"\nprovider = "openai"')
    project.edit("sampling = { max_tokens = 100 }", "")


def test_unknown_terms_warn_and_are_recorded_as_unknown(demo: Project) -> None:
    done = demo.build()
    assert "warning: terms unknown: unknown-model" in done.stderr and "distillgen terms unknown-model" in done.stderr
    terms = demo.manifest()["terms"]
    assert (terms["stance"], terms["purpose"], terms["competing"], terms["accepted"]) == (
        "unknown",
        "internal",
        "unknown",
        {},
    )
    [judged] = terms["teachers"]["main"]
    assert judged["verdict"] == "unknown" and judged["entry"]["id"] == UNKNOWN_MODEL and judged["entry"]["digest"]
    card = (demo.version() / "README.md").read_text()
    assert "## Terms" in card and "**unknown**" in card and NOT_ADVICE.split(".")[0] in card


def test_strict_stops_where_nobody_knows(demo: Project, loopback: Loopback) -> None:
    with_terms(demo, "strict = true")
    done = demo.run("build")
    assert done.returncode == 9 and "DG801 terms are unknown" in done.stderr and loopback.seen == 0
    assert f'accept = ["{UNKNOWN_MODEL}"]' in done.stderr
    demo.edit("strict = true", f'strict = true\naccept = ["{UNKNOWN_MODEL}"]')
    demo.build()
    accepted = demo.manifest()["terms"]["accepted"][UNKNOWN_MODEL]
    assert (
        accepted["date"] == datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d") and len(accepted["digest"]) == 64
    )
    assert "nothing changed" in demo.build().stderr


def test_restricted_terms_stop_a_build_until_they_are_accepted(
    demo: Project, loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    of_openai(demo, 'purpose = "product"')
    for command in (["build"], ["build", "--offline"], ["plan", "--sample", "2"]):
        done = demo.run(*command, OPENAI_API_KEY="sk-none")
        assert done.returncode == 9 and f"distillgen terms {OPENAI}" in done.stderr and loopback.seen == 0
    assert not (demo.folder / "datasets").exists()
    plan = json.loads(demo.run("plan", "--json").stdout)["terms"]
    assert (plan["stance"], plan["stops"], plan["teachers"]["main"]) == ("restricted", [OPENAI], "restricted")
    assert f"a build stops until [terms] accept has {OPENAI}" in demo.run("plan").stdout
    demo.edit('purpose = "product"', f'purpose = "product"\naccept = ["{OPENAI}"]')
    done = demo.run("build", OPENAI_API_KEY="sk-none")
    assert done.returncode == 0 and f"warning: terms accepted by you: {OPENAI}" in done.stderr
    terms, card = demo.manifest()["terms"], (demo.version() / "README.md").read_text()
    assert terms["stance"] == "restricted", "an acceptance makes nothing allowed"
    assert terms["accepted"][OPENAI]["digest"] == entries()[OPENAI].digest
    assert f"accepted by the owner on {terms['accepted'][OPENAI]['date']}: {OPENAI}" in card


def test_the_owners_word_on_competing_is_a_condition(demo: Project) -> None:
    of_openai(demo, 'competing = "no"')
    done = demo.run("build", OPENAI_API_KEY="sk-none")
    assert done.returncode == 0 and "a condition of the terms: The student does not compete with OpenAI" in done.stderr
    assert demo.manifest()["terms"]["stance"] == "conditions"
    demo.edit('competing = "no"', 'competing = "yes"')
    done = demo.run("build", OPENAI_API_KEY="sk-none")
    assert done.returncode == 9 and "terms are prohibited" in done.stderr


def test_the_terms_of_a_judge_count_too(demo: Project, loopback: Loopback) -> None:
    demo.edit(
        '[[steps]]\nuse = "deduplicate"',
        '[[steps]]\nuse = "judge"\nteacher = "critic"\n\n[[steps]]\nuse = "deduplicate"',
    )
    demo.edit('prompt = "answer"', 'prompt = "answer"\nteacher = "main"')
    demo.edit(
        "[teachers.main]",
        f'[teachers.critic]\nprovider = "openai"\nbase_url = "{loopback.url}"\nmodel = "gpt-5-mini"\n\n[teachers.main]',
    )
    done = demo.run("build", OPENAI_API_KEY="sk-none")
    assert done.returncode == 9 and OPENAI in done.stderr and loopback.seen == 0


def test_a_licence_that_the_student_inherits_stands_in_the_card(demo: Project) -> None:
    with_terms(demo, 'purpose = "open-weights"\nnote = "For the *public* good"', 'model = "gemma-3-27b-it"')
    done = demo.run("build")
    assert done.returncode == 0, done.stderr
    card = (demo.version() / "README.md").read_text()
    front = card.split("---")[1]
    assert 'license: "gemma"' in front and "For the \\*public\\* good" in card


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        (f'accept = ["{OPENAI[:-1]}"]', f"no entry '{OPENAI[:-1]}' in the table of terms in recipe.toml:34 (terms.accept[0])"),
        ('purpose = "products"', "'purpose' is 'products': input should be 'evaluation', 'research', 'internal', 'product' or"),
        ("competing = true", "'competing' is True"),
        ('purposes = "product"', "unknown key 'purposes'"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_told(demo: Project, loopback: Loopback, terms: str, said: str) -> None:
    with_terms(demo, terms)
    done = demo.run("build")
    assert done.returncode == 2 and said in done.stderr and loopback.seen == 0
    assert "did you mean" in done.stderr or "input should" in done.stderr


def test_an_acceptance_keeps_its_date_as_long_as_the_entry_is_the_same(demo: Project) -> None:
    with_terms(demo, f'accept = ["{UNKNOWN_MODEL}"]')
    terms = weigh(*read_recipe(demo.recipe), {"main"})
    first = terms.record("2026-01-01", {})
    assert terms.record("2026-06-01", first)["accepted"] == first["accepted"]
    changed = {"accepted": {UNKNOWN_MODEL: {"digest": "0" * 64, "date": "2026-01-01"}}}
    assert terms.record("2026-06-01", changed)["accepted"][UNKNOWN_MODEL]["date"] == "2026-06-01"


def test_an_entry_that_changed_since_it_was_accepted_warns(demo: Project) -> None:
    with_terms(demo, f'accept = ["{UNKNOWN_MODEL}"]')
    assert "not what it was" not in demo.build().stderr
    manifest = demo.version() / "manifest.json"
    manifest.chmod(0o644)
    digest = demo.manifest()["terms"]["accepted"][UNKNOWN_MODEL]["digest"]
    manifest.write_text(manifest.read_text().replace(digest, "0" * 64))
    said = demo.build().stderr
    assert f"{UNKNOWN_MODEL} is not what it was when you accepted it on " in said


def test_an_old_reading_warns(demo: Project) -> None:
    of_openai(demo, 'competing = "no"')
    terms = weigh(*read_recipe(demo.recipe), {"main"})
    now, later = (terms.warnings(datetime.date(year, 11, 26), {}) for year in (2026, 2036))
    assert not any("read them anew" in str(each) for each in now)
    assert any(f"terms of {OPENAI} were read on" in str(each) for each in later)


def test_one_acceptance_of_several_unknown_models_covers_each_of_them(demo: Project, loopback: Loopback) -> None:
    """`unknown-model` stands for any; what was accepted is told from what came later by the digests."""
    teacher = f'[teachers.NAME]\nbase_url = "{loopback.url}"\nmodel = "NAME"\n\n[teachers.main]'
    demo.edit("[teachers.main]", teacher.replace("NAME", "second", 2))
    demo.edit('prompt = "answer"', 'prompt = "answer"\nteacher = ["main", "second"]')
    with_terms(demo, f'strict = true\naccept = ["{UNKNOWN_MODEL}"]')
    said = demo.build().stderr
    for model in ("scripted", "second"):
        assert f"terms unknown: {UNKNOWN_MODEL} ({model})" in said
        assert f"terms accepted by you: {UNKNOWN_MODEL} ({model})" in said
    terms = demo.manifest()["terms"]
    digests = {judged["entry"]["digest"] for each in terms["teachers"].values() for judged in each}
    assert len(digests) == 2 and set(terms["accepted"][UNKNOWN_MODEL]["digests"]) == digests
    assert "not what it was" not in demo.build().stderr, "nothing changed"
    recipe = weigh(*read_recipe(demo.recipe), {"main", "second"})
    again = recipe.record("2036-01-01", terms)["accepted"][UNKNOWN_MODEL]
    assert again == terms["accepted"][UNKNOWN_MODEL], "the date stays, too"
    demo.edit("[teachers.main]", teacher.replace("NAME", "third", 2))
    demo.edit('["main", "second"]', '["main", "second", "third"]')
    assert f"{UNKNOWN_MODEL} is not what it was when you accepted it on" in demo.build().stderr


def test_two_teachers_of_different_stances_are_recorded_each_for_itself(demo: Project, loopback: Loopback) -> None:
    """The mildest makes nothing milder, and strict stops for both kinds at once."""
    other = f'[teachers.other]\nprovider = "openai"\nbase_url = "{loopback.url}"\nmodel = "gpt-5-mini"\n\n'
    demo.edit("[teachers.main]", f"{other}[teachers.main]")
    demo.edit('prompt = "answer"', 'prompt = "answer"\nteacher = ["main", "other"]')
    with_terms(demo, "strict = true")
    done = demo.run("build", OPENAI_API_KEY="sk-none")
    assert done.returncode == 9 and loopback.seen == 0
    assert f'[terms] accept = ["{OPENAI}", "{UNKNOWN_MODEL}"]' in done.stderr
    demo.edit("strict = true", f'strict = true\naccept = ["{OPENAI}"]')
    done = demo.run("build", OPENAI_API_KEY="sk-none")
    assert done.returncode == 9 and f'accept = ["{OPENAI}", "{UNKNOWN_MODEL}"]' in done.stderr, "one is not both"
    demo.edit(f'"{OPENAI}"', f'"{OPENAI}", "{UNKNOWN_MODEL}"')
    done = demo.run("build", OPENAI_API_KEY="sk-none")
    assert done.returncode == 0, done.stderr
    terms = demo.manifest()["terms"]
    assert terms["stance"] == "restricted" and terms["accepted"].keys() == {OPENAI, UNKNOWN_MODEL}
    assert {name: [each["verdict"] for each in judged] for name, judged in terms["teachers"].items()} == {
        "main": ["unknown"], "other": ["restricted"],
    }  # fmt: skip


# -- pipes -----------------------------------------------------------------------------------------------------------


def test_a_pipe_says_in_one_line_that_terms_restrict_training(demo: Project, loopback: Loopback) -> None:
    """It stops for nothing, and standard output holds rows alone."""
    command = ["generate", "-p", "answer", "-m", "gpt-5-mini", "--provider", "openai", "--base-url", loopback.url]
    line = '{"question": "What is number 1?"}\n'

    def piped(*more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "distillgen", *command, "--max-tokens", "100", *more], cwd=demo.folder, input=line,
            capture_output=True, text=True, timeout=60, check=False, env=clean_environment(OPENAI_API_KEY="sk-none"),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert [json.loads(row)["question"] for row in done.stdout.splitlines()] == ["What is number 1?"]
        return done

    said = [each for each in piped().stderr.splitlines() if each.startswith("terms: ")]
    assert len(said) == 1 and f"{OPENAI} (OpenAI, restricted); see `distillgen terms {OPENAI}`" in said[0]
    for more in (["--quiet"], ["--set", "terms.competing=no"], ["--set", f'terms.accept=["{OPENAI}"]']):
        assert "terms: " not in piped(*more).stderr, more
    assert "prohibited" in piped("--set", "terms.competing=yes").stderr
    command[command.index("--provider") : command.index("--base-url")] = []
    assert "terms" not in piped("--allow-unknown-price").stderr, "of a server of one's own nothing is said"


def test_what_the_owner_says_of_the_terms_is_recorded_though_no_row_changes(demo: Project) -> None:
    demo.build()
    assert "nothing changed" in demo.build().stderr
    demo.recipe.write_text(demo.recipe.read_text() + '\n[terms]\ncompeting = "no"\nnote = "asked our lawyer"\n')
    done = demo.build()
    assert "published demo@2" in done.stderr
    first, second = demo.manifest(1), demo.manifest(2)
    assert first["digest"] == second["digest"] and second["terms"]["competing"] == "no" != first["terms"]["competing"]
    assert "asked our lawyer" in (demo.version(2) / "README.md").read_text()
    assert "nothing changed" in demo.build().stderr
