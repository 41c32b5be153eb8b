"""The step `generate`: renders a prompt for each row, and turns the teacher's replies into new columns."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from distillgen.errors import RowFailed
from distillgen.files import canonical, digest
from distillgen.prompts import Messages, Prompt
from distillgen.recipe import GenerateStep
from distillgen.rows import Failure, Outcome, Rejection, Row
from distillgen.steps.rules import Rule, first_refusal
from distillgen.steps.structured import labels_schema, parse_structured
from distillgen.teacher import Teacher
from distillgen.teacher.asking import Reply, Request
from distillgen.teacher.replies import Completion, read_reply


@dataclass(frozen=True)
class Generate:
    """A row step that asks. `checks` are the prompt's own rules for what came back."""

    name: str
    settings: GenerateStep
    prompt: Prompt
    checks: Sequence[Rule]
    teacher: Teacher

    @property
    def schema(self) -> dict[str, Any] | None:
        """The JSON schema that replies must follow, None for free text."""
        return reply_schema(self.prompt, self.settings)

    def render(self, row: Row) -> Messages:
        """Return the messages for a row. Raises RowFailed when it does not fit the prompt."""
        return self.prompt.render(seen_by_template(row.columns, self.settings))

    def requests(self, row: Row) -> list[Request]:
        """Return one request per sample. Raises RowFailed when the row does not fit the prompt."""
        messages = self.render(row)
        schema = self.schema
        return [self.teacher.request(messages, schema=schema, sample=n) for n in range(self.settings.samples)]

    def stored(self, request: Request) -> Reply | None:
        """Return the stored reply, None when the teacher must be asked."""
        return self.teacher.stored(request)

    async def ask(self, request: Request) -> Reply:
        """Return the teacher's reply, committed to disk. Raises RowFailed, or the error that stops the run."""
        return await self.teacher.complete(request)

    def row_of(self, row: Row, sample: int) -> Row:
        """Return the row itself, or a child for each of several samples."""
        return row.child(str(sample)) if self.settings.samples > 1 else row

    def rows(self, row: Row, sample: int, request: Request, reply: Reply) -> list[Outcome]:
        """Return the row with what the teacher wrote: one row, one per element, a rejection, or a failure."""
        completion = read_reply(reply.raw)
        row = self.row_of(row, sample)
        try:
            written = self._written(completion)
        except RowFailed as failed:
            return [Failure(row, self.name, failed.cause, failed.detail, failed.lasting)]
        if not written:
            return [Rejection(row, self.name, "empty_list", "the teacher's list has no element")]
        rows = [row.child(str(number)) for number in range(len(written))] if self.settings.each else [row]
        return [self._checked(*pair, request, completion) for pair in zip(rows, written, strict=True)]

    def _written(self, completion: Completion) -> list[dict[str, Any]]:
        """Return the columns that a reply writes, one dictionary per row. Raises RowFailed on a schema miss."""
        schema = self.schema
        if schema is None:
            return [{self.prompt.settings.columns[0]: completion.text.strip()}]
        try:
            values = parse_structured(completion.text, schema)
        except RowFailed:
            if completion.is_truncated:
                end = f"the reply was cut off inside its JSON, at {completion.text[-60:]!r}"
                raise RowFailed("truncated", f"{end}; if it was not looping, raise max_tokens", lasting=True) from None
            if self.prompt.settings.output == "labels" and completion.text.strip() in labels_of(
                self.prompt, self.settings
            ):
                return [{self.prompt.settings.columns[0]: completion.text.strip()}]
            raise
        rows = _elements(values, self.prompt) if self.settings.each else [values]
        return [{name: _stripped(value) for name, value in row.items()} for row in rows]

    def _checked(self, row: Row, written: Mapping[str, Any], request: Request, completion: Completion) -> Outcome:
        columns = {"reasoning": completion.reasoning, **written}
        columns = {self.settings.write.get(name, name): value for name, value in columns.items()}
        row = row.passed(self._record(request, completion, columns), **columns)
        if refused := first_refusal(row, self.checks):
            return Rejection(row, self.name, *refused)
        return row

    def _record(self, request: Request, completion: Completion, columns: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "step": self.name,
            "prompt": self.prompt.name,
            "prompt_sha256": digest(canonical(request.body["messages"])),
            "teacher": self.teacher.identity.name,
            "model": completion.model or None,
            "key": request.key.hex(),
            "finish_reason": completion.finish_reason,
            "refused": bool(completion.refusal) or completion.finish_reason == "content_filter",
            "reasoning_source": completion.reasoning_source or None,
            "tokens": asdict(completion.usage) if completion.usage else None,
            "wrote": sorted(columns),
        }


def seen_by_template(columns: Mapping[str, Any], settings: GenerateStep) -> dict[str, Any]:
    """Return what a template sees of a row: its columns, some under another name, and the step's fixed values."""
    renamed = {variable: columns[column] for variable, column in settings.read.items() if column in columns}
    return {**columns, **renamed, **settings.values}


def labels_of(prompt: Prompt, settings: GenerateStep) -> list[str]:
    """Return the closed label set: the step's, else the template's."""
    return settings.labels or prompt.settings.labels


def reply_schema(prompt: Prompt, settings: GenerateStep) -> dict[str, Any] | None:
    """Return the JSON schema that replies must follow, None for free text. A step's labels replace the template's."""
    if prompt.settings.output == "labels":
        return labels_schema(prompt.settings.columns[0], labels_of(prompt, settings))
    if prompt.settings.output != "json":
        return None
    schema = prompt.settings.json_schema
    if settings.labels and "label" in schema.get("properties", {}):
        label = {**schema["properties"]["label"], "enum": settings.labels}
        schema = {**schema, "properties": {**schema["properties"], "label": label}}
    return schema


def list_property(prompt: Prompt) -> str | None:
    """Return the name of the list in a template's schema that `each` takes apart."""
    properties = prompt.settings.json_schema.get("properties", {})
    return next((name for name, schema in properties.items() if schema.get("type") == "array"), None)


def written_columns(prompt: Prompt, settings: GenerateStep) -> list[str]:
    """Return the columns that a generate step adds to a row, the main one first."""
    columns = list(prompt.settings.columns)
    name = list_property(prompt) if settings.each else None
    if name is not None:
        items = prompt.settings.json_schema["properties"][name].get("items", {})
        columns = [*items.get("properties", {name: {}}), *(column for column in columns if column != name)]
    return [settings.write.get(column, column) for column in dict.fromkeys([*columns, "reasoning"])]


def _stripped(value: Any) -> Any:
    """Constrained replies of small models end in stray white space, which free text is stripped of too."""
    return value.strip() if isinstance(value, str) else value


def _elements(values: dict[str, Any], prompt: Prompt) -> list[dict[str, Any]]:
    """Take the list in a reply apart: one dictionary of columns per element, the other values repeated."""
    name = list_property(prompt) or ""
    others = {key: value for key, value in values.items() if key != name}
    return [
        {**others, **(element if isinstance(element, dict) else {name: element})} for element in values.get(name, [])
    ]
