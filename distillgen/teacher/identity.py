"""Who a teacher is, and what a request to it looks like: the parts of which the keys of stored answers are made."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from distillgen.files import dumps
from distillgen.settings import TeacherSettings
from distillgen.teacher import providers
from distillgen.teacher.answers import request_key
from distillgen.teacher.asking import Request, Siblings
from distillgen.teacher.models import DEFAULT, Weights, find_model, find_weights, models

DEFAULT_IN_FLIGHT = 32
HOSTED_IN_FLIGHT = 256
EMBEDDED_MAX_TOKENS = 512
MOST_TOGETHER = 16  # samples in one call: one that fails is asked again as a whole


@dataclass(frozen=True)
class Identity:
    """Who answers: what the keys of stored answers and the provenance say of a teacher."""

    name: str
    endpoint: str
    model: str
    facts: Mapping[str, Any]


@dataclass
class RequestMaker:
    """Makes the requests of one teacher in its endpoint's dialect; what is alike in all of them is worked out once."""

    identity: Identity
    settings: TeacherSettings
    _fixed: dict[str, tuple[dict[str, Any], str]] = field(default_factory=dict)

    def make(
        self, messages: Sequence[Mapping[str, Any]], *, schema: Mapping[str, Any] | None, samples: range = range(1)
    ) -> list[Request]:
        """Return a request for each sample of a prompt; they are siblings where the provider takes `n`."""
        fixed, words = self._alike(schema)
        if words:
            messages = [*messages[:-1], {**messages[-1], "content": messages[-1]["content"] + words}]
        body = {"model": self.identity.model, "messages": messages, **fixed}
        if len(samples) == 1 or not self._preset.samples:
            return [Request(self._key(body, sample), body, sample) for sample in samples]
        requests: list[Request] = []
        for start in samples[::MOST_TOGETHER]:
            family = Siblings()
            numbers = range(start, min(start + MOST_TOGETHER, samples.stop))
            family.requests = tuple(Request(self._key(body, n), body, n, siblings=family) for n in numbers)
            requests += family.requests
        return requests

    def _key(self, body: Mapping[str, Any], sample: int, ask: int = 0) -> bytes:
        return request_key(body, endpoint=self.identity.endpoint, sample=sample, ask=ask, epoch=self.settings.epoch)

    @functools.cached_property
    def _preset(self) -> providers.Preset:
        return providers.for_model(preset_of(self.settings), self.identity.model)

    def again(self, request: Request, messages: Sequence[Mapping[str, Any]], *, ask: int) -> Request:
        """Return a request like another one, with other messages and a number of its own among the asks."""
        body = {**request.body, "messages": messages}
        return Request(self._key(body, request.sample, ask), body, request.sample)

    def _alike(self, schema: Mapping[str, Any] | None) -> tuple[dict[str, Any], str]:
        """Return the body's fields besides model and messages, and words to add to the prompt."""
        name = dumps(schema) if schema is not None else ""
        if name not in self._fixed:
            model = self.identity.model
            fields, words = providers.structured_fields(self._preset, schema, model)
            sampling = providers.translate(self._preset, self.settings.sampling, model)
            if self.settings.provider == providers.EMBEDDED:
                sampling.setdefault("max_tokens", EMBEDDED_MAX_TOKENS)
            self._fixed[name] = ({**sampling, **fields}, words)
        return self._fixed[name]


EMBEDDED_PRESET = providers.Preset(
    providers.EMBEDDED, "the embedded teacher", "", prices="free", rename={"repetition_penalty": "repeat_penalty"}
)


def preset_of(settings: TeacherSettings) -> providers.Preset:
    """Return the preset of a teacher, the embedded one among them."""
    return EMBEDDED_PRESET if settings.provider == providers.EMBEDDED else providers.preset_of(settings)


def in_flight_cap(settings: TeacherSettings) -> int:
    """Return how many requests of this teacher may be under way at once: as stated, but never above a known limit.

    Unstated, it is what a model's slots, or a server of one's own, can use; more where only a provider's rate counts.
    """
    if settings.provider == providers.EMBEDDED:
        model = models().get(settings.model or DEFAULT)
        return settings.limits.max_in_flight or (model.slots if model and not settings.gguf else 4)
    preset = providers.preset_of(settings)
    is_hosted = not providers.is_loopback(urlsplit(settings.base_url or preset.base_url).hostname or "")
    cap = settings.limits.max_in_flight or (HOSTED_IN_FLIGHT if is_hosted else DEFAULT_IN_FLIGHT)
    return min(cap, providers.known_limits(preset, settings.model or "").get("max_in_flight", cap))


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


def weights_of(settings: TeacherSettings, folder: Path) -> Weights:
    """Return the weights of an embedded teacher. Raises EmbeddedMissing."""
    return find_weights(settings.model, folder / Path(settings.gguf).expanduser() if settings.gguf else None)
