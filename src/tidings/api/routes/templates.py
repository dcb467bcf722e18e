"""Templates (read only; packs declare them)."""

from fastapi import APIRouter, Depends

from tidings.api.context import RouteContext
from tidings.flow.catalog import Catalog
from tidings.model.template import Template
from tidings.schemas.response_models import ResponseModel


class TemplateResponse(ResponseModel):
    """One template."""

    code: str
    version: int
    category: str
    category_title: str
    #: on all channels
    mandatory: bool
    priority: str
    locales: list[str]
    #: variables that may be left out
    optional: list[str]
    title: str
    body: str


class TemplatesResponse(ResponseModel):
    """All templates."""

    items: list[TemplateResponse]
    channels: list[str]


def router(context: RouteContext) -> APIRouter:
    """Return the route /templates."""
    routes = APIRouter(tags=["templates"])
    catalog = context.runtime.catalog

    @routes.get("/templates")
    async def list_templates(_: str = Depends(context.require_scopes("read", "notify"))) -> TemplatesResponse:
        """List the templates with their English texts."""
        templates = sorted(catalog.templates.values(), key=lambda template: template.code)
        return TemplatesResponse(
            items=[_template_response(catalog, template) for template in templates], channels=list(catalog.channels)
        )

    return routes


def _template_response(catalog: Catalog, template: Template) -> TemplateResponse:
    category = catalog.categories[template.category]
    return TemplateResponse(
        code=template.code,
        version=template.version,
        category=category.code,
        category_title=category.title,
        mandatory=category.is_mandatory_everywhere,
        priority=template.priority,
        locales=sorted(template.texts),
        optional=sorted(template.optional),
        title=template.texts["en"].title,
        body=template.texts["en"].body,
    )
