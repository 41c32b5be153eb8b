"""How each kind of personal data is found in a text, and what is nobody's and survives.

Every repetition in the patterns is bounded or cannot be entered twice, so the time is linear in the text. Checksums
are computed here: python-stdnum has them too, at 6 MB and under the LGPL, for ten lines.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]
Finder: TypeAlias = Callable[[str, Sequence[Span]], Iterator[Span]]  # of a text and its long numbers

LONGEST_NUMBER = 80  # characters; figures and separators that go on for longer are data, not a number of somebody's
_NUMBER = re.compile(r"[0-9][0-9 \u00a0().\-/–]{5,}")


def numbers_in(text: str) -> list[Span]:
    """Return where figures and separators stand that could be a number of at least seven digits."""
    found = []
    for number in _NUMBER.finditer(text):
        start, end = number.span()
        if end - start <= LONGEST_NUMBER and sum(map(number[0].count, "0123456789")) >= 7:
            opening = text[max(0, start - 2) : start]
            found.append((start - len(opening) + len(opening.rstrip("+(")), end))
    return found


def _within(pattern: re.Pattern[str], text: str, numbers: Sequence[Span]) -> Iterator[re.Match[str]]:
    """Yield the matches that begin within the numbers of a text."""
    for start, end in numbers:
        place = start
        while (found := pattern.search(text, place, end + 8)) and found.start() < end:
            yield found
            place = found.end()


# -- keys: their makers' prefixes, as gitleaks has them --------------------------------------------------------------

_KEY = re.compile(
    r"""(?<![A-Za-z0-9_-])(?:
      sk-(?:proj-|svcacct-|admin-|ant-(?:api|admin)\d\d-|or-v1-)?[A-Za-z0-9_-]{20,200}  # OpenAI, Anthropic, OpenRouter
    | gh[pousr]_[A-Za-z0-9]{36,255} | github_pat_[A-Za-z0-9_]{22,255} | glpat-[A-Za-z0-9_-]{20,64}
    | (?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16} | AIza[A-Za-z0-9_-]{35} | ya29\.[A-Za-z0-9_-]{20,200}
    | xox[abeoprs]-[A-Za-z0-9-]{10,200} | xapp-\d-[A-Za-z0-9-]{10,200} | [sr]k_live_[A-Za-z0-9]{16,200}
    | hf_[A-Za-z0-9]{34} | gsk_[A-Za-z0-9]{40,64} | npm_[A-Za-z0-9]{36} | pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,250}
    | SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43} | dop_v1_[a-f0-9]{64} | \d{8,10}:AA[A-Za-z0-9_-]{33}
    | eyJ[A-Za-z0-9_-]{10,1000}\.eyJ[A-Za-z0-9_-]{10,2000}\.[A-Za-z0-9_-]{10,1000}
    )(?![A-Za-z0-9_-])""",
    re.VERBOSE,
)
_LONG_WORD = re.compile(r"[A-Za-z0-9_-]{15}")  # every key holds one
_PRIVATE_KEY = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_KEY_MATERIAL = re.compile(r"[A-Za-z0-9+/]{40}")
_KEY_END = re.compile(r"-----END[A-Z0-9 ]{1,50}-----")
_PLACEHOLDER = re.compile(r"x{4}|X{4}|\.\.\.|your|YOUR|example|EXAMPLE|12345|abcdef|placeholder|-key-|_key_")
_SAMPLE_JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkw"  # the one that jwt.io shows


def keys(text: str, numbers: Sequence[Span]) -> Iterator[Span]:
    """Find keys, tokens and private keys; placeholders (`sk-xxxx`, AWS's `...EXAMPLE`, jwt.io's token) survive."""
    if _LONG_WORD.search(text):
        for found in _KEY.finditer(text):
            value = found[0]
            if not value.startswith(_SAMPLE_JWT) and not _PLACEHOLDER.search(value) and len(set(value)) > 10:
                yield found.span()
    yield from _private_keys(text) if "PRIVATE KEY" in text else ()


def _private_keys(text: str) -> Iterator[Span]:
    place = 0
    while header := _PRIVATE_KEY.search(text, place):
        start, place = header.span()
        if _KEY_MATERIAL.search(text, place, place + 400):  # a header alone is documentation
            end = _KEY_END.search(text, place, place + 20_000)
            place = end.end() if end else min(place + 20_000, len(text))
            yield start, place


# -- numbers with checksums ------------------------------------------------------------------------------------------

_CARD = re.compile(
    r"(?<![\w.-])(?<!\d[ -])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{4,5})(?![ -]?\w)"
)
_ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:2[2-9]|[3-6]\d|7[01])\d{13}|2720\d{12}|3[47]\d{13}"
    r"|6(?:011|5\d\d|4[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|3(?:0[0-5]|[689]\d)\d{11}|62\d{14,17}"
)
# Numbers that Stripe, PayPal and Adyen publish for tests.
_TEST_CARDS = """
    4242424242424242 4111111111111111 4012888888881881 4222222222222 4000056655665556 4000000000000002 4000000000000077
    4917610000000000 5555555555554444 5105105105105100 5200828282828210 2223003122003222 2223000048400011
    378282246310005 371449635398431 378734493671000 6011111111111117 6011000990139424 6011981111111113 36227206271667
    30569309025904 38520000023237 3530111333300000 3566002020360505 6200000000000005 6205500000000000004
    4532015112830366 4539578763621486
