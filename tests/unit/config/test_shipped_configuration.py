"""The shipped files and the documentation say what the model says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from pydantic_core import to_jsonable_python

from mirror.admin.check import check
from mirror.config import Config, UpstreamConfig, load
from mirror.config.access import Rule
from mirror.config.keys import walk_keys
from mirror.config.notifications import Notification
from mirror.config.values import format_duration, parse_duration

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "config" / "mirror.yaml"
MANUAL = (ROOT / "docs" / "configuration.md").read_text()
KEYS = [".".join(key).replace("upstreams.*", "upstreams.<upstream>") for key in walk_keys()]

# What the entries of lists are.
ITEMS = {"clients.rules": Rule, "notifications": Notification}


def section(key: str) -> str:
    """Return what the manual says under the heading of one key."""
    found = re.search(rf"^### `{re.escape(key)}`\n(.*?)(?=^##|\Z)", MANUAL, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/configuration.md has no section `{key}`"
    return found[1]


def default_of(key: str) -> object:
    """Return a key's default as plain data, as mirror.yaml would spell it."""
    value = {
        **Config().model_dump(mode="json"),
        "upstreams": {"<upstream>": UpstreamConfig(name="x").model_dump(mode="json")},
    }
    for number, part in enumerate(key.split(".")):
        if value == [] and number:  # a list of sections: the default of what one says
            model = ITEMS[key.rpartition(".")[0]].model_fields[part]
            return "given" if model.is_required() else to_jsonable_python(model.default)
        value = value[part] if value is not None else None
    return value


def test_the_shipped_file_loads_to_exactly_the_defaults():
    assert load(SHIPPED).model_dump() == Config().model_dump()
    assert load(SHIPPED) == Config()


def test_the_shipped_file_states_nothing_that_must_be_decided():
    assert "anonymous" not in load(SHIPPED).clients.model_fields_set


@pytest.mark.parametrize("key", [key for key in walk_keys() if key[0] != "upstreams"], ids=".".join)
def test_the_shipped_file_shows_every_key(key):
    shown = yaml.safe_load(SHIPPED.read_text())
    for number, part in enumerate(key):
        if shown == []:  # an example stands there instead
            example = SHIPPED.read_text().partition(f"\n{'  ' * (number - 1)}{key[number - 1]}: []")[2]
            assert re.search(rf"^ *#.*\b{part}:", example.partition("\n\n")[0], re.MULTILINE)
            break
        assert part in shown
        shown = shown[part]


def test_the_shipped_example_of_an_upstream_shows_every_key_and_loads(tmp_path):
    example = SHIPPED.read_text().partition("\nupstreams: {}\n")[2].partition("\n\n")[0]
    text = "upstreams:\n" + "\n".join(line.removeprefix("#") for line in example.splitlines())
    (tmp_path / "mirror.yaml").write_text(text)
    lab = load(tmp_path / "mirror.yaml").upstreams["lab"]
    assert lab.model_fields_set == set(UpstreamConfig.model_fields)
    assert lab.tags == UpstreamConfig(name="x").tags
    assert lab.repositories == UpstreamConfig(name="x").repositories
    assert lab.tags.model_fields_set == set(type(lab.tags).model_fields)


async def test_the_quickstart_is_for_this_host_and_passes_its_check(tmp_path):
    shutil.copy(ROOT / "config" / "quickstart.yaml", tmp_path)
    config = load(tmp_path / "quickstart.yaml")
    assert config.loopback_only
    assert set(config.upstreams) == {"docker.io", "quay.io", "registry.access.redhat.com"}
    assert not config.holds_credential
    assert config.storage.path == tmp_path / "quickstart-store"
    report = await check(config, online=False, environ={})
    assert [str(finding) for finding in report.findings if finding.severity == "error"] == []


@pytest.mark.parametrize("key", KEYS)
def test_the_manual_describes_every_key(key):
    text = section(key)
    is_section = any(other.startswith(f"{key}.") for other in KEYS)
    assert "Default: " in text or is_section or (default_of(key) == "given" and "Must be given" in text)


@pytest.mark.parametrize("key", KEYS)
def test_the_manual_tells_the_default_of_every_key(key):
    value = default_of(key)
    if isinstance(value, dict) or value == "given" or key.startswith("upstreams.<upstream>.credentials"):
        return
    stated = section(key).partition("Default: ")[2]
    if key == "notifications.events":
        assert "all three" in stated
    elif key == "upstreams.<upstream>.endpoints":
        assert stated.startswith("`https://<key>`")
    elif value is None:
        assert stated.startswith("none")
    elif key == "releases.signature_stores":
        assert all(f"`{store}`" in stated for store in value)
    else:
        spelled = yaml.safe_load(stated.split("`")[1])
        if value == "1m":  # 60s is how people think of it
            spelled = format_duration(parse_duration(spelled))
        assert ([spelled] if key == "listen" else spelled) == value


def test_the_manual_describes_no_key_that_is_not_there():
    assert set(re.findall(r"^### `(.*)`$", MANUAL, re.MULTILINE)) == set(KEYS)


@pytest.mark.parametrize("example", re.findall(r"^```yaml\n(.*?)^```$", MANUAL, re.MULTILINE | re.DOTALL))
def test_every_example_of_the_manual_loads(tmp_path, example):
    (tmp_path / "mirror.yaml").write_text(example)
    assert load(tmp_path / "mirror.yaml") != Config()


def test_every_code_of_a_problem_in_the_manual_is_one_that_the_program_gives():
    program = "".join(
        path.read_text() for room in ("config", "admin/check") for path in (ROOT / "mirror" / room).glob("*.py")
    )
    codes = set(re.findall(r"^- \*((?:`[a-z_]+`(?:, )?)+)", MANUAL, re.MULTILINE))
    for code in re.findall(r"`([a-z_]+)`", "".join(codes)):
        assert f'"{code}"' in program
