"""What can be said: the templates and what each needs (read only; packs declare them)."""

from fastapi import APIRouter, Depends

from tidings.api.host import ApiHost
from tidings.edge.answers import Shown
from tidings.model.template import Template


class TemplateShown(Shown):
    """One template."""

    code: str
    version: int
    category: str
    category_title: str
    mandatory: bool
    priority: str
    locales: list[str]
    #: variables that may be left out
    optional: list[str]
    title: str
    body: str


class Templates(Shown):
    """All templates."""

    items: list[TemplateShown]
    channels: list[str]


def router(host: ApiHost) -> APIRouter:
    """Return the route /templates."""
    routes = APIRouter(tags=["templates"])
    words = host.runtime.catalog

    @routes.get("/templates")
    async def templates(_: str = Depends(host.require("read", "notify"))) -> Templates:
        """List the templates with their English words."""
        return Templates(
            items=[_shown(host, one) for one in sorted(words.templates.values(), key=lambda one: one.code)],
            channels=list(words.channels),
        )

    return routes


def _shown(host: ApiHost, template: Template) -> TemplateShown:
    category = host.runtime.catalog.categories[template.category]
    return TemplateShown(
        code=template.code,
        version=template.version,
        category=category.code,
        category_title=category.title,
        mandatory=category.mandatory,
        priority=template.priority,
        locales=sorted(template.words),
        optional=sorted(template.optional),
        title=template.words["en"].title,
        body=template.words["en"].body,
    )
