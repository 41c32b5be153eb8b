"""A teacher, composed: stored answers -> retries -> limits -> commit -> chat. See `_compose`."""

import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from distillgen.errors import DistillgenError, Problem, nearest
from distillgen.files import safe_name
from distillgen.recipe import Recipe, Source, TeacherSettings
from distillgen.teacher import providers
from distillgen.teacher.answers import AnswerStore, Committed, Stored, request_key
from distillgen.teacher.asking import Asks, Endpoint, Reply, Request
from distillgen.teacher.embedded import EmbeddedServer, require_runtime
from distillgen.teacher.limits import Limited
from distillgen.teacher.models import DEFAULT, Weights, find_model, find_weights, models
from distillgen.teacher.replies import TokenUsage
from distillgen.teacher.retries import Retrying

DEFAULT_IN_FLIGHT = 32
EMBEDDED_MAX_TOKENS = 512
DRAIN_SECONDS = 10.0
Located: TypeAlias = Callable[[], Awaitable[Endpoint]]


@dataclass(frozen=True)
class Identity:
    """Who answers: what the keys of stored answers and the provenance say of a teacher."""

    name: str
    endpoint: str
    model: str
    facts: Mapping[str, Any]


class Teacher:
    """What the road asks: makes requests with their keys, serves stored replies, asks for the others."""

    def __init__(self, identity: Identity, settings: TeacherSettings, stored: Stored, limited: Limited) -> None:
        self.identity = identity
        self.settings = settings
        self.max_in_flight = in_flight_cap(settings)
        self._stored, self._limited = stored, limited

    @property
    def calls(self) -> int:
        """How many completions this run has asked for."""
        return self._stored.calls

    @property
    def usage(self) -> TokenUsage:
        """The tokens of this run's calls."""
        return self._stored.usage

    @property
    def missing(self) -> int:
        """Offline: how many different completions would have to be asked for."""
        return len(self._stored.missing)

    @property
    def in_flight(self) -> int:
        """How many requests are under way right now."""
        return len(self._limited.sent)

    def request(
        self, messages: Sequence[Mapping[str, Any]], *, schema: Mapping[str, Any] | None, sample: int
    ) -> Request:
        """Return the request for one sample of a prompt, with its key."""
        return make_request(self.identity, self.settings, messages, schema=schema, sample=sample)

    def stored(self, request: Request) -> Reply | None:
        """Return the stored reply to a request, None when it must be asked for."""
        return self._stored.stored(request)

    async def complete(self, request: Request) -> Reply:
        """Return a reply that is committed to disk. Raises RowFailed, or the error that stops the run."""
        return await self._stored.complete(request)

    async def drain(self, seconds: float) -> None:
        """Send nothing more; wait at most `seconds` until what is under way is received and stored."""
        self._limited.is_closed = True
        await self._stored.drain(self._limited.sent, seconds)


def make_request(
    identity: Identity,
    settings: TeacherSettings,
    messages: Sequence[Mapping[str, Any]],
    *,
    schema: Mapping[str, Any] | None,
    sample: int,
) -> Request:
    """Return the body of one completion in the endpoint's dialect, and its key."""
    preset = providers.preset_of(settings) if settings.provider != providers.EMBEDDED else _EMBEDDED_PRESET
    fields, words = providers.structured_fields(preset, schema)
    if words:
        messages = [*messages[:-1], {**messages[-1], "content": messages[-1]["content"] + words}]
    sampling = providers.translate(preset, settings.sampling)
    if settings.provider == providers.EMBEDDED:
        sampling.setdefault("max_tokens", EMBEDDED_MAX_TOKENS)
    body = {"model": identity.model, "messages": list(messages), **sampling, **fields}
    key = request_key(body, endpoint=identity.endpoint, sample=sample, epoch=settings.epoch)
    return Request(key, body)


_EMBEDDED_PRESET = providers.Preset(providers.EMBEDDED, "the embedded teacher", "")


def in_flight_cap(settings: TeacherSettings) -> int:
    """Return how many requests of this teacher may be under way at once."""
    if settings.limits.max_in_flight:
        return settings.limits.max_in_flight
    if settings.provider == providers.EMBEDDED:
        model = models().get(settings.model or DEFAULT)
        return model.slots if model and not settings.gguf else 4
    return DEFAULT_IN_FLIGHT


