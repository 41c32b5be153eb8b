"""The shape of the project: imports point down the road, help is light, every command and error is documented."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, Project, clean_environment

import distillgen.errors

PACKAGE = REPOSITORY / "distillgen"
MODULES = sorted(PACKAGE.rglob("*.py"))
# From the bottom of the road to its top; a module may import what stands before it, and its own folder.
ROAD = [
    "__init__", "errors", "files", "schemas", "processes", "state", "rows", "toml_lines", "settings", "step_settings", "recipe", "structured", "prompts", "explanations", "seeds",
    "foreign", "teacher", "shapes", "walk", "workers", "road", "steps", "excluded", "dataset", "earlier", "checking", "terms", "preparation", "tally", "last_run", "metrics", "sieve", "reach", "pipeline", "planning", "pipe", "status", "project", "export", "upkeep", "remote", "mix", "report", "doctor", "student", "api", "cli", "__main__",
]  # fmt: skip
# Typer itself loads pydantic to read options.
HEAVY = {
    "httpx", "aiohttp", "openai", "msgspec", "numpy", "scipy", "datasketch", "jinja2", "orjson", "zstandard",
    "jsonschema_rs", "regex", "py3langid", "math_verify", "wordllama", "genai_prices", "httpx2", "tenacity", "pyarrow", "xllamacpp", "datasets", "huggingface_hub", "fsspec", "s3fs", "botocore",
    "torch", "transformers", "trl", "peft", "accelerate", "gguf", "safetensors",
}  # fmt: skip


def imported(path: Path) -> set[str]:
    """Return the parts of distillgen that a module imports when it is loaded (not inside functions, not for types)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    names = set()
    for node in ast.walk(tree):
        if node in lazy:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "distillgen":
            rest = node.module.split(".")[1:]
            names |= (
                {rest[0]}
                if rest
                else {
                    alias.name
                    for alias in node.names
                    if (PACKAGE / f"{alias.name}.py").exists() or (PACKAGE / alias.name).is_dir()
                }
            )
    return names


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down_the_road(path: Path) -> None:
    here = ROAD.index(part(path))
    up = {name for name in imported(path) if ROAD.index(name) > here}
    assert not up, f"{path.name} imports {up}, which stand above it"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_opens_with_what_it_owns(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert (text and text.split("\n")[0].endswith((".", ":"))) or (text and len(text.split("\n")) > 1)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["build", "--help"], ["prompts", "show", "--help"], ["teachers", "--help"]],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['distillgen', *{arguments!r}]\n"
        "try: runpy.run_module('distillgen', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(' '.join(sorted({name.split('.')[0] for name in sys.modules})), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean_environment(), cwd=tmp_path
    )
    assert not HEAVY & set(done.stderr.split("\n")[-2].split()), done.stderr[-500:]


COMMANDS = [
    [], ["init"], ["plan"], ["build"], ["status"], ["generate"], ["filter"], ["deduplicate"],
    ["decontaminate"], ["check"], ["repair"], ["gc"], ["forget"], ["pin"], ["unpin"], ["log"], ["show"], ["stats"], ["diff"], ["trace"], ["export"], ["mix"], ["push"], ["pull"], ["terms"], ["prompts"],
    ["prompts", "show"], ["prompts", "render"], ["teachers"], ["teachers", "check"], ["teachers", "install"], ["student"], ["student", "train"], ["student", "evaluate"], ["student", "check"], ["doctor"], ["report"], ["explain"], ["schema"],
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "distillgen")
def test_every_command_has_help_with_examples_and_a_place_in_the_docs(command: list[str], project: Project) -> None:
    done = project.run(*command, "--help")
    assert done.returncode == 0 and done.stderr == ""
    if command and command not in (["prompts"], ["teachers"], ["student"]):
        assert "Examples:" in done.stdout and "Exit status:" in done.stdout
    if command:
        docs = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "docs").glob("*.md"))
        assert f"distillgen {' '.join(command)}" in docs


def test_every_error_has_a_code_of_its_own_in_the_docs() -> None:
    kinds = [
        kind
        for kind in vars(distillgen.errors).values()
        if isinstance(kind, type) and issubclass(kind, distillgen.errors.DistillgenError)
    ]
    codes = [kind.code for kind in kinds if "code" in vars(kind) or kind.__name__ == "UsageError"]
    assert len(codes) == len(set(codes))
    page = (REPOSITORY / "docs" / "errors.md").read_text(encoding="utf-8")
    for kind in kinds:
        assert re.search(rf"\b{kind.code}\b.*\b{kind.exit_status}\b", page) or kind.__name__ == "Interrupted", kind


def test_the_readme_names_every_dependency() -> None:
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + [
        d
        for extra in ("embedded", "parquet", "language", "math", "semantic", "hub", "remote", "s3", "student")
        for d in project["optional-dependencies"][extra]
    ]
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for requirement in wanted:
        name = re.split(r"[<>=!\[]", requirement)[0]
        assert f"`{name}`" in readme, requirement


def test_every_recipe_key_is_documented() -> None:
    from distillgen import recipe, settings, step_settings

    page = (REPOSITORY / "docs" / "recipe.md").read_text(encoding="utf-8")
    for model in [model for module in (recipe, settings, step_settings) for model in vars(module).values()]:
        if isinstance(model, type) and issubclass(model, settings.Settings) and model is not settings.Settings:
            for name in model.model_fields:
                assert f"`{name}`" in page, f"{model.__name__}.{name}"


def test_every_rule_is_documented() -> None:
    from distillgen.steps.rules import RULES, parameters_of

    page = (REPOSITORY / "docs" / "quality.md").read_text(encoding="utf-8")
    for name in RULES:
        assert f"`{name}`" in page
        assert all(f"`{parameter}`" in page for parameter in parameters_of(name))
