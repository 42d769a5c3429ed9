"""All pages of the service as one router, and the folder of their style sheet and script."""

from pathlib import Path

from fastapi import APIRouter
from starlette.staticfiles import StaticFiles

from infra.serving.pages import (
    bills,
    changes,
    documentation,
    keys,
    labelling,
    overview,
    people,
    playground,
    reports,
    visits,
)

router = APIRouter()
for page in (visits, overview, changes, playground, labelling, people, keys, bills, reports, documentation):
    router.include_router(page.router)


def static_files() -> StaticFiles:
    """Return the folder of style sheet, script and icon."""
    return StaticFiles(directory=Path(__file__).parents[1] / "static")
