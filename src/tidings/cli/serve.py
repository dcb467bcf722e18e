"""`tidings serve`: API, workers and pages in one process."""

from typing import Annotated

from cyclopts import Parameter

from tidings.cli.options import Options
from tidings.cli.start import start, tell_program
from tidings.settings import Role, Settings


def serve(
    *,
    demo: Annotated[
        bool | None, Parameter(help="Add the demo site, 5 000 simulated users and a mock push service.")
    ] = None,
    host: Annotated[str | None, Parameter(help="Address to listen on (TIDINGS_HOST).")] = None,
    port: Annotated[int | None, Parameter(help="Port, 0 = any free one (TIDINGS_PORT).")] = None,
    workers: Annotated[int | None, Parameter(help="Sender processes, 0 = none of its own (TIDINGS_WORKERS).")] = None,
    options: Options = Options(),
) -> int:
    """Run API, workers and pages in one process until it is stopped."""
    log_format = "json" if options.json else None
    settings = options.settings(demo=demo, host=host, port=port, workers=workers, log_format=log_format)
    tell = (lambda ready: tell_program(_places(ready))) if options.json else _tell_person
    return start(settings, Role.SERVE, tell)


def _tell_person(settings: Settings) -> None:
    places = _places(settings)
    print("\nTidings is running.\n")
    for name, value in places.items():
        print(f"  {_LABELS[name]:<10} {value}")
    if settings.demo:
        from tidings.demo.events import EVENT_ID

        print("\nMove the demo event and see 5 000 people told (then look at the demo page):\n")
        print(f"  curl -X PATCH {places['url']}/api/events/{EVENT_ID} \\")
        print(f"    -H 'Authorization: Bearer {settings.bootstrap_key}' \\")
        print("    -H 'Content-Type: application/json' \\")
        print('    -d \'{"startDate": "2030-06-21T20:30:00+02:00", "endDate": "2030-06-21T23:30:00+02:00"}\'')
    elif not settings.bootstrap_key:
        print("\nGet an API key with: tidings keys create --scope admin")
    print("\nStop with Ctrl-C.", flush=True)


_LABELS = {"url": "API", "docs": "API docs", "demo": "Demo", "data": "Data", "apiKey": "API key"}


def _places(settings: Settings) -> dict[str, str]:
    url = settings.listening_url
    places = {"url": url, "docs": f"{url}/docs", "data": str(settings.data_dir.resolve())}
    if settings.demo:
        places |= {"demo": f"{url}/demo/", "apiKey": settings.bootstrap_key}
    return places
