"""Render a model's chat template, as transformers does: the prompt of a chat, for engines that only complete text."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from headrace.gateway.openai import Refusal

if TYPE_CHECKING:
    from jinja2 import Template

_KEPT = 64  # compiled templates: more models than that are not behind one gateway


def rendered(
    template: str, messages: Sequence[Mapping[str, Any]], now: Callable[[], datetime], more: Mapping[str, Any] | None = None
) -> str:
    """The prompt for an answer to `messages`; `more` are further variables of the template. Raises Refusal.

    The template is the model's and runs in Jinja's sandbox: it computes text, and reaches nothing.
    """
    variables = dict(more or {}) | {"messages": messages, "strftime_now": lambda form: now().strftime(form)}
    try:
        return _compiled(template).render({"add_generation_prompt": True} | variables)
    except Exception as error:  # whatever a template may raise over these messages
        raise Refusal(
            400, f"The model's chat template refused the messages: {error}", "template_error", param="messages"
        ) from None


@lru_cache(maxsize=_KEPT)
def _compiled(template: str) -> "Template":
    # Imported here: only engines that complete text need it.
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import Node
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}…{% endgeneration %}` marks, for training, what the model says."""

        tags = {"generation"}  # noqa: RUF012  # as Extension has it

        def parse(self, parser: Parser) -> list[Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = refuse
    return environment.from_string(template)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own would write < and > as escapes, for pages."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
