"""A mistake in the settings is one clear sentence, before anything runs."""

import pytest
import yaml

from settings import hosts
from settings.render import render
from settings.schema import RENAMED, SettingsError, check, defaults, read_settings_file


def test_the_defaults_are_right():
    assert check({}) == []


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"timezon": "UTC"}, "'timezon' is not a setting. Did you mean 'timezone'?"),
        ({"qqqq": 1}, "'qqqq' is not a setting. group_data/all.py lists them all."),
        ({"tz": "UTC"}, "'tz' is not a setting: the setting is called 'timezone'."),
        (
            {"openrouter_api_key": "x"},
            "'openrouter_api_key' is not a setting: keys are secrets: run `drill secrets set llm_api_key`.",
        ),
        ({"swap_mb": "1"}, "'swap_mb' must be a whole number, but is '1'."),
        ({"zram": 1}, "'zram' must be true or false, but is 1."),
        ({"domain": 5}, "'domain' must be text, but is 5."),
        ({"ingress": "nginx"}, "'ingress' must be 'none', 'caddy' or 'cloudflare', but is 'nginx'."),
        (
            {"ingress": "caddy", "acme_email": "a@b.c"},
            "'ingress' is 'caddy', which needs 'domain' to be set.",
        ),
        ({"n8n_memory_mb": 256}, "'n8n_memory_mb' must be at least 512 (MiB), but is 256."),
        ({"timezone": "Mars"}, "'timezone' must be an IANA name such as 'Europe/Berlin', but is 'Mars'."),
        ({"cleanup_hour": 24}, "'cleanup_hour' must be from 0 to 23, but is 24."),
        (
            {"llm_base_url": "openrouter"},
            "'llm_base_url' must be an http(s) URL such as https://api.example.com/v1, but is 'openrouter'.",
        ),
        (
            {"embedding_base_url": "https://h/v1?a=1&b=2"},
            "'embedding_base_url' must be an http(s) URL such as https://api.example.com/v1, "
            "but is 'https://h/v1?a=1&b=2'.",
        ),
        (
            {"llm_model": "Llama (Q4)"},
            "'llm_model' must be a model's name as the provider's API knows it, but is 'Llama (Q4)'.",
        ),
        ({"context_token_budget": 50}, "'context_token_budget' must be from 100 to 32000, but is 50."),
        ({"memory_ttl_days": 36_501}, "'memory_ttl_days' must be from 1 to 36500, but is 36501."),
        ({"postgres_max_connections": 3}, "'postgres_max_connections' must be from 25 to 1000, but is 3."),
        ({"swap_mb": -1}, "'swap_mb' must be 0 or more, but is -1."),
        (
            {"hostname": "my droplet"},
            "'hostname' must be a host name such as 'memory-1', but is 'my droplet'.",
        ),
        (
            {"image_registry": "https://r.example.com"},
            "'image_registry' must be host[:port], without a scheme or path, but is 'https://r.example.com'.",
        ),
        (
            {"ingress": "caddy", "domain": "example.com", "acme_email": "Jane Doe <jane@x.org>"},
            "'ingress_tls' is 'acme', which needs 'acme_email' (an e-mail address), but it is "
            "'Jane Doe <jane@x.org>'; set it or choose ingress_tls: internal.",
        ),
        (
            {"llm_base_url": "https://u:p@h/v1"},
            "'llm_base_url' must not carry a password; use `drill secrets set`.",
        ),
        ({"admin_user": "root"}, "'admin_user' must be a plain user name other than root, but is 'root'."),
        ({"admin_ssh_keys": ["abc"]}, "'admin_ssh_keys' holds a line that is not an SSH public key: 'abc'."),
        ({"clients": [{"id": "a", "name": "A"}]}, "'clients.0.email' is missing."),
        ({"sshd_port": 443}, "'sshd_port' must be a free port from 1 to 65535, but is 443."),
        (
            {"image_registry": "docker.io", "image_registry_insecure": True},
            "'image_registry_insecure' allows plain HTTP only to a private IP address, "
            "but 'image_registry' is 'docker.io'.",
        ),
    ],
)
def test_each_mistake_is_one_sentence(changed, sentence):
    assert check(changed) == [sentence]


def test_certificates_by_acme_need_an_address():
    assert "acme_email" in check({"ingress": "caddy", "domain": "example.com"})[0]


def test_two_clients_may_not_share_an_email_however_it_is_written():
    one = {"id": "a", "name": "A", "email": "x@example.com"}
    other = {**one, "id": "b", "email": "X@example.com"}
    assert check({"clients": [one, other]}) == ["'clients' holds email 'x@example.com' twice."]


def test_a_client_may_not_be_the_admin():
    one = {"id": "a", "name": "A", "email": "Me@example.com"}
    assert check({"clients": [one], "open_webui_admin_email": "me@example.com"}) == [
        "'clients' holds 'me@example.com', which is the admin's account ('open_webui_admin_email')."
    ]


@pytest.mark.parametrize("name", ["openai/gpt-4o-mini:free", "double/echo", "llama3.1:8b", ""])
def test_names_of_models_are_taken(name):
    assert check({"llm_model": name, "embedding_model": name}) == []


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:11434/v1", "https://[2001:db8::1]:8443/v1/", "https://a.b/x%20y"]
)
def test_urls_of_providers_are_taken(url):
    assert check({"llm_base_url": url, "embedding_base_url": url}) == []


def test_several_mistakes_are_all_told():
    assert len(check({"timezon": "UTC", "swap_mb": "1"})) == 2


def test_no_renamed_name_is_a_setting():
    assert not set(RENAMED) & set(defaults())


def test_an_absent_settings_file_says_nothing(tmp_path):
    assert read_settings_file(tmp_path / "none.yml") == {}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("a: [", "is not valid YAML"), ("- a", "'name: value'"), ("swap_mb: yes", "must be a whole number")],
)
def test_a_broken_settings_file_is_refused_by_name(tmp_path, text, sentence):
    path = tmp_path / "settings.yml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"settings\.yml") as error:
        read_settings_file(path)
    assert sentence in str(error.value)


def test_every_setting_has_a_type_and_is_named_in_the_documented_file():
    assert all(name.islower() for name in defaults())
    assert len(defaults()) > 30


@pytest.mark.parametrize("key", ["#starts", "&a*b!c", "a: b #c", "@'\"\\%", "{x}[y]"])
def test_a_key_of_any_characters_reaches_qdrant_as_it_is(key):
    text = render("qdrant/production.yaml.j2", api_key=key, read_only_api_key=key[::-1])
    service = yaml.safe_load(text)["service"]
    assert (service["api_key"], service["read_only_api_key"]) == (key, key[::-1])


def test_a_name_that_cannot_be_a_host_name_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("MEMORY_DROPLET_STATE", str(tmp_path))
    monkeypatch.setenv("DROPLET_HOST", "203.0.113.7")
    monkeypatch.setenv("DROPLET_NAME", "my droplet")
    with pytest.raises(SettingsError, match="DROPLET_NAME must be a host name"):
        hosts.remote()
    monkeypatch.setenv("DROPLET_NAME", "memory-1")
    assert hosts.remote().name == "memory-1"
