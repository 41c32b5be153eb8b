"""Training settings: what is chosen by size and rows, what may be said, and how a mistake is told."""

from pathlib import Path
from typing import Any

import pytest

from distillgen.errors import RecipeInvalid, UsageError
from distillgen.student.settings import TrainingSettings, read_settings

SMALL, LARGE = 135_000_000, 1_500_000_000


def read(path: Path | None = None, *overrides: str, parameters: int = SMALL, rows: int = 300, pairs: bool = False, seed: int | None = None) -> TrainingSettings:  # fmt: skip
    return read_settings(path, overrides, seed).completed(parameters=parameters, train_rows=rows, are_pairs=pairs)


@pytest.mark.parametrize(
    ("parameters", "pairs", "said", "method", "rate"),
    [
        pytest.param(SMALL, False, (), "full", 5e-5, id="small"),
        pytest.param(SMALL, False, ("method=lora",), "lora", 5e-4, id="small-lora"),
        pytest.param(LARGE, False, (), "lora", 2e-4, id="large"),
        pytest.param(LARGE, False, ("method=full",), "full", 2e-5, id="large-full"),
        pytest.param(SMALL, True, (), "lora", 5e-5, id="pairs"),
        pytest.param(SMALL, True, ('method="full"',), "full", 5e-6, id="pairs-full"),
        pytest.param(999_999_999, False, (), "full", 5e-5, id="just-under-a-billion"),
        pytest.param(1_000_000_000, False, (), "lora", 2e-4, id="a-billion"),
    ],
)
def test_method_and_learning_rate_go_by_size_and_kind(
    parameters: int, pairs: bool, said: tuple[str, ...], method: str, rate: float
) -> None:
    settings = read(None, *said, parameters=parameters, pairs=pairs)
    assert (settings.method, settings.learning_rate) == (method, rate)


@pytest.mark.parametrize(
    ("rows", "said", "epochs"),
    [
        pytest.param(0, (), 10, id="none"),
        pytest.param(8, (), 10, id="one-step-an-epoch"),
        pytest.param(50, (), 9, id="seven-steps-an-epoch"),
        pytest.param(160, (), 3, id="twenty-steps-an-epoch"),
        pytest.param(599, (), 3, id="below-600"),
        pytest.param(600, (), 2, id="600"),
        pytest.param(4999, (), 2, id="below-5000"),
        pytest.param(5000, (), 1, id="5000"),
        pytest.param(5000, ("batch=64", "accumulate=4"), 3, id="large-steps"),
        pytest.param(50, ("epochs=1",), 1, id="said"),
        pytest.param(599, ("rows=50",), 9, id="of-fewer-rows"),
        pytest.param(50, ("rows=599",), 9, id="no-more-than-there-are"),
    ],
)
def test_epochs_go_by_rows_and_steps(rows: int, said: tuple[str, ...], epochs: int) -> None:
    assert read(None, *said, rows=rows).epochs == epochs


def test_one_epoch_is_looked_at_oftener_and_a_short_one_once() -> None:
    assert read(rows=50).validations == 1 and read(None, "batch=1", rows=50).validations == 2
    assert read(rows=6000).validations == 4 and read(rows=300).validations == 2
    assert read(None, "epochs=1").validations == 4 and read(None, "epochs=1", "validations=1").validations == 1


def test_the_best_look_goes_by_accuracy_and_that_of_pairs_by_loss() -> None:
    assert read().best == "accuracy" and read(pairs=True).best == "loss"
    assert read(None, 'best="loss"').best == "loss"


def test_the_command_line_is_over_the_file_and_the_file_over_what_is_chosen(tmp_path: Path) -> None:
    path = tmp_path / "training.toml"
    path.write_text('epochs = 7\nseed = 3\nbatch = 2\nlearning_rate = 1\n[lora]\nr = 4\ntarget = ["q_proj"]\n')
    settings = read(path, "batch=16", "lora.alpha=8", "schedule=cosine", seed=9)
    assert (settings.epochs, settings.batch, settings.seed, settings.schedule) == (7, 16, 9, "cosine")
    assert (settings.lora.r, settings.lora.alpha, settings.lora.target) == (4, 8.0, ["q_proj"])
    assert settings.learning_rate == 1.0 and read(path).seed == 3 and read().seed == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("epochs = 2\nlerning_rate = 1e-4", [":2 (lerning_rate)", "unknown key 'lerning_rate'", "did you mean 'learning_rate'?"], id="unknown"),
        pytest.param("[lora]\nrank = 4\nalhpa = 2", [":2 (lora.rank)", ":3 (lora.alhpa)", "did you mean 'alpha'?"], id="unknown-in-a-table"),
        pytest.param("epochs = 2.5", [":1 (epochs)", "'epochs' is 2.5", "integer"], id="not-whole"),
        pytest.param("\nlearning_rate = 0", [":2 (learning_rate)", "greater than 0"], id="nought"),
        pytest.param('method = "qlora"', ["'method' is 'qlora'", "'full' or 'lora'"], id="unknown-word"),
        pytest.param("learning_rate = nan", ["'learning_rate' is nan", "finite"], id="not-a-number"),
        pytest.param("[lora]\ntarget = 3", [":2 (lora.target)", "'target' is 3"], id="neither-of-two"),
        pytest.param("batch = true", ["'batch' is True"], id="true-is-no-number"),
        pytest.param("lora = 3", [":1 (lora)", "'lora' is 3"], id="no-table"),
        pytest.param("warmup = 1.0", ["less than 1"], id="nothing-but-warmup"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_line_key_and_the_nearest_key(tmp_path: Path, text: str, told: list[str]) -> None:
    path = tmp_path / "training.toml"
    path.write_text(text)
    with pytest.raises(RecipeInvalid) as error:
        read(path)
    assert error.value.exit_status == 2
    for part in [str(path), *told]:
        assert part in str(error.value)


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "training.toml"
    path.write_text("epochs = 0\nbatch = 0\nseeds = 1")
    with pytest.raises(RecipeInvalid) as error:
        read(path)
    assert len(error.value.problems) == 3


@pytest.mark.parametrize(
    ("override", "told"),
    [
        pytest.param("epochs", "is not KEY=VALUE", id="no-value"),
        pytest.param("=3", "is not KEY=VALUE", id="no-key"),
        pytest.param("epochs=0", "--set epochs", id="out-of-range"),
        pytest.param("epoch=3", "did you mean 'epochs'?", id="unknown"),
        pytest.param("method.x=3", "--set method", id="no-table"),
        pytest.param("lora.r.x=3", "--set lora.r", id="too-deep"),
    ],
)
def test_a_wrong_override_is_told(override: str, told: str) -> None:
    with pytest.raises(UsageError) as error:
        read(None, override)
    assert told in str(error.value)


def test_a_wrong_seed_is_the_options() -> None:
    with pytest.raises(RecipeInvalid) as error:
        read(seed=-1)
    assert "in --seed" in str(error.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"epochs = ", "not valid TOML"), (b"\xff", "not UTF-8"), (b"a = 1\n" * 200_000, "larger than")],
    ids=["no-toml", "no-text", "too-large"],
)
def test_a_file_that_is_none_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "training.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=told):
        read(path)
    with pytest.raises(UsageError, match="cannot read the settings: No such file"):
        read(tmp_path / "absent.toml")


def test_every_setting_says_what_it_is() -> None:
    models: list[Any] = [TrainingSettings, type(read().lora), type(read().dpo)]
    for model in models:
        assert all(field.description for field in model.model_fields.values())
