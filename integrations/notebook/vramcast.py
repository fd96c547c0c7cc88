"""A client of vramcast: one file, Python's standard library alone. Copy it beside a notebook.

    import vramcast
    service = vramcast.Service("http://127.0.0.1:8080")
    service.estimate(model="llama-3.1-8b", method="lora", gpus=["rtx-4090"])["fits"][0]["verdict"]
    service.sweep({"model": "llama-3.1-8b"}, sequence_length=[1024, 2048, 4096])      # rows for pandas.DataFrame()

Fields are those of POST /estimate; nested ones are dictionaries, or dotted names in a sweep.
"""
from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Mapping, Sequence


class Refused(Exception):
    """The service did not take a request: status, the problem (RFC 9457) and its faults by JSON pointer."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status, self.problem = status, problem
        self.faults = {fault["pointer"]: fault["detail"] for fault in problem.get("errors", ())}
        told = ["%s %s" % pair for pair in self.faults.items()] or [problem.get("detail") or problem.get("title", "")]
        super().__init__("%d: %s" % (status, "; ".join(told)))


class Service:
    """A running vramcast."""

    def __init__(self, url: str = "http://127.0.0.1:8080", timeout: float = 60, token: str | None = None) -> None:
        self.url, self.timeout = url.rstrip("/"), timeout
        self.headers = {"Accept": "application/json", **({"Authorization": "Bearer " + token} if token else {})}

    def ask(self, path: str, body: Any = None) -> Any:
        """GET, or POST where there is a body; the answer's JSON. Raises Refused, or OSError when nothing answers."""
        headers, data = dict(self.headers), None
        if body is not None:
            headers["Content-Type"], data = "application/json", json.dumps(body).encode()
        try:
            request = urllib.request.Request(self.url + path, data, headers)
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(error.code, _problem(error)) from None

    def estimate(self, **fields: Any) -> dict[str, Any]:
        """One estimate: per_gpu, peak, fits, assumptions, warnings."""
        return self.ask("/estimate", fields)

    def estimates(self, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """A row for each request: its fields, the figures of the first card, its verdict; status and error."""
        return self.ask("/estimates?format=records", {"requests": list(requests)})

    def sweep(self, request: Mapping[str, Any], over: Mapping[str, Sequence[Any]] | None = None,
              **values: Sequence[Any]) -> list[dict[str, Any]]:
        """The same rows for every combination of values; over takes dotted names, as "lora.rank"."""
        return self.ask("/estimates?format=records", {"request": dict(request), "sweep": {**(over or {}), **values}})

    def plan(self, request: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """Plans that estimate() confirms, the best first; options: gpus, max_gpus, vary, objective."""
        return self.ask("/plan", {"request": dict(request), **options})

    def presets(self, words: str = "") -> list[dict[str, Any]]:
        """Models whose id or name has all the words."""
        return self.ask("/presets?format=records&" + urllib.parse.urlencode({"q": words}))

    def gpus(self, words: str = "") -> list[dict[str, Any]]:
        """Cards whose id or name has all the words."""
        return self.ask("/gpus?format=records&" + urllib.parse.urlencode({"q": words}))


def _problem(error: urllib.error.HTTPError) -> dict[str, Any]:
    """What a refusal says; a proxy's page is its reason alone."""
    try:
        value = json.load(error)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"title": error.reason}
