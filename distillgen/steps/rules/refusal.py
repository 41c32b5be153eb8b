"""Rule `not_refusal`: answers that decline to do what was asked."""

import regex

from distillgen.rows import Row
from distillgen.steps.text import text_of

# How assistants begin a refusal. Only the start of an answer is looked at, so that an answer which merely contains
# such words survives. Collected from answers of public instruction models; issue reports welcome.
_CANNOT = (
    r"(?:can['’]?t|cannot|can\ not|won['’]?t|will\ not"
    r"|am\ (?:not\ able|unable)\ to|['’]m\ (?:not\ able|unable)\ to)"
)
_SERVE = (
    r"(?:be\ able\ to\ )?(?:help|assist|provide|fulfill?|comply|do\ (?:that|this)|answer|create|generate|write"
    r"|give|support|engage|discuss|talk\ about|access|browse|see|view|open|process|complete|continue|participate"
    r"|share|offer|perform|respond|recommend)\b"
)
_SORRY = r"(?:(?:i['’]?m|i\ am)\ (?:so\ |very\ |really\ )?sorry|sorry|i\ apologi[sz]e|apologies)"
_REFUSAL = regex.compile(
    rf"""^\W*(?:(?:oh|ah|well|hmm|hello|hi|hey)\b\W+)?
      (?:(?:{_SORRY}|unfortunately|as\ an?\ (?:ai|artificial|(?:large\ )?language\ model))\b[^.!?\n]{{0,80}}?
            \bi\ ?(?:really\ )?{_CANNOT}\s{_SERVE}
      |{_SORRY}\b[^.!?\n]{{0,40}}?\b(?:as\ an?\ (?:ai|language)|(?:i['’]m|i\ am)\ not\ comfortable
            |i\ (?:do\ not|don['’]t)\ (?:have\ access|feel\ comfortable))
      |i\ (?:really\ )?{_CANNOT}\s{_SERVE}
      |i['’]m\ (?:not\ able|unable)\ to\s{_SERVE}
      |i\ must\ (?:decline|refuse)|i\ (?:respectfully\ )?decline
      |(?:es\ tut\ mir\ leid|tut\ mir\ leid|entschuldigung)\b[^.!?\n]{{0,80}}?\b(?:kann|darf|nicht)\b
      |(?:je\ suis\ désolée?|désolée?)\b[^.!?\n]{{0,80}}?\b(?:ne\ peux|ne\ suis\ pas)
      |(?:lo\ siento|lo\ lamento)\b[^.!?\n]{{0,80}}?\b(?:no\ puedo|no\ me)
      |(?:desculpe|sinto\ muito)\b[^.!?\n]{{0,80}}?\bnão\ (?:posso|consigo)
      |(?:mi\ dispiace)\b[^.!?\n]{{0,80}}?\bnon\ posso
      |(?:很抱歉|对不起|抱歉)[^。！？\n]{{0,30}}?(?:无法|不能|不会)
      |申し訳(?:ありません|ございません)[^。\n]{{0,40}}?(?:できません|致しかねます)
      |(?:извините|к\ сожалению)[^.!?\n]{{0,60}}?\bне\ могу
    )""",
    regex.IGNORECASE | regex.VERBOSE,
)


def not_refusal(row: Row, *, column: str) -> str | None:
    """Refuse answers that begin by declining (several languages), and those that the server marks as refused."""
    for record in reversed(row.trail):
        if column in record.get("wrote", ()):
            if record.get("refused"):
                return "the server marked the reply as a refusal"
            break
    found = _REFUSAL.match(text_of(row, column)[:400])
    return f"{column} begins {found[0][:80]!r}" if found else None
