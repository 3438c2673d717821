"""Lines of OpenWebUI: how it tells that a backend failed it."""

from __future__ import annotations

from narthex.doctor.sign import Sign

_URL = r"url='?(?:URL\(')?(?P<url>https?://[^'\")\s]+)"

# aiohttp, of every backend: Ollama, an OpenAI-like one, ComfyUI, Hugging Face
CANNOT_CONNECT = Sign(
    r"Cannot connect to host (?P<host>\[[^\]]+\]|[\w.\-<>]+):(?P<port>\d+)"
    r"(?: ssl:(?:<[^>]*>|\S+))?(?: \[(?P<why>.*)\])?",
    words=["cannot connect to host"],
)
# the model list was not answered in time: the text after the colon is empty
LISTING_TIMED_OUT = Sign(
    r"(?:ollama[^|]*?(?:-|\]|:)) ?Connection error: ?(?:- \{\})?$", words=["connection error:"]
)
ANSWER_NOT_JSON = Sign(
    r"(?P<status>\d{3}), message='Attempt to decode JSON with unexpected mimetype: ?(?P<mime>[^']*)', "
    rf"{_URL}",
    words=["unexpected mimetype"],
)
RELAYED_500 = Sign(
    rf"500, message='Internal Server Error', {_URL}", words=["message='internal server error'"]
)
UPSTREAM_FAILED = Sign(
    r"Upstream ollama request failed: HTTP (?P<status>\d+)(?: \((?P<sort>\w+)\))? url=(?P<url>\S+)"
    r"(?: message=(?P<message>.*))?",
    words=["upstream ollama request failed"],
)
SERVER_CONNECTION_ERROR = Sign(r"Server Connection Error", words=["server connection error"])
SUBMITTING_FAILED = Sign(r"Error submitting message", words=["error submitting message"])
EMPTY_REASON = Sign(r"Error processing chat payload: ?$", words=["error processing chat payload"])
TIMEOUT_ERROR = Sign(r"(?:asyncio\.exceptions\.|builtins\.|^)TimeoutError\b", words=["timeouterror"])
ANSWERED = Sign(
    r'"POST (?:/ollama/api/chat|/api/chat/completions|/api/v1/chat/completions)\S* HTTP/[\d.]+" 200',
    words=["/chat"],
)
IMAGE_FAILED = Sign(r"Something went wrong :/", words=["something went wrong :/"])
IMAGE_SOCKET = Sign(r"Failed to connect to WebSocket server: ?(?P<why>.*)", words=["connect to websocket"])
ANY = Sign(r"\bopen_webui\.|\bopen-webui\b", words=["open_webui.", "open-webui"], first=5, last=5)
