"""Real llama-servers: one with a template that knows tools and thinking, and one that embeds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from narthex.engines.llama_launch import launch
from narthex.engines.llama_server import probe
from narthex.gateway.offer import Offer, Upstream
from narthex.knobs import KnobValues

from .front import front

TEMPLATE = """\
{%- if tools %}<|im_start|>system
You may call functions. <tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools> For each call return <tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>
{% endif %}{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is not defined or enable_thinking %}<think>
{% endif %}{% endif %}
"""


def llama_offer(gguf: Path, **changes: object) -> Offer:
    """The model of the tests on a llama-server."""
    values = {"key": "k", "backend": "llama-server", "name": "gemma", "model": str(gguf), "twin": ""}
    return msgspec.convert({**values, **changes}, Offer)


def _server(engine_binary: Path, gguf: Path, folder: Path, *arguments: str) -> Iterator[Upstream]:
    engine = msgspec.structs.replace(probe(engine_binary, "wheel"), extra_args=arguments)
    knobs = KnobValues(num_ctx=2048, batch=512, gpu_layers=0, threads=2)
    with launch(engine, gguf, knobs, log_dir=folder) as server:
        yield Upstream(url=server.url, dialect="llama-server", model="")


@pytest.fixture(scope="package")
def answering(
    engine_binary: Path, gemma: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Upstream]:
    """A llama-server with a template for tools and thinking, which the file itself has not."""
    folder = tmp_path_factory.mktemp("answering")
    template = folder / "template.jinja"
    template.write_text(TEMPLATE)
    yield from _server(
        engine_binary, gemma, folder, "--jinja", "--chat-template-file", str(template), "--parallel", "1"
    )


@pytest.fixture(scope="package")
def embedding(
    engine_binary: Path, gemma: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Upstream]:
    """A llama-server that embeds."""
    folder = tmp_path_factory.mktemp("embedding")
    yield from _server(engine_binary, gemma, folder, "--embeddings", "--pooling", "mean")


@pytest.fixture(scope="package")
def llama_url(answering: Upstream, gemma: Path) -> Iterator[str]:
    """Ollama's API before the first, whose template is known."""
    with front(llama_offer(gemma, engine_args=["--chat-template-file"]), answering) as url:
        yield url


@pytest.fixture(scope="package")
def plain_url(answering: Upstream, gemma: Path) -> Iterator[str]:
    """The same for a file without a template."""
    with front(llama_offer(gemma), answering) as url:
        yield url


@pytest.fixture(scope="package")
def embedding_url(embedding: Upstream, gemma: Path) -> Iterator[str]:
    """Ollama's API before the second."""
    with front(llama_offer(gemma, capabilities=["embedding"]), embedding) as url:
        yield url
