"""Keys, prompts and names are taken out; what a diagnosis needs stays."""

from __future__ import annotations

import string
from ipaddress import IPv6Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from narthex.doctor.private_names import PrivateNames, of_this_machine
from narthex.doctor.redact import Redactor, hide_secrets, is_secret_name, safe_environment

# A secret with something that does not stand in the carriers by chance.
SECRET = st.text(string.ascii_letters + string.digits + "_", min_size=10, max_size=40).map(
    lambda text: f"x7Q{text}9z"
)
CARRIERS = (
    "WEBUI_SECRET_KEY={}",
    "export HF_TOKEN={}",
    '{{"api_key": "{}"}}',
    '{{"log":"time=2026-11-22T10:00:00Z env=\\"map[OLLAMA_API_KEY:{} OLLAMA_DEBUG:INFO]\\"\\n"}}',
    '{{"log":"{{\\"password\\": \\"{}\\"}}"}}',
    '{{"log":"{{\\\\\\"password\\\\\\": \\\\\\"{}\\\\\\"}}"}}',
    "{{'client_secret': '{}'}}",
    "curl -H 'Authorization: Bearer {}' http://127.0.0.1:11434/api/tags",
    'authorization":"Basic {}"',
    "Authorization: {}",
    "Cookie: token={}; theme=dark",
    "Set-Cookie: session={}; Path=/",
    "http://ada:{}@proxy.example.com:3128",
    "HTTPS_PROXY=http://{}@proxy:3128",
    "https://x.r2.cloudflarestorage.com/blob?X-Amz-Signature={}&part=1",
    "sk-{}",
    "using key sk-proj-{} for openai",
    "ghp_{}",
    "access_token: {}",
    "password: two words {} and more",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA{} ada@box",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1r{}\n-----END OPENSSH PRIVATE KEY-----",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE{}",
    "ExecStart=/usr/bin/llama-server --api-key {} --port 8080",
    "cmd=\"['llama-server', '--api-key', '{}']\"",
    '["--hf-token","{}"]',
    "curl -u ada:{} http://127.0.0.1:11434/api/tags",
    "curl --user 'ada:{}' http://127.0.0.1:11434",
    "sshpass -p {} ssh box",
    "GET /v1beta/models?key={}&alt=json HTTP/1.1",
    "tskey-auth-{}",
    "WEBHOOK_URL=https://hooks.slack.com/services/T0/B0/{}",
)
PROMPTS = (
    'level=DEBUG source=routes.go:1 msg="chat request" images=0 prompt="<|user|>{}"',
    '{{"log":"msg=\\"generate request\\" prompt=\\"say \\\\\\"{}\\\\\\" {}\\"\\n","stream":"stderr"}}',
    'srv log_server_r: request: {{"messages":[{{"role":"user","content":"hi \\"{}\\" there"}}]}}',
    '{{"model":"m","prompt":"{}","options":{{"num_ctx":4096}}}}',
    '{{"input": ["first", "{}"], "model": "bge-m3"}}',
    "form_data: {{'messages': [{{'role': 'user', 'content': \"it's {}\"}}]}}",
    '{{"content":[{{"type":"text","text":"{}',
    '{{"name":"lookup","arguments":{{"who":"{}"}}}}',
    "Parsing chat message: {}",
    'level=DEBUG source=routes.go:1 msg="generate request" prompt={} images=0',
)


@pytest.mark.parametrize("carrier", CARRIERS)
@given(secret=SECRET)
def test_a_secret_never_survives(carrier: str, secret: str) -> None:
    text = carrier.format(secret)
    assert secret not in hide_secrets(text)
    hidden = Redactor().text(f"before\n{text}\nafter")
    assert secret not in hidden
    assert hidden.startswith("before\n")
    assert hidden.count("\n") == text.count("\n") + 2


@pytest.mark.parametrize("carrier", PROMPTS)
@given(prompt=SECRET)
def test_a_prompt_never_survives(carrier: str, prompt: str) -> None:
    assert prompt not in Redactor().text(carrier.format(prompt, prompt))