def identify(name: str, settings: TeacherSettings, folder: Path) -> Identity:
    """Return who a teacher is. For an embedded one that is the sha256 of its weights, wherever they lie."""
    if settings.provider != providers.EMBEDDED:
        endpoint = providers.identity_of(settings)
        return Identity(name, endpoint, settings.model or "", {"endpoint": endpoint, "model": settings.model})
    if settings.gguf:
        weights = find_weights(None, folder / Path(settings.gguf).expanduser())
        alias, sha256 = weights.name, weights.sha256
        facts = {"title": weights.title, "quantisation": weights.quantisation, "licence": weights.licence}
    else:
        model = find_model(settings.model or DEFAULT)
        alias, sha256 = model.name, model.sha256
        facts = {
            "title": model.title,
            "quantisation": model.quantisation,
            "licence": model.licence,
            "attribution": model.attribution,
        }
    endpoint = settings.answers_as or f"sha256:{sha256}"
    return Identity(name, endpoint, alias, {"endpoint": "embedded", "model": alias, "sha256": sha256, **facts})


def check_teachers(
    recipe: Recipe, source: Source, used: set[str], *, will_ask: bool
) -> tuple[list[Problem | DistillgenError], list[Problem]]:
    """Return what is wrong with the teachers that are used, and what is only worth a warning.

    Keys, runtime and weights are looked for only when the teacher `will_ask`.
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
                    _weights(settings, source.folder)
            else:
                providers.url_of(settings)
                if will_ask:
                    providers.find_key(settings, source.folder)
        except DistillgenError as error:
            wrong.append(error)
    return wrong, warnings


def _weights(settings: TeacherSettings, folder: Path) -> Weights:
    return find_weights(settings.model, folder / Path(settings.gguf).expanduser() if settings.gguf else None)


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


@contextlib.asynccontextmanager
async def open_teachers(
    recipe: Recipe, source: Source, used: set[str], store: AnswerStore, *, state: Path, offline: bool = False
) -> AsyncIterator[dict[str, Teacher]]:
    """Yield the teachers of a recipe by name. On the way out what is under way is received and stored."""
    async with contextlib.AsyncExitStack() as stack:
        teachers: dict[str, Teacher] = {}
        for name in sorted(used):
            settings = recipe.teachers[name]
            identity = identify(name, settings, source.folder)
            endpoint = await _endpoint(name, settings, source.folder, stack, state, offline)
            teachers[name] = _compose(identity, settings, store, OnDemand(settings, endpoint, stack), offline)
        try:
            yield teachers
        except BaseException:
            for teacher in teachers.values():
                await teacher.drain(DRAIN_SECONDS)
            raise


class OnDemand:
    """The transport, loaded and opened with the first request: a build that asks nothing need not load it.

    The first request of a teacher goes alone (see Retrying), so there is no race to open it.
    """

    def __init__(self, settings: TeacherSettings, endpoint: Located, stack: contextlib.AsyncExitStack) -> None:
        self._settings, self._endpoint, self._stack = settings, endpoint, stack
        self._chat: Asks | None = None

    async def complete(self, request: Request) -> Reply:
        """Ask over the transport. Raises what it raises."""
        if self._chat is None:
            from distillgen.teacher.chat import Chat, open_client

            url = (await self._endpoint()).url
            client = await self._stack.enter_async_context(open_client(url, in_flight_cap(self._settings) + 8))
            self._chat = Chat(client, self._endpoint, timeout_seconds=self._settings.timeout_seconds)
        return await self._chat.complete(request)


def _compose(identity: Identity, settings: TeacherSettings, store: AnswerStore, chat: Asks, offline: bool) -> Teacher:
    """Put the layers together: a stored answer costs no turn, every retry waits for a turn again, and a turn lasts
    until the reply is on disk."""
    committed = Committed(chat, store, teacher=f"{identity.endpoint} {identity.model}")
    limited = Limited(committed, in_flight_cap(settings), settings.limits)
    retrying = Retrying(limited, teacher=f"teacher {identity.name!r}", model=identity.model)
    stored = Stored(retrying, store, offline=offline)
    return Teacher(identity, settings, stored, limited)


async def _endpoint(
    name: str, settings: TeacherSettings, folder: Path, stack: contextlib.AsyncExitStack, state: Path, offline: bool
) -> Located:
    """Return what says where a teacher is: a fixed address, or an embedded server that starts when first asked."""
    if settings.provider == providers.EMBEDDED and not offline:
        log = state / "logs" / f"embedded-{re.sub('[^A-Za-z0-9_-]', '-', name)}.log"
        server = await stack.enter_async_context(EmbeddedServer(_weights(settings, folder), log))
        return server.endpoint
    url = "" if settings.provider == providers.EMBEDDED else providers.url_of(settings)
    fixed = Endpoint(url, None if offline else providers.find_key(settings, folder))

    async def endpoint() -> Endpoint:
        return fixed

    return endpoint
