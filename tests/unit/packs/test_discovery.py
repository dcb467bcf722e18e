"""Every text of every pack is compiled at the start, and a fault names its place."""

import pytest

from tidings.errors import ConfigError
from tidings.flow.catalog import Catalog
from tidings.model.plan_options import DigestOptions, PlanOptions
from tidings.model.priority import Priority
from tidings.model.template import Category, Template, TemplateText
from tidings.packs.discovery import KNOWN_CHANNELS, check_texts, load_packs
from tidings.ports.pack import Pack
from tidings.rendering.minijinja_renderer import MinijinjaRenderer


def build_pack(german: TemplateText, *, locale: str = "de", url: str = "/") -> Pack:
    texts = {"en": TemplateText("Hello", "{{ name }}"), locale: german}
    templates = [
        Template("HELLO", "NEWS", Priority.HIGH, {"en": TemplateText("Hello", "{{ name }}")}, version=2),
        Template("HELLO", "NEWS", Priority.HIGH, texts, url=url),
    ]
    return Pack("news", categories=(Category("NEWS", "News"),), templates=templates)


@pytest.mark.parametrize(
    ("pack", "fault"),
    [
        (build_pack(TemplateText("{{ name", "")), r"\(version 1\), locale de, title: syntax error"),
        (build_pack(TemplateText("", "{{ name | x }}")), r"\(version 1\), locale de, body: unknown filter 'x'"),
        (build_pack(TemplateText("", ""), url="/{{ name | x }}"), r"\(version 1\), url: unknown filter 'x'"),
        (build_pack(TemplateText("", ""), locale="de_AT"), r"locale 'de_AT': must be a language tag"),
    ],
    ids=["title", "body of an old version", "url", "locale"],
)
def test_a_fault_names_pack_template_version_and_locale(pack: Pack, fault: str) -> None:
    with pytest.raises(ConfigError, match=f"pack news, template HELLO .*{fault}"):
        check_texts([pack], MinijinjaRenderer({}, "https://shop.example"))


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(ConfigError, match=r"(?s)locale de, title: .*locale de, body: "):
        check_texts([build_pack(TemplateText("{{", "{{"))], MinijinjaRenderer({}, "https://shop.example"))


def test_the_built_in_packs_have_no_faults() -> None:
    packs = load_packs()
    catalog = Catalog.from_packs(packs, channels=("webpush",), known_channels=KNOWN_CHANNELS)
    check_texts(packs, MinijinjaRenderer(catalog.filters, "https://shop.example"))


def test_the_texts_and_keys_of_digests_are_compiled() -> None:
    template = Template(
        "HELLO",
        "NEWS",
        Priority.HIGH,
        {"en": TemplateText("Hello", "")},
        plan=PlanOptions(digest=DigestOptions("name | x", 600)),
        digest_texts={"en": TemplateText("{{ count", "")},
    )
    pack = Pack("news", categories=(Category("NEWS", "News"),), templates=(template,))
    with pytest.raises(ConfigError, match=r"(?s)key of the digest: unknown filter 'x'.*HELLO.digest .*en, title"):
        check_texts([pack], MinijinjaRenderer({}, "https://shop.example"))
