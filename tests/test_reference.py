"""`explain` and `schema`: every error has an explanation, and the schema takes what a recipe takes."""

import copy
import tomllib
from typing import Any

import jsonschema_rs
import orjson
import pytest
from conftest import REPOSITORY, Project

import distillgen.errors
from distillgen.explanations import explain, explanations
from distillgen.recipe import recipe_schema

KINDS = [
    kind
    for kind in vars(distillgen.errors).values()
    if isinstance(kind, type) and issubclass(kind, distillgen.errors.DistillgenError)
]
RECIPES = sorted((REPOSITORY / "recipes").glob("*.toml"))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_is_explained(kind: type[distillgen.errors.DistillgenError]) -> None:
    found = explain(kind.code)
    assert found.means and found.mended_by
    assert str(kind.exit_status) in found.exit_status or kind.__name__ == "Interrupted"


def test_a_code_in_any_spelling(project: Project) -> None:
    done = [project.run("explain", spelled) for spelled in ("DG403", "dg403", "403")]
    assert [each.returncode for each in done] == [0, 0, 0] and len({each.stdout for each in done}) == 1
    assert done[0].stdout.startswith("DG403: the provider says") and "exit status  5" in done[0].stdout


def test_causes_of_failed_rows(project: Project) -> None:
    assert "no: a rerun would not mend it" in project.run("explain", "schema").stdout
    assert "by the next build" in project.run("explain", "not_stored").stdout
    assert explain("refused_418").means == explain("refused_400").means


def test_what_is_not_known_gets_the_nearest(project: Project) -> None:
    for wrong, nearest in (("DG430", "DG403"), ("not_stord", "not_stored")):
        done = project.run("explain", wrong)
        assert done.returncode == 10 and f"did you mean {nearest!r}?" in done.stderr
    assert "\x1b" not in project.run("explain", "\x1b[31m").stderr


def test_all_of_them_are_listed(project: Project) -> None:
    lines = project.run("explain").stdout.splitlines()
    assert len(lines) == len(explanations()) > 40 and not [line for line in lines if "](" in line or "`" in line]


def recipe(path: Any) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_schema_takes_every_ready_recipe(path: Any) -> None:
    jsonschema_rs.validator_for(recipe_schema()).validate(recipe(path))


def test_the_schema_refuses_what_a_recipe_refuses(project: Project) -> None:
    printed = project.run("schema")
    assert printed.returncode == 0 and orjson.loads(printed.stdout) == recipe_schema()
    validator, good = jsonschema_rs.validator_for(recipe_schema()), recipe(REPOSITORY / "recipes" / "quickstart.toml")
    for way, value in (
        (("nmae",), "x"), (("steps", 0, "promt"), "x"), (("steps", 0, "use"), "generates"),
        (("teachers", "main", "mode"), "fast"), (("steps", 0, "samples"), 0), (("terms",), {"purpose": "fun"}),
    ):  # fmt: skip
        wrong: Any = copy.deepcopy(good)
        inner = wrong
        for key in way[:-1]:
            inner = inner[key]
        inner[way[-1]] = value
        assert not validator.is_valid(wrong), way


def test_every_key_has_a_description_for_the_editor() -> None:
    schema = recipe_schema()
    tables = {"": schema, **schema["$defs"]}
    bare = [
        f"{name}.{key}"
        for name, table in tables.items()
        for key, value in table["properties"].items()
        if "description" not in value and "$ref" not in value and "const" not in value
    ]
    assert bare == []
