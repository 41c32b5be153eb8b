"""Prompt templates: the library, rendering in the sandbox, and mistakes named with file and line."""

from pathlib import Path

import pytest
from conftest import Project

from distillgen.errors import PromptInvalid, PromptMissing, RowFailed
from distillgen.prompts import Template, library, load_prompt

LIBRARY = {
    "answer", "answer_from_document", "chat", "evolve", "explain", "judge", "judge_pair", "label",
    "label_with_rationale", "persona", "questions_from_document", "reason", "rewrite", "self_instruct",
}  # fmt: skip


def own(folder: Path, text: str, name: str = "mine") -> Path:
    (folder / "prompts").mkdir(exist_ok=True)
    path = folder / "prompts" / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_library_is_complete() -> None:
    assert set(library()) >= LIBRARY


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_each_prompt_of_the_library(name: str) -> None:
    prompt = load_prompt(name)
    messages = prompt.render(prompt.settings.sample)
    assert messages[-1]["role"] == "user" and all(turn["content"].strip() for turn in messages)
    documented = set(prompt.settings.reads) | set(prompt.settings.values)
    assert prompt.needs <= documented, "every column that it reads is documented"
    assert prompt.settings.columns and prompt.settings.checks and prompt.settings.description


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_each_prompt_was_tried_on_the_real_teacher(name: str) -> None:
    tried = load_prompt(name).settings.tried
    assert tried is not None and tried.seeds >= 20 and 0 < tried.kept <= tried.seeds and tried.good and tried.bad


def test_a_prompt_beside_the_recipe_comes_first(tmp_path: Path) -> None:
    own(tmp_path, 'description = "Mine"\nuser = "{{ q }}"', "answer")
    assert load_prompt("answer", tmp_path).settings.description == "Mine"
    assert load_prompt("answer").settings.description != "Mine"


def test_seed_text_is_never_rendered_a_second_time(tmp_path: Path) -> None:
    own(tmp_path, 'description = "x"\nuser = "{{ q }}"')
    assert load_prompt("mine", tmp_path).render({"q": "{{ 7*7 }} {% raw %}"})[0]["content"] == "{{ 7*7 }} {% raw %}"


def test_examples_become_turns(tmp_path: Path) -> None:
    own(
        tmp_path,
        'description = "x"\nsystem = "S"\nuser = "Q: {{ q }} {{ tone }}"\nvalues = { tone = "calm" }\nexamples = [{ q = "1+1", reply = "2" }]',
    )
    prompt = load_prompt("mine", tmp_path)
    assert [turn["content"] for turn in prompt.render({"q": "2+2"})] == ["S", "Q: 1+1 calm", "2", "Q: 2+2 calm"]
    assert prompt.bind({"tone": "angry"}).render({"q": "2+2"})[1]["content"] == "Q: 1+1 angry"


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__ }}", "{{ q.missing }}", "{{ 'x' * 1000000000 }}", "{{ '%1000000000d' % 1 }}",
        "{{ ''|attr('__class__') }}", "{{ [].append(1) }}", "{% for i in range(10**9) %}x{% endfor %}", "{{ 1 / 0 }}",
        "{% for i in range(99999) %}{{ q }}{% for j in range(200) %}x{% endfor %}{% endfor %}",
    ],
)  # fmt: skip
def test_hostile_templates_fail_the_row_not_the_machine(text: str) -> None:
    with pytest.raises(RowFailed):
        Template.parse(text).render({"q": {"a": 1}})


@pytest.mark.parametrize("text", ["{% include '/etc/passwd' %}", "{{ cycler }}", "{{ lipsum() }}"])
def test_nothing_outside_the_row_can_be_reached(text: str) -> None:
    with pytest.raises(RowFailed):
        Template.parse(text).render({})


def test_optional_columns_are_no_needs() -> None:
    assert Template.parse("{{ a }} {% if b is defined %}{{ b }}{% endif %} {{ c | default('') }}").needs == {"a"}


STRUCTURED = 'description = "x"\nuser = "a"\noutput = "json"\n'
OBJECT = '[schema]\ntype = "object"\n[schema.properties]\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('description = "x"\nuser = """\nfine\n{{ broken"""', "mine.toml:4 (user)"),
        ('description = "x"\nuser = "a"\nusre = "b"', "unknown key 'usre'"),
        ('description = "x"', "exactly one of `user`, `messages` and `turns`"),
        ('description = "x"\nuser = "a"\noutput = "json"', "needs a [schema]"),
        ('description = "x"\nuser = "a"\noutput = "labls"', "output"),
        ('description = "x"\nuser = "a {{ q }}"\nexamples = [{ reply = "b" }]', "an example does not fit the template"),
        ("description = ", "not valid TOML"),
        ('description = "x"\nuser = "a"\nwrites = ["one", "two"]', "`writes` has one column for a text or a label"),
        (
            f'{STRUCTURED}writes = ["answr"]\n{OBJECT}answer.type = "string"',
            "`writes` has 'answr', which is no property",
        ),
        (f"{STRUCTURED}{OBJECT}answer = true", "[schema] says nothing about the property 'answer'"),
        (f'{STRUCTURED}[schema]\ntype = "object"\nproperties = "x"', "[schema] is not a JSON schema"),
    ],
)
def test_mistakes_in_a_template_are_named(tmp_path: Path, text: str, said: str) -> None:
    own(tmp_path, text)
    with pytest.raises(PromptInvalid) as caught:
        load_prompt("mine", tmp_path)
    assert said in str(caught.value) and "mine.toml" in str(caught.value)


def test_unknown_prompts_name_the_nearest() -> None:
    with pytest.raises(PromptMissing) as caught:
        load_prompt("explian")
    assert "did you mean 'explain'?" in str(caught.value)


def test_a_template_that_names_a_column_nobody_provides(demo: Project) -> None:
    own(demo.folder, 'description = "x"\nuser = """\nHello\n{{ qestion }}"""')
    demo.edit('prompt = "answer"', 'prompt = "mine"')
    done = demo.run("build")
    assert done.returncode == 2
    assert "prompts/mine.toml:4" in done.stderr and "did you mean 'question'?" in done.stderr


def test_prompts_command(project: Project) -> None:
    listed = project.run("prompts")
    assert listed.returncode == 0 and all(name in listed.stdout for name in ("explain", "judge"))
    assert "description =" in project.run("prompts", "show", "explain").stdout
    rendered = project.run("prompts", "render", "explain", "--seed", '{"topic": "gravity"}')
    assert "gravity" in rendered.stdout
    assert "names" not in rendered.stderr
    wrong = project.run("prompts", "render", "explain", "--seed", "{}")
    assert wrong.returncode == 2 and "the prompt reads: topic" in wrong.stderr
    assert project.run("prompts", "show", "nope").returncode == 2
