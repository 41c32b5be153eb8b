"""What whoever exports may choose: where reasoning goes, texts or messages, and the template of `text`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from distillgen.export.chat_template import ChatTemplate

Reasoning: TypeAlias = Literal["think", "reasoning_content", "thinking", "drop"]


@dataclass(frozen=True)
class Options:
    """Choices that hold for a whole export.

    `reasoning`: inline as `<think>`, under a key of the answer, or left out. `as_text`: prompt and completion are
    strings instead of lists of messages; None leaves it to the version. `system`: what the system says in every row,
    where a format leaves it out; "" where it says nothing, None where nobody looked.
    """

    reasoning: Reasoning = "think"
    as_text: bool | None = None
    template: "ChatTemplate | None" = None
    system: str | None = None
