"""Lines that were broken by a terminal or by whoever pasted them, and lines that another one tore."""

from __future__ import annotations

from narthex.doctor.reading.wrapped import logical_lines


def plains(text: str) -> list[str]:
    return [line.plain for line in logical_lines(text.split("\n"))]


def test_keys_of_a_record_on_lines_of_their_own_belong_to_it() -> None:
    lines = logical_lines(
        [
            "time=2026-02-15T16:39:19Z level=INFO source=runner.go:464 ",
            'msg="failure during GPU discovery" ',
            '    OLLAMA_LIBRARY_PATH="[/usr/lib/ollama /usr/lib/ollama/cuda_v12]"',
            '    error="runner crashed"',
            "level=INFO msg=next",
        ]
    )
    assert lines[0].plain.endswith(
        'msg="failure during GPU discovery" OLLAMA_LIBRARY_PATH="[/usr/lib/ollama /usr/lib/ollama/cuda_v12]" '
        'error="runner crashed"'
    )
    assert [part.line for part in lines[0].parts] == [1, 2, 3, 4]
    assert lines[1].plain == "level=INFO msg=next"


def test_every_part_stands_where_it_is_said_to() -> None:
    (line,) = logical_lines(["level=WARN msg=a", "   b=1", '  c="two  words"'])
    for part, words in zip(line.parts, ("level=WARN msg=a", "b=1", 'c="two words"'), strict=True):
        assert line.plain[part.start :].startswith(words)


def test_the_cause_of_a_failed_request_may_stand_on_the_next_line() -> None:
    url = 'Error: pull model manifest: Get "https://registry.ollama.ai/v2/library/x/manifests/1":'
    assert plains(f"{url}\n      dial tcp: lookup registry.ollama.ai: no such host") == [
        f"{url} dial tcp: lookup registry.ollama.ai: no such host"
    ]
    assert plains(f"{url}\ntls: failed to verify certificate") == [f"{url} tls: failed to verify certificate"]


def test_an_open_quote_goes_on_in_either_way() -> None:
    head = 'time=2026-02-15T16:39:19Z level=WARN source=gpu.go:1 msg="cuda driver libr'
    (line,) = logical_lines([head, 'ary init failure: 999"'])
    assert line.other.endswith('"cuda driver library init failure: 999"')


def test_a_terminal_s_width_cuts_within_words() -> None:
    whole = (
        'time=2026-02-15T16:39:19Z level=WARN source=gpu.go:1 msg="unknown error: cuda driver library init '
        'failure: 999. see https://x"'
    )
    rows = [whole[start : start + 80] for start in range(0, len(whole), 80)]
    assert plains("\n".join(rows)) == [whole]


def test_a_blank_at_the_cut_is_kept_once() -> None:
    head = "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 4155.99 MiB on device 0: "
    assert len(head) == 80
    assert plains(f"{head}\ncudaMalloc failed") == [f"{head}cudaMalloc failed"]


def test_the_runner_s_raw_line_does_not_go_on_with_a_record_that_was_cut() -> None:
    record = 'time=2026-02-15T16:39:19Z level=INFO source=a.go:1 msg=offload memory.kv="1.2 G'
    assert len(plains(f"{record}\nload_tensors: offloaded 3/3")) == 2


def test_rows_of_equal_length_are_no_wrapped_line() -> None:
    rows = [
        "Query 2: 13:03:49  (300s response time) - exactly 5:01 later!",
        "Query 3: 13:08:50  (300s response time) - exactly 5:01 later!",
    ]
    assert len(plains("\n".join(rows))) == 2
    table = ["+" + "-" * 78 + "+", "|" + " GPU".ljust(78) + "|", "|" + "  0".ljust(78) + "|"]
    assert len(plains("\n".join(table))) == 3


def test_independent_errors_stay_apart() -> None:
    text = "CUDA error: out of memory\n  current device: 0, in function alloc at x.cu:375\nGGML_ASSERT: x"
    assert len(plains(text)) == 3


