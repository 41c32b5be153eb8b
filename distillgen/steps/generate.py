"""The step `generate`: renders a prompt for each row, and turns the teacher's replies into new columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distillgen.errors import RowFailed
from distillgen.files import canonical, digest
from distillgen.prompts import Messages, Prompt
from distillgen.rows import Failure, Outcome, Rejection, Row
from distillgen.step_settings import GenerateStep
from distillgen.steps.rules import Rule, apply_rules
from distillgen.structured import labels_schema, parse_structured
from distillgen.teacher import several
from distillgen.teacher.asking import Request
from distillgen.teacher.replies import Completion, TokenUsage
from distillgen.teacher.several import Answer, Chosen, Question

ASK_AGAIN = 1  # how often a reply that does not follow its schema is asked for once more


@dataclass(frozen=True)
class Generate:
    """A row step that asks. `checks` are the prompt's own rules for what came back; `chosen` says whom to ask."""

    name: str
    settings: GenerateStep
    prompt: Prompt
    checks: Sequence[Rule]
    chosen: Chosen
    prefer_first: bool = False
    schema: dict[str, Any] | None = None  # that replies must follow, None for free text

    def render(self, row: Row) -> Messages:
        """Return the messages for a row. Raises RowFailed when it does not fit the prompt."""
        labels = labels_of(self.prompt, self.settings)
        seen = seen_by_template(row.columns, self.settings)
        return self.prompt.render({**seen, "labels": labels} if labels else seen)

    def questions(self, row: Row) -> list[Question]:
        """Return one question per sample. Raises RowFailed when the row does not fit the prompt."""
        return self.chosen(row.id, self.render(row), self.schema)

    def stored(self, question: Question) -> Answer | None:
        """Return the stored answer, None when a teacher must be asked."""
        return several.stored(question, prefer_first=self.prefer_first)

    async def ask(self, question: Question) -> Answer:
        """Return a teacher's answer, committed to disk. Raises RowFailed, or the error that stops the run."""
        return await several.ask(question)

    def ask_again(self, question: Question, answer: Answer) -> Question | None:
        """Return the question with the reply and what is wrong with it, once, when it does not follow its schema."""
        if self.schema is None or answer.ask >= ASK_AGAIN or answer.reply.completion.is_truncated:
            return None
        try:
            self._read(answer.reply.completion)
        except RowFailed as failed:
            if _is_refused(answer.reply.completion):
                return None
            return Question(((answer.teacher, self._corrected(answer, failed.detail)),), answer.ask + 1)
        return None

    def _corrected(self, answer: Answer, wrong: str) -> Request:
        said = answer.reply.completion.text or "(nothing)"
        plea = f"Thank you, but {wrong}. Please reply once more, with nothing but JSON that follows the schema."
        messages = [
            *answer.request.body["messages"],
            {"role": "assistant", "content": said},
            {"role": "user", "content": plea},
        ]
        return answer.teacher.request_again(answer.request, messages, ask=answer.ask + 1)

    def row_of(self, row: Row, sample: int) -> Row:
        """Return the row itself, or a child for each of several samples."""
        return row.child(str(sample)) if self.settings.sample_count > 1 else row

    def rows(self, row: Row, sample: int, answer: Answer) -> list[Outcome]:
        """Return the row with what the teacher wrote: one row, one per element, a rejection, or a failure."""
        drawn = {"sample": sample, "of": row.id} if self.settings.sample_count > 1 else {}
        row = self.row_of(row, sample)
        try:
            written = self._written(answer.reply.completion)
        except RowFailed as failed:
            if _is_refused(answer.reply.completion):
                return [Rejection(row, self.name, "not_refusal", "the server marked the reply as refused")]
            after = f" (asked {answer.ask + 1} times)" if answer.ask else ""
            return [Failure(row, self.name, failed.cause, f"{failed.detail}{after}", failed.lasting, answer.ask + 1)]
        if not written:
            return [Rejection(row, self.name, "empty_list", "the teacher's list has no element")]
        rows = [row.child(str(number)) for number in range(len(written))] if self.settings.each else [row]
        return [self._checked(*pair, answer, drawn) for pair in zip(rows, written, strict=True)]

    def _written(self, completion: Completion) -> list[dict[str, Any]]:
        """Return the columns that a reply writes, one dictionary per row. Raises RowFailed on a schema miss."""
        if self.schema is None:
            return [{self.prompt.settings.columns[0]: completion.text.strip()}]
        values = self._read(completion)
        rows = _elements(values, self.prompt) if self.settings.each else [values]
        return [{name: _stripped(value) for name, value in row.items()} for row in rows]

    def _read(self, completion: Completion) -> dict[str, Any]:
        """Return the object in a structured reply; a bare label stands for one. Raises RowFailed."""
        try:
            return parse_structured(completion.text, self.schema or {})
        except RowFailed:
            if completion.is_truncated:
                end = f"the reply was cut off inside its JSON, at {completion.text[-60:]!r}"
                raise RowFailed("truncated", f"{end}; if it was not looping, raise max_tokens", lasting=True) from None
            label = completion.text.strip()
            if self.prompt.settings.output == "labels" and label in labels_of(self.prompt, self.settings):
                return {self.prompt.settings.columns[0]: label}
            raise

    def _checked(self, row: Row, written: Mapping[str, Any], answer: Answer, drawn: Mapping[str, Any]) -> Outcome:
        completion = answer.reply.completion
        columns = {"reasoning": completion.reasoning, **written}
        if completion.logprobs is not None:
            columns["logprobs"] = completion.logprobs
        columns = {self.settings.write.get(name, name): value for name, value in columns.items()}
        record = {**self._record(answer, completion, columns), **drawn}
        judged = apply_rules(row.passed(record, **columns), self.checks)
        if judged.refused:
            return Rejection(judged.row, self.name, *judged.refused)
        return judged.row.noted(judged.notes)

    def _record(self, answer: Answer, completion: Completion, columns: Mapping[str, Any]) -> dict[str, Any]:
        record: dict[str, Any] = {
            "step": self.name,
            "prompt": self.prompt.name,
            "prompt_sha256": digest(canonical(answer.request.body["messages"])),
            "teacher": answer.teacher.identity.name,
            "model": completion.model or None,
            "key": answer.request.key.hex(),
            "finish_reason": completion.finish_reason,
            "refused": _is_refused(completion),
            "reasoning_source": completion.reasoning_source or None,
            "tokens": _tokens(completion.usage) if completion.usage else None,
            "wrote": sorted(columns),
        }
        if answer.ask:
            record["asked"] = answer.ask + 1
        for name in ("fingerprint", "service_tier"):
            if value := getattr(completion, name):
                record[name] = value
        return record


