"""A browser without scripts: keeps cookies, fills in the token of the form that it was shown."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.support.serving import OPERATOR, Running


class Browser(httpx.Client):
    """An HTTP client that sends forms as a page would."""

    def submit(self, path: str, **fields: str | list[str]) -> httpx.Response:
        """Load a page, then send a form of it."""
        return self.post(path, data={"form_token": read_token(self.get(path).text), **fields})


def read_token(html: str) -> str:
    """Return the token of the page's forms."""
    return html.split('name="form_token" value="')[1].split('"')[0]


def open_browser(service: Running, language: str = "en") -> Browser:
    headers = {"Accept": "text/html", "Accept-Language": language}
    return Browser(base_url=service.url, follow_redirects=True, timeout=30, headers=headers)


@contextmanager
def sign_in(service: Running, secret: str = OPERATOR, language: str = "en") -> Iterator[Browser]:
    """Yield a browser in which somebody signed in, with the operator token or a labeller's pass."""
    with open_browser(service, language) as browser:
        assert browser.submit("/login", token="guess").status_code == 403
        assert browser.submit("/login", token=secret).status_code != 403
        yield browser
