"""What of a service's variables and command line may be shown."""

from __future__ import annotations

from narthex.doctor.collect.safe_env import safe_command, safe_env


def test_variables_that_matter_are_shown_and_secrets_are_not() -> None:
    env = {
        "OLLAMA_HOST": "0.0.0.0:11434",
        "OLLAMA_API_KEY": "hunter2",
        "NVIDIA_VISIBLE_DEVICES": "all",
        "OPENAI_API_KEY": "hunter2",
        "OPENAI_API_BASE_URL": "http://user:hunter2@host/v1",
        "WEBUI_SECRET_KEY": "hunter2",
        "DATABASE_URL": "postgresql://u:hunter2@db/x",
        "RAG_EMBEDDING_ENGINE": "ollama",
        "CLI_ARGS": "--lowvram",
        "MY_OWN": "hunter2",
    }
    shown = safe_env(env)
    assert set(shown) == {
        "CLI_ARGS",
        "NVIDIA_VISIBLE_DEVICES",
        "OLLAMA_HOST",
        "OPENAI_API_BASE_URL",
        "RAG_EMBEDDING_ENGINE",
    }
    assert "hunter2" not in str(shown)


def test_an_options_secret_is_hidden_however_it_is_written() -> None:
    shown = safe_command(["llama-server", "--api-key", "hunter2", "--hf-token=hunter2", "-c", "4096"])
    assert "hunter2" not in " ".join(shown)
    assert shown[-2:] == ["-c", "4096"]


def test_the_keys_of_openwebui_s_connections_are_not_shown() -> None:
    configs = '{"0": {"enable": true, "key": "abc123", "headers": {"X-Team": "blue"}}}'
    assert safe_env({"OLLAMA_API_CONFIGS": configs, "OLLAMA_BASE_URL": "http://a:1"}) == {
        "OLLAMA_BASE_URL": "http://a:1"
    }
