"""Checks the teachers of a recipe before anything is sent: settings, sampling keys, keys, runtime and weights."""

from datetime import UTC, datetime

from distillgen.errors import DistillgenError, Problem, nearest
from distillgen.files import safe_name
from distillgen.recipe import Recipe, Source
from distillgen.settings import TeacherSettings
from distillgen.teacher import providers
from distillgen.teacher.cost import FREE, find_prices
from distillgen.teacher.embedded import require_runtime
from distillgen.teacher.identity import identify, preset_of, weights_of
from distillgen.teacher.models import models

LENGTHS = ("max_tokens", "max_completion_tokens")


def check_teachers(
    recipe: Recipe, source: Source, used: set[str], *, will_ask: bool, allow_unknown_price: bool = False
) -> tuple[list[Problem | DistillgenError], list[Problem]]:
    """Return what is wrong with the teachers that are used, and what is only worth a warning.

    Keys, runtime and weights are looked for only when teachers will be asked (`will_ask`); what a budget needs is then
    wanted, else worth a warning.
    """
    wrong: list[Problem | DistillgenError] = []
    warnings: list[Problem] = []
    for name, settings in recipe.teachers.items():
        key = ("teachers", name)
        problems = _wrong_settings(settings, source, key)
        refused, doubtful = _check_sampling(settings, source, key) if not problems else ([], [])
        wrong += [*problems, *refused]
        warnings += doubtful
        if problems or refused or name not in used:
            continue
        try:
            if settings.provider == providers.EMBEDDED:
                identify(name, settings, source.folder)
                if will_ask:
                    require_runtime()
                    weights_of(settings, source.folder)
            else:
                providers.url_of(settings)
                if will_ask:
                    providers.find_key(settings, source.folder)
                unbounded = _unbounded(recipe, name, source, allow_unknown_price)
                (wrong if will_ask else warnings).extend(unbounded)
        except DistillgenError as error:
            wrong.append(error)
    return wrong, warnings


def _unbounded(recipe: Recipe, name: str, source: Source, allow_unknown_price: bool) -> list[Problem]:
    """Return why the worst case of a request cannot be known, which a budget must reserve."""
    if recipe.budget.usd is None and recipe.budget.usd_total is None:
        return []
    settings, key = recipe.teachers[name], ("teachers", name)
    prices = find_prices(settings, datetime.now(UTC))
    if prices is None and not allow_unknown_price:
        what = f"no price is known for {settings.model!r}, so [budget] cannot hold"
        fix = "state it: prices = { input = ..., output = ... } in dollars per million tokens (or { free = true })"
        return [source.problem(what, key, f"{fix}\nor let it be: --allow-unknown-price")]
    if prices in (None, FREE) or settings.sampling.keys() & set(LENGTHS):
        return []
    fix = "the worst case of a request is reserved before it is sent: sampling = { max_tokens = 2000 }"
    fix += "   (in a pipe: --max-tokens 2000)"
    return [source.problem("a budget needs `max_tokens`", (*key, "sampling"), fix)]


def _wrong_settings(settings: TeacherSettings, source: Source, key: tuple[str, ...]) -> list[Problem]:
    known = [*providers.presets(), providers.EMBEDDED]
    if settings.provider and settings.provider not in known:
        return [
            source.problem(
                f"unknown provider {settings.provider!r}", (*key, "provider"), nearest(settings.provider, known)
            )
        ]
    if not settings.provider and not settings.base_url:
        return [source.problem("a teacher without `provider` or `base_url`", key, f"providers: {', '.join(known)}")]
    if settings.gguf and settings.provider != providers.EMBEDDED:
        return [source.problem('`gguf` goes with provider = "embedded"', (*key, "gguf"))]
    if settings.provider == providers.EMBEDDED:
        if settings.gguf and settings.model:
            return [source.problem("`model` and `gguf` exclude each other", (*key, "gguf"), "leave one out")]
        if settings.model and settings.model not in models():
            return [
                source.problem(
                    f"unknown embedded model {settings.model!r}", (*key, "model"), nearest(settings.model, models())
                )
            ]
    elif not settings.model:
        return [source.problem("a teacher without `model`", key, "name the model as the endpoint does")]
    if settings.mode == "batch" and settings.provider and not preset_of(settings).batch:
        can = ", ".join(preset.name for preset in providers.presets().values() if preset.batch)
        what = f"no batch mode is known of {settings.provider}"
        return [source.problem(what, (*key, "mode"), f"these have one: {can}")]
    if settings.answers_as:
        safe_name(settings.answers_as, "answers_as")
    return []


def _check_sampling(
    settings: TeacherSettings, source: Source, key: tuple[str, ...]
) -> tuple[list[Problem], list[Problem]]:
    """Tell typing mistakes and what the model refuses (wrong) from what it ignores or nobody here knows (warnings)."""
    wrong: list[Problem] = []
    warnings: list[Problem] = []
    for name in settings.sampling:
        place = (*key, "sampling", name)
        hint = nearest(name, providers.SAMPLING)
        if name in providers.OURS:
            wrong.append(source.problem(f"sampling key {name!r} is set by distillgen itself", place, "remove it"))
        elif name not in providers.SAMPLING and hint.startswith("did you mean"):
            wrong.append(source.problem(f"unknown sampling key {name!r}", place, hint))
        elif name in LENGTHS and (type(length := settings.sampling[name]) is not int or length < 1):
            wrong.append(source.problem(f"{name!r} is {length!r}: must be a whole number of tokens, at least 1", place))
        elif name not in providers.SAMPLING:
            warnings.append(source.problem(f"sampling key {name!r} is not known here; it is sent as it is", place))
    if settings.provider and settings.provider != providers.EMBEDDED:
        preset = providers.presets()[settings.provider]
        refused, ignored = providers.refused_sampling(preset, settings.model or "", settings.sampling)
        wrong += [
            source.problem(f"{settings.model} refuses the sampling key {name!r}", (*key, "sampling", name), "remove it")
            for name in refused
        ]
        warnings += [
            source.problem(
                f"{settings.model} ignores the sampling key {name!r}",
                (*key, "sampling", name),
                "remove it, or turn thinking off",
            )
            for name in ignored
        ]
    return wrong, warnings