@given(name=st.text(string.ascii_lowercase, min_size=3, max_size=12).map(lambda text: f"q{text}x"))
def test_a_name_of_a_person_never_survives(name: str) -> None:
    lines = (
        f"/home/{name}/.ollama/models",
        f"C:\\Users\\{name}\\AppData",
        f"{name}@box:~/work$ nvidia-smi",
        f"[{name}@box ~]$ nvidia-smi",
        f"sudo: {name} : TTY=pts/0 ; COMMAND=/usr/bin/id",
        f"uid=1000({name}) gid=1000({name})",
        f"Mail to {name}@some.example.org",
    )
    assert name not in Redactor().text("\n".join(lines))


@given(name=st.text(string.ascii_lowercase, min_size=3, max_size=12).map(lambda text: f"q{text}x"))
@example(name="qsignaturex")
def test_a_name_of_a_host_never_survives(name: str) -> None:
    lines = (
        f"Nov 22 10:00:00 {name} ollama[12]: time=2026-11-22T10:00:00Z level=INFO",
        f"2026-11-22T10:00:00+0100 {name} kernel: NVRM: Xid",
        f"ada@{name}:~$ ls",
        f"http://{name}.some-company.com:11434/api",
        f"lookup {name}.fritz.box",
    )
    assert name not in Redactor().text("\n".join(lines))


