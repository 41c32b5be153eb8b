"""Presets of endpoints and their dialects, kept as data in providers.toml; finds keys and never shows them."""

import dataclasses
import functools
import ipaddress
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from distillgen.errors import CredentialsError, InsecureUrl, UsageError
from distillgen.files import dumps
from distillgen.settings import TeacherSettings

EMBEDDED = "embedded"
# What an OpenAI-compatible endpoint may take besides model, messages and response_format.
SAMPLING = frozenset({
    "temperature", "top_p", "top_k", "min_p", "max_tokens", "max_completion_tokens", "stop", "seed",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "repeat_penalty", "logit_bias", "logprobs",
    "top_logprobs", "reasoning_effort", "reasoning", "thinking", "chat_template_kwargs", "enable_thinking",
    "service_tier", "user", "provider", "verbosity", "ignore_eos", "cache_prompt", "typical_p", "safe_prompt",
})  # fmt: skip
OURS = frozenset({"model", "messages", "n", "stream", "response_format", "tools"})
_BY_MODEL = frozenset({"structured", "strict", "logprobs", "samples", "rename"})  # fields that may differ by model
# What OpenAI's strict mode takes of JSON schema: https://developers.openai.com/api/docs/guides/structured-outputs
_STRICT_KEYWORDS = frozenset({
    "type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "const", "$ref", "$defs",
    "definitions", "title", "description", "$schema", "pattern", "format", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf", "minItems", "maxItems",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Preset:
    """One provider: where it is, where its key is, and how it wants to be asked. Words are explained in providers.toml.

    `models` are rules for models whose name matches `pattern`: what they refuse or ignore, and fields of the preset
    that are different for them (see `for_model`).
    """

    name: str
    title: str
    base_url: str
    key_env: str = ""
    key_optional: bool = False
    structured: str = "json_schema"
    strict: str = "always"
    logprobs: str = "flag"
    samples: bool = False
    batch: bool = False
    rename: Mapping[str, str] = field(default_factory=dict)
    limits: tuple[Mapping[str, Any], ...] = ()
    models: tuple[Mapping[str, Any], ...] = ()
    prices: str = ""
    terms: str = ""
    source: str = ""
    checked: Any = None


@functools.cache
def presets() -> dict[str, Preset]:
    """Return every preset by name."""
    table = tomllib.loads((Path(__file__).parent / "providers.toml").read_text(encoding="utf-8"))
    return {
        name: Preset(
            name=name,
            **{**entry, "limits": tuple(entry.get("limits", ())), "models": tuple(entry.get("models", ()))},
        )
        for name, entry in table.items()
    }


def preset_of(settings: TeacherSettings) -> Preset:
    """Return the preset of a teacher; a bare URL is one without a name, whose key is optional."""
    if settings.provider:
        return presets()[settings.provider]
    return Preset("", "", settings.base_url or "", key_optional=True)


def url_of(settings: TeacherSettings) -> str:
    """Return where completions are asked for, without a trailing slash. Raises InsecureUrl or UsageError."""
    url = (settings.base_url or preset_of(settings).base_url).rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"base_url {_without_query(url)!r} is not an http or https address",
            fix="such as https://api.example.com/v1: the address of the API, up to and with /v1",
        )
    if parts.query or parts.username or parts.password:
        raise UsageError("base_url holds a query or a user name", fix="a key goes into the environment or a key file")
    if parts.scheme == "http" and not is_loopback(parts.hostname) and not settings.allow_http:
        raise InsecureUrl(
            f"{url} would send the key and the prompts unencrypted",
            fix="use https, or set `allow_http = true` for this teacher if the network is yours",
        )
    return url


def _without_query(url: str) -> str:
    return url.split("?")[0].split("@")[-1]


def is_loopback(host: str) -> bool:
    """Whether a host name means this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def identity_of(settings: TeacherSettings) -> str:
    """Return the endpoint's name in the keys of stored answers: the preset's, or scheme, host, port and path."""
    if settings.answers_as:
        return settings.answers_as
    if settings.provider and not settings.base_url:
        return settings.provider
    return url_of(settings)


def find_key(settings: TeacherSettings, folder: Path, environment: Mapping[str, str] | None = None) -> str | None:
    """Return the key from the file or the environment variable, None where none is needed.

    Raises CredentialsError that names the variable or the file, never the value.
    """
    environment = os.environ if environment is None else environment
    preset = preset_of(settings)
    if settings.api_key_file:
        return _key_from_file(folder / Path(settings.api_key_file).expanduser())
    name = settings.api_key_env or preset.key_env
    value = environment.get(name, "").strip() if name else ""
    if value:
        return _sane(value, f"the environment variable {name}")
    if preset.key_optional and not settings.api_key_env:
        return None
    raise CredentialsError(
        f"no key for {preset.title or settings.base_url}: the environment variable {name} is not set",
        fix=f'export {name}=...   (or name a file: api_key_file = "..." under the teacher)',
    )


def _key_from_file(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
        mode = stat.S_IMODE(path.stat().st_mode)
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialsError(f"cannot read the key file {path}: {getattr(error, 'strerror', error)}") from None
    if not text:
        raise CredentialsError(f"the key file {path} is empty")
    if mode & 0o077:
        raise CredentialsError(f"the key file {path} can be read by others", fix=f"chmod 600 {path}")
    return _sane(text, f"the key file {path}")


def _sane(key: str, place: str) -> str:
    if not key.isascii() or not key.isprintable() or " " in key:
        raise CredentialsError(
            f"the key in {place} has spaces, line breaks or other characters that no key has",
            fix="put the key there and nothing else, on one line and without quotes",
        )
    return key


def _rules(preset: Preset, model: str) -> Iterator[Mapping[str, Any]]:
    return (rule for rule in preset.models if re.search(rule["pattern"], model))


def for_model(preset: Preset, model: str) -> Preset:
    """Return the preset as it is for one model: the rules that match it override the preset's fields."""
    fields = {name: value for rule in _rules(preset, model) for name, value in rule.items() if name in _BY_MODEL}
    return dataclasses.replace(preset, **fields) if fields else preset


def known_limits(preset: Preset, model: str) -> dict[str, int]:
    """Return the documented limits of an account for a model, such as {"max_in_flight": 500}; often none are."""
    matching = (limit for limit in preset.limits if re.search(limit["pattern"], model))
    return {name: value for limit in matching for name, value in limit.items() if name != "pattern"}


def translate(preset: Preset, sampling: Mapping[str, Any], model: str = "") -> dict[str, Any]:
    """Return the sampling keys as this endpoint names them for a model. A key in its own word goes before ours."""
    preset = for_model(preset, model)
    renamed = {name: preset.rename.get(name, name) for name in sampling}
    said = {
        renamed[name]: value
        for name, value in sampling.items()
        if renamed[name] == name or renamed[name] not in sampling
    }
    if preset.logprobs == "count" and said.get("logprobs") is True:
        said["logprobs"] = said.pop("top_logprobs", 1)
    return said


def refused_sampling(preset: Preset, model: str, sampling: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the sampling keys that the model is known to refuse, and those that it silently ignores."""
    refused: list[str] = []
    ignored: list[str] = []
    for rule in _rules(preset, model):
        stated = {**rule.get("assumes", {}), **sampling}
        unless = rule.get("unless", {})
        if unless and all(stated.get(name) == value for name, value in unless.items()):
            continue
        takes = rule.get("takes", {})
        refused += [name for name in rule.get("refuses", ()) if name in sampling and sampling[name] != takes.get(name)]
        ignored += [name for name in rule.get("ignores", ()) if name in sampling]
    return refused, ignored


def structured_fields(preset: Preset, schema: Mapping[str, Any] | None, model: str = "") -> tuple[dict[str, Any], str]:
    """Return what a request carries so that the reply follows a JSON schema: body fields, and words for the prompt."""
    if schema is None:
        return {}, ""
    preset = for_model(preset, model)
    if preset.structured == "json_schema":
        strict = preset.strict == "always" or is_strict(schema)
        wrapped = {"name": "reply", "strict": strict, "schema": schema}
        return {"response_format": {"type": "json_schema", "json_schema": wrapped}}, ""
    words = f"\n\nReply with one JSON object that follows this JSON schema, and nothing else:\n{dumps(schema)}"
    return ({"response_format": {"type": "json_object"}} if preset.structured == "json_object" else {}), words


def is_strict(schema: Mapping[str, Any]) -> bool:
    """Whether OpenAI's strict mode takes a schema: an object; all objects in it closed, with all properties required.

    A schema with a keyword that the mode is not documented to take is not strict.
    """
    return schema.get("type") == "object" and _is_strict(schema)


def _is_strict(schema: Any) -> bool:
    if not isinstance(schema, Mapping) or not schema.keys() <= _STRICT_KEYWORDS:
        return False
    if not schema.keys() & {"type", "anyOf", "$ref"}:
        return False
    properties = schema.get("properties", {})
    if "object" in schema.get("type", "") or properties:
        is_closed = schema.get("additionalProperties") is False
        if not is_closed or set(schema.get("required", ())) != set(properties):
            return False
    groups = (properties, schema.get("$defs", {}), schema.get("definitions", {}))
    inner = [part for group in groups for part in group.values()]
    inner += [*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else ())]
    return all(map(_is_strict, inner))
