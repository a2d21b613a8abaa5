"""Webhooks as mirror.yaml spells them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from mirror.config.fields import Section
from mirror.config.notifications import Notification, Notifications, labels
from mirror.config.values import SpellingError


class Whole(Section):
    """Stands for the file."""

    notifications: Notifications = ()


def read(**keys: object) -> Notification:
    return Notification.model_validate(keys, context={"base": "/etc/mirror"})


def what_of(error: pytest.ExceptionInfo[ValidationError]) -> str:
    """Return what the only problem says, and its remedy."""
    (details,) = error.value.errors()
    cause = details["ctx"]["error"]
    assert isinstance(cause, SpellingError)
    return f"{cause.what}: {cause.remedy}"


def test_defaults() -> None:
    hook = read(url="https://ci.lab/hook")
    assert hook.model_dump() == {
        "url": "https://ci.lab/hook",
        "header_file": None,
        "events": ("push", "delete", "tag"),
        "repositories": ("**",),
        "batch": 1,
    }
    assert hook.wants("push", "apps/web")
    assert hook.wants("tag", "quay.io/org/app")


def test_as_the_documentation_has_it() -> None:
    hook = read(
        url="https://CI.lab:8443/hook/",
        header_file="hook.headers",
        events=["push", "tag"],
        repositories=["apps/**", "quay.io/org/*"],
        batch=20,
    )
    assert hook.url == "https://ci.lab:8443/hook/"
    assert hook.header_file == Path("/etc/mirror/hook.headers")
    assert hook.wants("push", "apps/a/b")
    assert hook.wants("tag", "quay.io/org/app")
    assert not hook.wants("delete", "apps/a/b")
    assert not hook.wants("push", "quay.io/org/app/sub")
    assert not hook.wants("push", "app")


def test_one_text_stands_for_a_list_of_it() -> None:
    hook = read(url="http://ci/", events="push", repositories="apps/**")
    assert hook == read(url="http://ci/", events=["push"], repositories=["apps/**"])
    assert hash(hook) == hash(read(url="http://ci/", events=["push"], repositories=["apps/**"]))
    assert hook != read(url="http://ci/", events=["push"], repositories=["app/**"])


@pytest.mark.parametrize(
    ("spelled", "url"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[::1]:8080/a", "http://[::1]:8080/a"),
        ("https://ci.lab/a/b%2Fc", "https://ci.lab/a/b%2Fc"),
        ("https://ci.lab/hook/", "https://ci.lab/hook/"),
        ("https://ci.lab/hook//", "https://ci.lab/hook//"),
        ("https://CI.lab/Hook", "https://ci.lab/Hook"),
    ],
)
def test_the_path_stays_as_it_is_spelled(spelled: str, url: str) -> None:
    assert read(url=spelled).url == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ci.lab/hook", "is neither http nor https"),
        ("file:///tmp/hook", "is neither http nor https"),
        ("ftp://ci.lab", "is neither http nor https"),
        ("https://user:hunter2@ci.lab/hook", "holds a user name or a password"),
        ("https://ci.lab/hook?token=hunter2", "has a query or a fragment"),
        ("https://ci.lab/ho ok", "is not a URL"),
        ("https:///hook", "is empty"),
        ("", "is empty"),
    ],
)
def test_what_is_no_webhook(url: str, said: str) -> None:
    with pytest.raises(ValidationError) as error:
        read(url=url)
    assert said in what_of(error)
    assert "hunter2" not in what_of(error)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "broken",
    [
        {"url": None},
        {"url": 1},
        {"events": []},
        {"events": ["pull"]},
        {"events": True},
        {"repositories": []},
        {"repositories": ["Apps/**"]},
        {"header_file": "~/headers"},
        {"batch": 0},
        {"batch": 101},
        {"batch": True},
        {"headers": {"Authorization": "Bearer x"}},
    ],
)
def test_what_an_entry_may_not_say(broken: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        read(**{"url": "https://ci.lab/hook", **broken})


def test_a_webhook_has_one_entry() -> None:
    entries = [{"url": "https://ci.lab/a"}, {"url": "https://ci.lab/b"}]
    assert len(Whole.model_validate({"notifications": entries}).notifications) == 2
    with pytest.raises(ValidationError) as error:
        Whole.model_validate({"notifications": [*entries, {"url": "https://CI.lab/a"}]})
    assert "is listed twice: name all its events" in what_of(error)


def test_the_key_follows_the_url_alone_and_does_not_show_it() -> None:
    hook = read(url="https://ci.lab/s3cr3t")
    assert hook.key == read(url="https://ci.lab/s3cr3t", events="push", header_file="h").key
    assert hook.key != read(url="https://ci.lab/other").key
    assert hook.key.isalnum()
    assert "s3cr3t" not in hook.key


def test_labels_are_hosts() -> None:
    hooks = [
        read(url=url) for url in ("https://ci.lab/s3cr3t", "http://ci.lab:80/", "https://ci.lab/b", "https://ci.lab/c")
    ]
    assert list(labels(hooks).values()) == ["ci.lab", "ci.lab:80", "ci.lab#2", "ci.lab#3"]
    assert list(labels(hooks)) == [hook.key for hook in hooks]