def _is_refused(completion: Completion) -> bool:
    return bool(completion.refusal) or completion.is_filtered


def _tokens(usage: TokenUsage) -> dict[str, int]:
    tokens = {
        "prompt": usage.prompt, "completion": usage.completion, "reasoning": usage.reasoning, "cached": usage.cached,
    }  # fmt: skip
    return tokens | ({"cache_write": usage.cache_write} if usage.cache_write else {})


def seen_by_template(columns: Mapping[str, Any], settings: GenerateStep) -> dict[str, Any]:
    """Return what a template sees of a row: its columns, some under another name, and the step's fixed values.

    A variable whose column is not there yet has no value, whatever other column has its name.
    """
    renamed = {variable: columns[column] for variable, column in settings.read.items() if column in columns}
    others = {name: value for name, value in columns.items() if name not in settings.read}
    return {**others, **renamed, **settings.values}


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


def written_columns(prompt: Prompt, settings: GenerateStep, *, has_logprobs: bool = False) -> list[str]:
    """Return the columns that a generate step adds to a row, the main one first."""
    columns = list(prompt.settings.columns)
    name = list_property(prompt) if settings.each else None
    if name is not None:
        items = prompt.settings.json_schema["properties"][name].get("items", {})
        columns = [*items.get("properties", {name: {}}), *(column for column in columns if column != name)]
    extra = ["logprobs"] if has_logprobs else []
    return [settings.write.get(column, column) for column in dict.fromkeys([*columns, "reasoning", *extra])]


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
