"""What is wrong with a recipe is said before anything is sent: file, line, key, and the nearest right one."""

from pathlib import Path

import pytest
from conftest import Project
from loopback import Loopback

from distillgen.errors import RecipeInvalid, UsageError
from distillgen.preparation import prepare
from distillgen.recipe import read_recipe
from distillgen.toml_lines import line_of


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        pytest.param("[student]", "[studnet]", "unknown key 'studnet' in recipe.toml:26 (studnet)\n      did you mean 'student'?", id="table"),
        pytest.param("max_tokens", "max_tokns", "unknown sampling key 'max_tokns' in recipe.toml:11 (teachers.main.sampling.max_tokns)\n      did you mean 'max_tokens'?", id="sampling-key"),
        pytest.param("{ max_tokens = 100 }", "{ stream = true }", "sampling key 'stream' is set by distillgen itself", id="sampling-ours"),
        pytest.param('use = "filter"', 'use = "filtr"', "unknown step 'filtr' in recipe.toml:18 (steps[1].use)\n      did you mean 'filter'?", id="step"),
        pytest.param('"not_refusal"', '"not_refusla"', "unknown rule 'not_refusla' in recipe.toml:19 (steps[1].rules[2])\n      did you mean 'not_refusal'?", id="rule"),
        pytest.param("min_words = 5", "min_wrods = 5", "rule 'length' has no parameter 'min_wrods' in recipe.toml:19", id="rule-parameter"),
        pytest.param("min_words = 5", 'min_words = "5"', "'min_words' of rule 'length': input should be a valid integer", id="rule-parameter-type"),
        pytest.param("min_words = 5", "min_words = 9, max_words = 3", "no text has 9 to 3 words", id="rule-impossible"),
        pytest.param('rule = "length", min_words = 5', 'rule = "format", regex = "("', "not a regular expression", id="rule-regex"),
        pytest.param('rule = "length", min_words = 5', 'rule = "length", column = "anwser", min_words = 5', "no column 'anwser' for rule 'length' in recipe.toml:19 (steps[1].rules[3])\n      did you mean 'answer'?", id="rule-column"),
        pytest.param('prompt = "answer"', 'prompt = "anwser"', "unknown prompt 'anwser' in recipe.toml:15 (steps[0].prompt)\n      did you mean 'answer'?", id="prompt"),
        pytest.param('prompt = "answer"', 'prompt = "answer"\nteacher = "mian"', "unknown teacher 'mian' in recipe.toml:16 (steps[0].teacher)\n      did you mean 'main'?", id="teacher"),
        pytest.param('base_url = "', 'provider = "opneai" # ', "unknown provider 'opneai' in recipe.toml:9 (teachers.main.provider)\n      did you mean 'openai'?", id="provider"),
        pytest.param('model = "scripted"', "", "a teacher without `model` in recipe.toml:8 (teachers.main)", id="no-model"),
        pytest.param('on = "answer"', 'on = "anser"', "no column 'anser' to compare in recipe.toml:23 (steps[2].on)\n      did you mean 'answer'?", id="deduplicate-column"),
        pytest.param('path = "seeds.jsonl"', 'path = ["-", "seeds.jsonl"]', "standard input comes once and alone: path = \"-\" in recipe.toml:6 (seeds.path)", id="stdin-in-a-list"),
        pytest.param("near = 0.8", 'against = "old.jsonl"', "'against' is 'old.jsonl': input should be 'previous' or a valid list in recipe.toml:24 (steps[2].against)", id="either"),
        pytest.param("near = 0.8", "near = 8", "'near' is 8: input should be less than or equal to 1 in recipe.toml:24 (steps[2].near)", id="threshold"),
        pytest.param("{{ question }}", "{{ qestion }}", "[student] names 'qestion', which no seed column or step provides in recipe.toml:27 (student.prompt)\n      did you mean 'question'?", id="student-column"),
        pytest.param("{{ question }}", "{{ question", "template syntax", id="student-template"),
        pytest.param("train = 0.8", "train = 0.7", "shares add up to 0.9, must be 1 in recipe.toml:31 (dataset.splits)", id="splits"),
        pytest.param("train = 0.8", '"../x" = 0.8', "split '../x' cannot be a file name", id="split-name"),
        pytest.param('name = "demo"', 'name = "../demo"', "dataset name '../demo' cannot be a file name in recipe.toml:2 (name)", id="dataset-name"),
        pytest.param('name = "demo"', 'name = "' + "x" * 300 + '"', "cannot be a file name", id="long-name"),
        pytest.param('name = "demo"', "", "missing key 'name'", id="missing-key"),
        pytest.param('name = "demo"', 'name = "demo', "DG102 not valid TOML", id="broken-toml"),
        pytest.param('path = "seeds.jsonl"', 'path = "nothing.jsonl"', "DG201 no seeds at 'nothing.jsonl'", id="missing-seeds"),
        pytest.param('path = "seeds.jsonl"', 'path = "seeds.jsonl"\nid = ["quest"]', "no seed column 'quest' in recipe.toml:7 (seeds.id)\n      did you mean 'question'?", id="id-column"),
        pytest.param("splits =", 'split_by = "topic"\nsplits =', "no column 'topic' to split by", id="split-column"),
        pytest.param('"http://127.0.0.1', '"http://example.com', "DG408 http://example.com", id="plain-http"),
        pytest.param('"http://127.0.0.1', '"file://127.0.0.1', "is not an http or https address", id="file-url"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(
    demo: Project, monkeypatch: pytest.MonkeyPatch, old: str, new: str, said: str
) -> None:
    demo.edit(old, new)
    monkeypatch.chdir(demo.folder)
    with pytest.raises(UsageError) as caught:
        prepare(Path("recipe.toml"))
    assert said in str(caught.value)
    assert {path.name for path in demo.folder.iterdir()} == {"recipe.toml", "seeds.jsonl"}


def test_a_mistake_is_one_block_and_status_2(demo: Project, loopback: Loopback) -> None:
    demo.edit("[student]", "[studnet]")
    done = demo.run("build")
    assert done.returncode == 2 and done.stdout == "" and loopback.seen == 0
    assert done.stderr == "DG103 unknown key 'studnet' in recipe.toml:26 (studnet)\n      did you mean 'student'?\n"


def test_every_problem_is_told_at_once(demo: Project) -> None:
    demo.edit('prompt = "answer"', 'prompt = "anwser"')
    demo.edit('"not_empty"', '"not_emty"')
    errors = demo.run("build").stderr
    assert "unknown prompt 'anwser'" in errors and "unknown rule 'not_emty'" in errors


def test_no_recipe(project: Project) -> None:
    done = project.run("build")
    assert done.returncode == 2 and "DG101 no recipe at recipe.toml" in done.stderr and "distillgen init" in done.stderr


def test_a_recipe_that_is_not_text(project: Project) -> None:
    project.recipe.write_bytes(b"\xff\xfe\x00")
    assert "DG102 not UTF-8" in project.run("plan").stderr


def test_overrides_reach_any_key_and_are_checked(demo: Project) -> None:
    recipe, source = read_recipe(
        demo.recipe, ["steps.0.samples=3", "name=other", "teachers.main.limits={max_in_flight=2}"]
    )
    assert recipe.name == "other" and recipe.steps[0].samples == 3  # type: ignore[union-attr]
    assert recipe.teachers["main"].limits.max_in_flight == 2 and source.overrides["name"] == "other"
    with pytest.raises(RecipeInvalid, match="valid integer") as caught:
        read_recipe(demo.recipe, ["steps.0.samples=many"])
    assert "--set steps[0].samples" in str(caught.value)
    with pytest.raises(UsageError, match=r"has no steps\[9\]"):
        read_recipe(demo.recipe, ["steps.9.samples=1"])
    with pytest.raises(RecipeInvalid, match="valid integer"):
        read_recipe(demo.recipe, ["steps.0.samples=3\nname = 'other'"])
    with pytest.raises(UsageError, match="not KEY=VALUE"):
        read_recipe(demo.recipe, ["samples"])
    with pytest.raises(UsageError, match="nested too deeply"):
        read_recipe(demo.recipe, ["name=" + "[" * 100_000])
    for index in ("²", "9" * 5_000):
        with pytest.raises(UsageError, match="the recipe has no steps"):
            read_recipe(demo.recipe, [f"steps.{index}.samples=1"])


def test_warnings_do_not_stop_a_build(demo: Project) -> None:
    demo.edit("{ max_tokens = 100 }", "{ xyzzy_mode = 1, temperature = 0 }")
    done = demo.build("--set", "steps.0.samples=2")
    assert "warning: sampling key 'xyzzy_mode' is not known here" in done.stderr
    assert "warning: several samples at temperature 0 are all alike" in done.stderr


@pytest.mark.parametrize(
    ("provider", "model", "key", "said", "status"),
    [
        ("openai", "gpt-5.2", "temperature", "gpt-5.2 refuses the sampling key 'temperature'", 2),
        (
            "deepseek",
            "deepseek-flash",
            "temperature",
            "warning: deepseek-flash ignores the sampling key 'temperature'",
            0,
        ),
    ],
)
def test_sampling_keys_that_a_model_refuses_or_ignores(
    demo: Project, provider: str, model: str, key: str, said: str, status: int
) -> None:
    demo.edit('base_url = "', f'provider = "{provider}" # ')
    demo.edit('model = "scripted"', f'model = "{model}"')
    demo.edit("max_tokens = 100", f"{key} = 0.5")
    done = demo.run("plan")
    assert done.returncode == status and said in done.stderr


def test_lines_are_found_in_any_shape_of_toml() -> None:
    text = '\n[a]\nb = 1\n[[s]]\nx = """\nb = 2\n[[s]]\n"""\n[[s]]\ny = { k = [\n  "one",\n  { rule = "two" } ] }\n[s.inner]\nz = 1\n'
    assert line_of(text, ("a", "b")) == 3
    assert line_of(text, ("s", 0, "x")) == 5
    assert line_of(text, ("s", 1, "y")) == 10
    assert line_of(text, ("s", 1, "y", "k", 1, "rule")) == 12
    assert line_of(text, ("s", 1, "inner", "z")) == 14
    assert line_of(text, ("nowhere",)) == 1


def test_ready_recipes_are_valid() -> None:
    from distillgen.project import ready_recipes

    assert "quickstart" in ready_recipes()
    for path in ready_recipes().values():
        read_recipe(Path(path))


def test_letters_that_changed_places_lead_to_the_right_key() -> None:
    from distillgen.errors import nearest

    assert nearest("modle", ["mode", "model", "limits"]) == "did you mean 'model'?"
    assert nearest("mod", ["mode", "model"]) == "did you mean 'mode'?"
