"""What the environment says of the network: proxies (never their passwords), certificates, and this machine's clock."""

import os
import re
import tomllib
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from distillgen.doctor.findings import Finding, broken, note, quoted, warning, well
from distillgen.errors import UsageError
from distillgen.report.console import clock as duration
from distillgen.teacher import providers

PROXIES = ("http_proxy", "https_proxy", "all_proxy")
BUNDLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
MOST_SKEW_SECONDS = 60.0
HARM = "TLS certificates look expired or not yet valid, and dates in Retry-After are misread"
Environment = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ServerClock:
    """By how many seconds this machine's clock is ahead of a server's (behind when negative)."""

    host: str
    ahead_seconds: float


def examine(environment: Environment | None = None) -> Iterator[Finding]:
    """Yield what is found of the variables for proxies and certificates."""
    environment = os.environ if environment is None else environment
    yield from proxies(environment)
    yield certificates(environment)


def proxies(environment: Environment) -> Iterator[Finding]:
    """Yield what is found of the proxy variables. Of a proxy only scheme, host and port are told."""
    named = {name: value for name in PROXIES if (value := _value(environment, name))}
    if not named:
        yield well("proxy", "no proxy variables are set: servers are asked directly")
        return
    for name, value in named.items():
        yield _proxy(name, value)
        other = environment.get(name.upper(), "")
        if environment.get(name) and other and other != environment[name]:
            what = f"{name} and {name.upper()} differ; distillgen takes {name}"
            yield warning("proxy", what, f"unset {name.upper()}, or set both to the same")
    yield from _exceptions(_value(environment, "no_proxy"))


def _value(environment: Environment, name: str) -> str:
    """Return a variable in lower case, else in upper case: the order in which Python itself looks."""
    return (environment.get(name) or environment.get(name.upper()) or "").strip()


def shown(proxy: str) -> str:
    """Return scheme, host and port of a proxy's address, and nothing else. Raises ValueError for what is none."""
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if not parts.hostname or not re.fullmatch(r"[A-Za-z0-9._:%-]+", parts.hostname):
        raise ValueError("it names no host")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")


def _proxy(name: str, value: str) -> Finding:
    spelled = f"{name} (or {name.upper()})"
    try:
        address = shown(value)
    except ValueError:  # its words may repeat the address, and that a password
        fix = f"export {name}=http://HOST:PORT, or unset it"
        return warning("proxy", f"{spelled} is no address of a proxy; nothing outside can be asked through it", fix)
    scheme = address.partition(":")[0]
    if scheme not in ("http", "https"):
        what = f"{spelled} names a {scheme} proxy; only http and https proxies can be used"
        return warning("proxy", what, f"unset {name}, name an http proxy, or add the servers to NO_PROXY")
    has_secret = "@" in value
    return well("proxy", f"{spelled}: {address}" + (" (its user and password are not shown)" if has_secret else ""))


def _exceptions(value: str) -> Iterator[Finding]:
    entries = [entry.strip() for entry in value.split(",") if entry.strip()]
    if entries == ["*"]:
        yield note("proxy", "NO_PROXY is *: no server is asked through the proxy", "unset it if the proxy is needed")
        return
    odd = [entry for entry in entries if "://" in entry or "/" in entry or " " in entry]
    if odd:
        what = f"NO_PROXY has entries that match no host: {', '.join(quoted(entry) for entry in odd[:5])}"
        yield warning("proxy", what, "write host names, domains (.example.org) and single addresses, with commas")
    missing = [host for host in ("127.0.0.1", "localhost") if not _bypassed(host, entries)]
    if missing:
        what = f"NO_PROXY lacks {' and '.join(missing)}: distillgen goes around the proxy there, other programs do not"
        yield note("proxy", what, f"export NO_PROXY={','.join([*entries, *missing])}")
    elif entries:
        yield well("proxy", f"asked directly: {', '.join(entries)}")


def _bypassed(host: str, entries: Sequence[str]) -> bool:
    return bool(urllib.request.proxy_bypass_environment(host, {"no": ",".join(entries)}))  # type: ignore[attr-defined]


def certificates(environment: Environment) -> Finding:
    """Return whether the certificates that servers are checked against can be read, and whose they are.

    It looks at the environment's files, and lets the transport read them as it does for a call.
    """
    from distillgen.teacher.chat import certificates as read

    named = {name: environment[name] for name in BUNDLES if environment.get(name)}
    if "SSL_CERT_FILE" in named or "SSL_CERT_DIR" in named:
        named = {name: path for name, path in named.items() if name.startswith("SSL_")}
    for name, path in named.items():
        if not Path(path).exists():
            return broken("tls", f"{name} names {path}, which is not there", f"correct it, or unset {name}")
        if name == "SSL_CERT_DIR" and not any(Path(path).iterdir()):
            return broken("tls", f"{name} names {path}, which is empty", f"correct it, or unset {name}")
    try:
        context = read()
    except UsageError as error:
        return broken("tls", error.problems[0].what, error.problems[0].fix)
    whose = ", ".join(f"{name}={path}" for name, path in named.items()) or "those of the package certifi"
    count = context.cert_store_stats()["x509_ca"]  # those of a folder are read when they are needed
    return well("tls", f"{f'{count:,} ' if count else ''}certificates of authorities: {whose}")


def clock(now: datetime, servers: Sequence[ServerClock]) -> Finding:
    """Return whether the clock can be right: by this distillgen's own data, and by the servers that were asked."""
    told = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    made = datetime.combine(made_on(), time(), UTC) - timedelta(days=1)
    fix = "set the clock, and let the system keep it: timedatectl set-ntp true"
    if now < made:
        return warning("clock", f"it is {told} here, before this distillgen was made ({made_on()}): {HARM}", fix)
    off = sorted((each for each in servers if abs(each.ahead_seconds) > MOST_SKEW_SECONDS), key=_size)
    if off:
        worst = off[-1]
        direction = "ahead of" if worst.ahead_seconds > 0 else "behind"
        what = f"the clock is {duration(abs(worst.ahead_seconds))} {direction} that of {worst.host}: {HARM}"
        agreeing = sorted(
            {each.host for each in servers if each not in off and not providers.is_loopback(_name(each.host))}
        )
        if agreeing:
            what = f"{what}; {', '.join(agreeing)} agrees with this machine, so that server may be the one that is off"
        return warning("clock", what, fix)
    hosts = ", ".join(sorted({each.host for each in servers}))
    return well("clock", f"{told}, as {hosts} has it" if hosts else f"{told} (no server was asked for the time)")


def _size(server: ServerClock) -> float:
    return abs(server.ahead_seconds)


def _name(host: str) -> str:
    return urlsplit(f"//{host}").hostname or host


def made_on() -> date:
    """Return the newest day in the tables that come with this distillgen: it was made then or later."""
    folder = Path(providers.__file__).parent
    tables = [tomllib.loads((folder / name).read_text(encoding="utf-8")) for name in ("providers.toml", "terms.toml")]
    return max(day for table in tables for entry in table.values() for day in _days(entry))


def _days(entry: Mapping[str, Any]) -> Iterator[date]:
    return (entry[name] for name in ("checked", "read") if isinstance(entry.get(name), date))
