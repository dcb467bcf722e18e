"""The documentation covers settings, commands and routes, and its links resolve."""

import asyncio
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from pydantic import BaseModel

from tidings.channels.chat import settings as chat_settings
from tidings.channels.email import settings as email_settings
from tidings.channels.inapp.plugin import PREFIX as INAPP_PREFIX
from tidings.channels.inapp.plugin import InAppSettings
from tidings.channels.sms import settings as sms_settings
from tidings.channels.webhook import settings as webhook_settings
from tidings.channels.webpush import settings as webpush_settings
from tidings.cli import openapi
from tidings.cli.app import COMMANDS
from tidings.config.settings import Settings
from tidings.config.sources import CHANNEL_SHORT_NAMES, variable_name
from tidings.packs.commerce.settings import CommerceSettings
from tidings.packs.events.settings import EventsSettings

EMAIL_VARIABLES = {
    *(f"{email_settings.PREFIX}{name.upper()}" for name in email_settings.EmailSettings.model_fields),
    email_settings.SHORT_NAME,
    email_settings.SENDER_NAME,
}
WEBPUSH_VARIABLES = {
    *(f"{webpush_settings.PREFIX}{name.upper()}" for name in webpush_settings.WebPushSettings.model_fields),
    *webpush_settings.SHORT_NAMES,
}
INAPP_VARIABLES = {f"{INAPP_PREFIX}{name.upper()}" for name in InAppSettings.model_fields}
ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
#: page, prefix of the variables and model of each channel with settings of its own
CHANNEL_SETTINGS: list[tuple[str, str, type[BaseModel]]] = [
    ("reference/sms.md", sms_settings.PREFIX, sms_settings.SmsSettings),
    ("reference/chat.md", chat_settings.PREFIX, chat_settings.ChatSettings),
    ("reference/webhooks.md", webhook_settings.PREFIX, webhook_settings.WebhookSettings),
]
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def read_page(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def test_every_setting_is_documented_with_its_default() -> None:
    page = read_page("reference/settings.md")
    fields = Settings.model_fields
    assert [variable_name(name) for name in fields if f"| `{variable_name(name)}` |" not in page] == []
    plain = {name: field.default for name, field in fields.items() if isinstance(field.default, int | Path)}
    wrong = [
        name
        for name, default in plain.items()
        if f"| `{variable_name(name)}` | `{str(default).lower() if isinstance(default, bool) else default}` |"
        not in page
    ]
    assert wrong == []


def test_every_setting_of_web_push_e_mail_and_feeds_is_documented() -> None:
    page = read_page("reference/settings.md")
    assert [name for name in WEBPUSH_VARIABLES if f"`{name}`" not in page] == []
    assert [name for name in INAPP_VARIABLES if f"`{name}`" not in page] == []
    assert [name for name in EMAIL_VARIABLES if f"`{name}`" not in page] == []


@pytest.mark.parametrize(("page", "prefix", "model"), CHANNEL_SETTINGS)
def test_every_setting_of_a_channel_is_documented_with_its_default(
    page: str, prefix: str, model: type[BaseModel]
) -> None:
    text = read_page(page)
    names = {prefix + name.upper(): field.default for name, field in model.model_fields.items()}
    assert [name for name in names if f"| `{name}`" not in text] == []
    plain = {name: default for name, default in names.items() if isinstance(default, int | float)}
    wrong = [name for name, default in plain.items() if f"| `{name}` | `{format_default(default)}` |" not in text]
    assert wrong == []


def format_default(default: float) -> str:
    return str(default).lower() if isinstance(default, bool) else f"{default:g}"


def test_every_documented_setting_exists() -> None:
    known = (
        {variable_name(name) for name in Settings.model_fields}
        | CHANNEL_SHORT_NAMES
        | EMAIL_VARIABLES
        | INAPP_VARIABLES
        | WEBPUSH_VARIABLES
    )
    known |= {prefix + name.upper() for _, prefix, model in CHANNEL_SETTINGS for name in model.model_fields}
    for pack, model in (("COMMERCE", CommerceSettings), ("EVENTS", EventsSettings)):
        known |= {f"TIDINGS_{pack}__{name.upper()}" for name in model.model_fields}
    # not a prefix such as TIDINGS_EMAIL__…, and not the settings of the channel that new-channel.md writes
    pattern = r"TIDINGS_(?!BOARD__|LIBRARY__)[A-Z_]+[A-Z](?![A-Z_])"
    named = set(re.findall(pattern, "".join(page.read_text(encoding="utf-8") for page in PAGES)))
    assert {name for name in named if name not in known and name.removesuffix("_FILE") not in known} == set()


def test_every_command_is_documented() -> None:
    page = read_page("reference/cli.md")
    assert [name for name in COMMANDS if f"## `tidings {name}`" not in page] == []


def test_every_route_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(openapi.openapi())
    routes = json.loads(capsys.readouterr().out)["paths"]
    page = read_page("reference/api.md")
    assert [path for path in routes if f"{path}`" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_resolve(page: Path) -> None:
    targets = [target.partition("#")[0] for target in _LINK.findall(page.read_text(encoding="utf-8"))]
    local = [target for target in targets if target and not target.startswith(("http://", "https://", "mailto:"))]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_the_glossary_defines_each_word_once() -> None:
    words = re.findall(r"^\| \*\*([^*]+)\*\*", read_page("glossary.md"), re.MULTILINE)
    assert len(words) > 20
    assert [word for word, number in Counter(words).items() if number > 1] == []