def test_a_line_without_a_carrier_goes_on_where_all_others_have_one() -> None:
    text = (
        "[ 4007.541377] NVRM: API mismatch: the client has the version 535.104.05, but\n"
        "               NVRM: this kernel module has the version 550.107.02.  Please\n"
        "[ 4007.600000] a\n[ 4007.700000] b\n[ 4007.541378] c\n[ 4008.541378] d\n               and more"
    )
    assert plains(text)[-1] == "d and more"


def test_two_services_do_not_go_on_with_each_other_s_lines() -> None:
    text = (
        "ollama-1  | http: panic serving 127.0.0.1:1:\n"
        "webui-1   | INFO: fine\n"
        "ollama-1  |     height:31 must be larger than factor:32"
    )
    assert plains(text) == [
        "http: panic serving 127.0.0.1:1: height:31 must be larger than factor:32", "INFO: fine"
    ]  # fmt: skip


def test_a_torn_line_is_put_together_behind_the_line_that_tore_it() -> None:
    own = "time=2026-02-15T16:39:19Z level=INFO source=sched.go:1 msg=x"
    lines = logical_lines(
        [f"load_tensors: offl{own}", "oaded 33/33 layers to GPU", "llama_context: n_ctx = 4096"]
    )
    assert [line.plain for line in lines][1:] == [
        "load_tensors: offloaded 33/33 layers to GPU", "llama_context: n_ctx = 4096"
    ]  # fmt: skip
    assert [part.line for part in lines[1].parts] == [1, 2]
    assert own in lines[0].plain


def test_progress_is_cut_at_its_carriage_returns() -> None:
    row = "pulling  1%\rpulling  2%\rpulling 30%\rError: no space left on device\r"
    lines = logical_lines(["$ ollama pull x", row, "$ df"])
    assert [(line.number, line.text) for line in lines] == [
        (1, "$ ollama pull x"), (2, "pulling  1%"), (2, "Error: no space left on device"), (3, "$ df")
    ]  # fmt: skip


def test_words_with_a_colon_may_be_the_rest_of_an_open_quote() -> None:
    head = 'time=2026-02-15T16:39:19Z level=INFO msg="part 12 failed: read tcp 10.0.0.4:49->104.18.8.90:443:'
    assert plains(f'{head}\n  read: connection reset by peer"') == [f'{head} read: connection reset by peer"']
    (whole, raw) = plains(f"{head}\nllama_model_loader: loaded meta data")
    assert (whole, raw) == (head, "llama_model_loader: loaded meta data")


def test_a_line_of_the_access_log_ends_with_its_path() -> None:
    head = "[GIN] 2024/04/19 - 11:58:33 | 403 | 48.166µs | 127.0.0.1 | OPTIONS"
    assert plains(f'{head}\n  "/v1/chat/completions"') == [f'{head} "/v1/chat/completions"']
    assert plains(f'{head} "\n/v1/chat/completions"')[0].replace(" ", "") == (
        f'{head}"/v1/chat/completions"'.replace(" ", "")
    )
    assert len(plains(f'{head} "/v1/a"\n  Device 0: NVIDIA')) == 2


def test_the_last_words_of_a_command_go_on_where_they_are_indented() -> None:
    head = "Error: write /usr/share/ollama/.ollama/models/blobs/sha256-1-partial: no space left on"
    assert plains(f"{head}\n  device") == [f"{head} device"]
    assert len(plains("Error: Prompt execution failed\n    at ComfyApi.queuePrompt (x.js:4:5)")) == 2
    old = "2023/10/07 11:36:24 download.go:166: couldn't download blob: Get"
    assert plains(f'{old}\n  "https://x/y": tls: first record') == [f'{old} "https://x/y": tls: first record']


def test_one_carried_line_among_others_goes_on_too() -> None:
    head = "open-webui  | ERROR Connection error: Cannot connect to host"
    assert plains(f"$ docker logs open-webui\n{head}\n  ollama:11434 ssl:default")[1:] == [
        "ERROR Connection error: Cannot connect to host ollama:11434 ssl:default"
    ]