"""


def cards(text: str, numbers: Sequence[Span]) -> Iterator[Span]:
    """Find card numbers: an issuer's range and length, grouped as on a card or not at all, with a check digit that fits
    (ISO/IEC 7812). The processors' test numbers survive."""
    for found in _within(_CARD, text, numbers):
        digits = found[0].replace(" ", "").replace("-", "")
        if _ISSUERS.fullmatch(digits) and luhn(digits) and digits not in _TEST_CARDS and len(set(digits)) > 3:
            yield found.span()


def luhn(digits: str) -> bool:
    """Say whether the last digit is the check digit of the others (ISO/IEC 7812-1)."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,29}(?![a-z0-9])")
# Characters of an account number by country: the SWIFT registry of IBAN formats.
_IBAN_LENGTHS = {
    15: "NO", 16: "BE", 18: "DK FI FO GL NL SD FK", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
    29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
}  # fmt: skip
_LENGTH_OF = {country: length for length, countries in _IBAN_LENGTHS.items() for country in countries.split()}
# Those that the registry, Wikipedia and banks print as examples.
_SAMPLE_IBANS = """
    DE89370400440532013000 DE75512108001245126199 DE12500105170648489890 GB82WEST12345698765432 GB29NWBK60161331926819
    GB33BUKB20201555555555 FR1420041010050500013M02606 FR7630006000011234567890189 CH9300762011623852957
    IT60X0542811101000000123456 ES9121000418450200051332 NL91ABNA0417164300 BE68539007547034 AT611904300234573201
    PL61109010140000071219812874 PT50000201231234567890154 SE4550000000058398257466 IE29AIBK93115212345678
    LU280019400644750000 GR1601101250000000012300695
"""


def ibans(text: str, numbers: Sequence[Span]) -> Iterator[Span]:
    """Find account numbers by country, length and checksum (ISO 13616). Printed examples survive."""
    for found in _IBAN.finditer(text) if numbers else ():
        length = _LENGTH_OF.get(found[0][:2], 99)
        places = [place for place, character in enumerate(found[0]) if character != " "]
        if len(places) < length:
            continue
        end = places[length - 1] + 1  # words in capitals may stand behind it
        number = found[0][:end].replace(" ", "")
        digits = "".join(str(int(character, 36)) for character in number[4:] + number[:4])
        if number not in _SAMPLE_IBANS and int(digits) % 97 == 1:
            yield found.start(), found.start() + end


_SSN = re.compile(r"(?<![\w.-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\w-])")
_SAMPLE_SSNS = ("078-05-1120", "219-09-9999", "123-45-6789", "111-11-1111", "111-22-3333", "555-55-5555")


def ssns(text: str, numbers: Sequence[Span]) -> Iterator[Span]:
    """Find US social security numbers as written, `AAA-GG-SSSS`, in the ranges that are given out."""
    return (found.span() for found in _within(_SSN, text, numbers) if found[0] not in _SAMPLE_SSNS)


# -- IP addresses ----------------------------------------------------------------------------------------------------

_DOTTED = re.compile(r"\d\.\d{1,3}\.\d{1,3}\.\d")
_IP4 = re.compile(r"(?<![\w.-])\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?!\.?\w)")
_IP6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,36}(?![\w:])")
_RESOLVERS = """
    8.8.8.8 8.8.4.4 1.1.1.1 1.0.0.1 9.9.9.9 149.112.112.112 208.67.222.222 208.67.220.220 4.2.2.2
    2001:4860:4860::8888 2001:4860:4860::8844 2606:4700:4700::1111 2606:4700:4700::1001 2620:fe::fe
