"""`foursight models`: the models of a running server."""

import sys
from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(help="The models of a running server.", no_args_is_help=True)

Url = Annotated[str, typer.Option(envvar="FOURSIGHT_URL", help="Where the server is.")]
Name = Annotated[str, typer.Argument(help="The name of a fine-tuned model.")]
DEFAULT_URL = "http://127.0.0.1:8000"


@app.command("list")
def list_models(url: Url = DEFAULT_URL) -> None:
    """List the models that are served."""
    for card in _ask("GET", f"{url}/v1/models")["models"]:
        own = "fine-tuned" if card.get("finetuned") else "built in"
        print(
            f"{card['name']:24} {card['task']:10} {own:11} {len(card['labels']):5} labels  {card['bytes']:>12,} bytes"
        )


@app.command("load")
def load_model(name: Name, url: Url = DEFAULT_URL) -> None:
    """Serve a model of the server's models folder, read anew; requests go on meanwhile."""
    card = _ask("PUT", f"{url}/v1/models/{name}")
    print(f"{card['name']} is served: POST {url}/v1/{card['task']}?model={card['name']}")


@app.command("unload")
def unload_model(name: Name, url: Url = DEFAULT_URL) -> None:
    """Serve a model no longer; its folder stays."""
    _ask("DELETE", f"{url}/v1/models/{name}")
    print(f"{name} is served no longer.")


def _ask(method: str, url: str) -> Any:
    import httpx  # noqa: PLC0415

    try:
        response = httpx.request(method, url, timeout=300)
    except httpx.HTTPError as error:
        _end(f"no server answers at {url}: {error}")
    if response.is_error:
        try:
            problem = response.json()
            _end(f"{problem['detail']} {problem['hint']}")
        except (ValueError, KeyError):
            _end(f"{url} answered {response.status_code}")
    return response.json() if response.content else None


def _end(message: str) -> NoReturn:
    print(f"foursight models: {message}", file=sys.stderr)
    raise typer.Exit(1)