@given(address=st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
@example(address=IPv6Address("::ffff:ffff:fffa"))
def test_only_addresses_that_are_the_same_everywhere_survive(address: object) -> None:
    text = f"[GIN] 2026/11/22 - 10:00:00 | 200 | 1.2s | {address} | POST"
    hidden = Redactor().text(text)
    kept = str(address) in ("0.0.0.0", "::", "::1", "172.17.0.1", "100.100.100.100")
    kept = kept or str(address).startswith("127.")
    assert (str(address) in hidden) == kept


def test_the_same_address_gets_the_same_stand_in_and_another_another() -> None:
    redactor = Redactor()
    assert redactor.text("10.0.0.1 10.0.0.2 10.0.0.1") == "<ip> <ip-2> <ip>"
    assert redactor.text("again 10.0.0.2") == "again <ip-2>"
    assert redactor.counts["network addresses"] == 4


def test_of_a_host_s_name_stays_whether_it_is_of_this_network() -> None:
    text = "http://api.some-company.com/v1 http://nas.local:11434 http://api.some-company.com"
    assert Redactor().text(text) == "http://<host>.com/v1 http://<host-2>.local:11434 http://<host>.com"


def test_serial_numbers_of_cards_and_networks_go() -> None:
    card = "GPU-1a2b3c4d-1111-2222-3333-1234567890ab"
    text = f"GPU 0: NVIDIA RTX 4000 (UUID: {card}) MAC 00:1a:2b:3c:4d:5e Serial Number : 1324021012345"
    hidden = Redactor().text(text)
    assert hidden == "GPU 0: NVIDIA RTX 4000 (UUID: GPU-<uuid>) MAC <mac> Serial Number : <uuid-2>"


LINES_THAT_STAY = (
    'level=INFO source=runner.go:1 msg="truncating input prompt" limit=2048 prompt=2512 keep=4',
    "print_info: BOS token        = 2 '<bos>'",
    "print_info: EOS token = 106",
    "prompt eval time =     123.45 ms /    33 tokens (    3.74 ms per token,   267.31 tokens per second)",
    '[GIN] 2026/11/22 - 10:00:00 | 200 |  1.327905618s |       127.0.0.1 | POST     "/api/embed"',
    'msg="Listening on [::]:11434 (version 0.12.3)"',
    'msg="inference compute" id=0 library=CUDA compute=8.9 driver=12.4 pci_id=0000:01:00.0 total="19.6 GiB"',
    "NVRM: Xid (PCI:0000:01:00): 79, pid=1234, name=ollama, GPU has fallen off the bus.",
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14",
    "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 1024.00 MiB on device 0: cudaMalloc failed",
    "dial tcp: lookup registry.ollama.ai on 127.0.0.53:53: server misbehaving",
    "Cannot connect to host host.docker.internal:11434 ssl:default [Name or service not known]",
    "model=/root/.ollama/models/blobs/sha256-667b0c1932bc6ffc593ed1d03f895bf2dc8dc6df21db3042284a6f4416b06a29",
    "WEBUI_AUTH=False ENABLE_API_KEYS=true OLLAMA_ORIGINS=[http://localhost]",
    "invalid prompt: {'type': 'invalid_prompt', 'message': 'Cannot execute because a node does not exist.'}",
    "libggml-base.so: undefined symbol: std::__cxx11::basic_string",
    "systemd[1]: user@1000.service: A process of this unit has been killed by the OOM killer.",
    "http://ollama.default.svc.cluster.local:11434",
    "http://host.docker.internal:11434/api/tags",
    "http://172.17.0.1:11434 is refused",
    "open_webui:send_get_request:98 - Connection error: 403, message='Attempt to decode JSON', url='http://x:1'",
    "HF_TOKEN: OLLAMA_DEBUG:INFO OLLAMA_HOST:http://127.0.0.1:11434",
    "docker run -u 1000:1000 --user 0:0 -e OLLAMA_DEBUG=1 ollama/ollama",
    "llama-server --model m.gguf --ctx-size 4096 --port 8080 --no-webui",
)


@pytest.mark.parametrize("line", LINES_THAT_STAY)
def test_what_a_diagnosis_needs_stays_word_for_word(line: str) -> None:
    assert Redactor().text(line) == line
    assert hide_secrets(line) == line


def test_what_a_collector_quotes_keeps_addresses_and_loses_keys() -> None:
    line = "http://ada:pa55word@10.0.0.5:3128 is in HTTP_PROXY of /home/ada"
    assert hide_secrets(line) == "http://<secret>@10.0.0.5:3128 is in HTTP_PROXY of /home/ada"


def test_an_environment_keeps_the_names_of_its_secrets() -> None:
    assert safe_environment(
        {
            "OPENAI_API_KEY": "abc",
            "OPENAI_API_BASE_URL": "http://u:p@x/v1",
            "OLLAMA_KEEP_ALIVE": "5m",
            "ENABLE_API_KEYS": "True",
            "WEBUI_SECRET_KEY": "",
        }
    ) == {
        "OPENAI_API_KEY": "<secret>",
        "OPENAI_API_BASE_URL": "http://<secret>@x/v1",
        "OLLAMA_KEEP_ALIVE": "5m",
        "ENABLE_API_KEYS": "True",
        "WEBUI_SECRET_KEY": "",
    }


@pytest.mark.parametrize("name", ["HF_TOKEN", "accessToken", "x-api-key", "POSTGRES_PASSWORD", "jwt"])
def test_names_of_secrets_are_known(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["n_tokens", "model", "OLLAMA_KEEP_ALIVE", "num_ctx", "WEBUI_AUTH"])
def test_other_names_are_not(name: str) -> None:
    assert not is_secret_name(name)


def test_values_are_taken_out_all_the_way_down() -> None:
    redactor = Redactor(PrivateNames(people=("Ada Lovelace",), hosts=("babbage",)))
    hidden = redactor.value(
        {"env": {"API_TOKEN": "abcdef", "note": "by Ada Lovelace on babbage"}, "rows": [1, None, "10.1.2.3"]}
    )
    assert hidden == {
        "env": {"API_TOKEN": "<secret>", "note": "by <user> on <host>"},
        "rows": [1, None, "<ip>"],
    }


def test_a_name_that_is_also_a_word_of_the_programs_is_only_taken_out_where_it_is_a_name() -> None:
    names = of_this_machine()
    assert "root" not in names.people
    assert "localhost" not in names.hosts
    text = "Nov 22 10:00:00 cuda kernel: cuda error /home/cuda/x"
    assert Redactor().text(text) == "Nov 22 10:00:00 <host> kernel: cuda error /home/<user>/x"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "piece", ["\\", "a.b-c_d.", 'prompt="', "a@", "http://a/", '"content":"\\', "1.", "f:"]
)
def test_no_line_takes_long_however_odd_it_is(piece: str) -> None:
    """A run of backslashes once took a pattern that began anew at each of them half a minute."""
    text = (piece * (8000 // len(piece)) + "\n") * 40
    assert Redactor().text(text).count("\n") == 40


def test_a_long_word_is_looked_through_once() -> None:
    """Not once from each of its letters: that took minutes for one line."""
    word = "a." * 100_000
    assert Redactor().text(word) == word