""".split()  # noqa: SIM905  (as people read them)
_NUMBERINGS = ("1.2.3.", "2.5.4.", "2.5.29.")  # anybody's example, and the object identifiers of certificates
_VERSION = re.compile(r"(?:\bv|version|release|build|section|chapter|firmware|abschnitt|版本)[ .:=]{0,3}\Z", re.I)
_HEADING = re.compile(r"[ *]{1,4}[A-Z][a-z]")


def addresses(text: str, numbers: Sequence[Span]) -> Iterator[Span]:
    """Find public IPv4 and IPv6 addresses. Private, reserved and documentation ranges, the well-known resolvers,
    1.2.3.x, object identifiers, versions and numbered headings survive."""
    if "." in text and _DOTTED.search(text):
        for found in _IP4.finditer(text):
            if not found[0].startswith(_NUMBERINGS) and _is_public(found[0]) and not _is_numbering(text, *found.span()):
                yield found.span()
    if "::" in text or text.count(":") >= 7:
        yield from (found.span() for found in _IP6.finditer(text) if _is_public(found[0]))


def _is_public(value: str) -> bool:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    return address.is_global and not address.is_multicast and str(address) not in _RESOLVERS


def _is_numbering(text: str, start: int, end: int) -> bool:
    """Say whether four numbers are a version, or the number of a heading at the start of a line."""
    before = text[max(0, start - 14) : start]
    opens_line = not before.rpartition("\n")[2].strip(" #*") and ("\n" in before or len(before) == start)
    return bool(_VERSION.search(before)) or (opens_line and bool(_HEADING.match(text, end)))


# -- phone numbers ---------------------------------------------------------------------------------------------------

_PHONE = re.compile(
    r"""(?<![\w.,+$€£¥/=*^-])(?<![\d=×÷<>][ ])
    (?<![\d)\]][+*/-][ ])(?<![\d)\]][ ][+*/-][ ])                 # part of a sum; a bullet is none
    (?:(?<!\S\d[)][ ])|(?<!\S\d\d[)][ ])(?<=\d\d[)][ ]))         # behind digits in brackets; "1) " and "12) " count
    (?:
      (?:\+|00(?=[1-9]))[1-9]\d{0,2}[ .\-/]?(?:\(0?\d{1,4}\)[ .\-/]?)?\d(?:[ .\-/]?\d){5,12}    # abroad
    | (?:1[ .-])?(?:\([2-9]\d\d\)[ ]?[2-9]\d\d[ .-]\d{4}|[2-9]\d\d(?P<us>[.-])[2-9]\d\d(?P=us)\d{4})  # US, Canada
    | 0[1-9](?P<fr>[ .-])(?:\d\d(?P=fr)){3}\d\d                                                     # France
    | 0[1-9]\d{1,4}(?:[ ]?[/–][ ]?\d(?:[ -]?\d){5,8}|(?!(?<=\d{5})-\d{4}\b)-\d{4,8}) | 01[567]\d[ ]?\d{7,8}  # Germany
    | \(?0(?:2\d\)?[ ]\d{4}[ ]\d{4}|1\d{3}\)?[ ]\d{6}|1\d\d\)?[ ]\d{3}[ ]\d{4}|7\d{3}[ ]?\d{3}[ ]?\d{3})  # UK
    | \(\d\d\)[ ]?9?\d{4}-\d{4}                                                                     # Brazil
    | 1[3-9]\d(?P<cn>[ -])\d{4}(?P=cn)\d{4}                                                         # China
    | 0(?:[789]0-\d{4}|\d-\d{4}|\d\d-\d{3}|\d{3}-\d\d)-\d{4}                                         # Japan
    | [6-9]\d{4}[ -][0-9]{5}                                                                        # India
    )(?!\w|[ .\-/]\d|,\d|%|[ ]?[€$£+*/=^×÷])""",
    re.VERBOSE,
)
# A word that announces one; then any seven to thirteen figures will do.
_ANNOUNCED = re.compile(
    r"(?:\btel|phone|\bcall|mobile|\bcell|\bfax|whatsapp|telefon|handy|\btél|móvil|celular|teléfono|cellulare|\bтел"
    r"|电话|手机|電話|携帯)\w{0,4}(?: (?:number|no\.?|nr\.?|at|is|us at|me at)){0,2}[:：. ]{1,3}\Z",
    re.IGNORECASE,
)
_ANY = re.compile(r"[(\d]\d(?:[ ().\-/]{0,2}\d){6,12}(?![\w%]|[.,-]\d)")
_OTHER_NUMBER = re.compile(
    r"(?:isbn(?:-1[03])?|issn|doi|order|invoice|account|\bid|\bno|serial|zip|plz)[\w ]{0,3}[.:#-]{0,2}\s?\Z", re.I
)
# Numbers for fiction: 555-01xx and area code 555 (NANPA), Ofcom's; toll-free ones belong to no person.
_FICTION = re.compile(
    r"(?:\+?1[ .-]?)?\(?(?:\d{3}\)?[ .-]?555[ .-]?01\d\d|555\)?[ .-]?\d{3}[ .-]?\d{4}"
    r"|8(?:00|33|44|55|66|77|88)\)?[ .-]?\d{3}[ .-]?\d{4})"
    r"|(?:(?:\+|00)44[ ]?(?:\(0\))?[ ]?|\(?0)(?:20\)?[ ]?7946[ ]?0\d{3}|7700\)?[ ]?900[ ]?\d{3}"
    r"|1632\)?[ ]?960[ ]?\d{3})"
)


def phones(text: str, numbers: Sequence[Span]) -> Iterator[Span]:
    """Find phone numbers: international ones, the common national forms, and any behind a word such as "phone:".

    Numbers kept for fiction, toll-free ones, and those that only count up or repeat a digit survive.
    """
    for found in _within(_PHONE, text, numbers):
        if _is_somebodys(text, found):
            yield found.span()
    for start, _ in numbers:
        if _is_announced(text, start) and (number := _ANY.match(text, start)) and _is_somebodys(text, number):
            yield number.span()


def _is_announced(text: str, start: int) -> bool:
    return _ANNOUNCED.search(text[max(0, start - 40) : start]) is not None


def _is_somebodys(text: str, found: re.Match[str]) -> bool:
    digits = "".join(filter(str.isdigit, found[0]))
    if not 7 <= len(digits) <= 15 or len(set(digits)) < 3 or digits.lstrip("1") in "234567890123456789":
        return False
    if _FICTION.fullmatch(found[0]):
        return False
    start = found.start()
    if found[0].startswith("+") or _is_announced(text, start):  # "Phone no.: " announces no order
        return True
    return not _OTHER_NUMBER.search(text[max(0, start - 16) : start])


# -- e-mail ----------------------------------------------------------------------------------------------------------

_LOCAL = re.compile(r"[A-Za-z0-9_%+](?:[A-Za-z0-9._%+-]{0,62}[A-Za-z0-9_%+-])?\Z")
_DOMAIN = re.compile(r"@((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,6}([A-Za-z]{2,24}))(?![\w@-])")
_NOBODYS_DOMAIN = re.compile(  # RFC 2606 and 6761, and what everybody writes in their place
    r"(?:[\w.-]*\.)?(?:example\.(?:com|net|org|edu)|[\w-]+\.(?:example|test|invalid|localhost|local|internal)"
    r"|(?:your|my|our|the)?-?(?:domain|company|companyname|website|site|organi[sz]ation|university|school|business"
    r"|email)\.(?:com|org|net|edu))",
    re.IGNORECASE,
)
_NOBODY = re.compile(
    r"(?:your|my)(?:[._-]\w.*|(?:(?:first|last|full|user)?name|e-?mail|address|account|company|login|user)\w{0,7})|git|no-?reply|name|user|username|email|someone|first\.?name\.?last\.?name",
    re.IGNORECASE,
)
# Endings of files that are no country's: `.py`, `.md` and `.zip` are domains too.
_FILES = ("png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "ts", "json", "html", "pdf", "txt")
_RETINA = re.compile(r"\d+x\.")  # `icons@2x.zip`


def emails(text: str, numbers: Sequence[Span]) -> Iterator[Span]:
    """Find e-mail addresses; reserved domains, placeholders such as `your.name@company.com`, and `git@` survive."""
    place = text.find("@")
    while place != -1:
        domain = _DOMAIN.match(text, place)
        local = _LOCAL.search(text[max(0, place - 64) : place]) if domain else None
        if domain and local and not _is_nobodys(local[0], domain[1], domain[2].lower()):
            yield place - len(local[0]), domain.end()
        place = text.find("@", place + 1)


def _is_nobodys(local: str, domain: str, ending: str) -> bool:
    is_file = ending in _FILES or bool(_RETINA.match(domain))
    return is_file or bool(_NOBODYS_DOMAIN.fullmatch(domain)) or bool(_NOBODY.fullmatch(local))


FINDERS: Mapping[str, Finder] = {
    "key": keys,
    "iban": ibans,
    "card": cards,
    "ssn": ssns,
    "ip": addresses,
    "phone": phones,
    "email": emails,
}
