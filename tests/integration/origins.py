#!/usr/bin/python3
"""The service from elsewhere, in a real Chromium: a page of another origin that calls it, and its own page behind a
proxy that has it at a path.

    origins.py SOURCE VRAMCAST                  TAP; starts VRAMCAST twice, without and with --cors-origin
"""
# needs: chromium chromium-driver python3-selenium
import contextlib
import http.server
import pathlib
import sys
import threading
import urllib.parse

SOURCE = pathlib.Path(sys.argv[1])
sys.path[:0] = [str(SOURCE / "tests"), str(SOURCE / "tests/integration")]
import chromium
import drift
import served

PREFIX = "/tools/vramcast/"
BODY = '{"model": "llama-3.2-1b", "gpus": "t4"}'
# What a script of a dashboard does: asks, and reads what it is allowed to.
CALL = """
  const [address, options] = arguments;
  return fetch(address, options).then(async (reply) => ({
    status: reply.status, gpu: (await reply.json()).fits[0].gpu,
    etag: reply.headers.get("ETag"), id: reply.headers.get("X-Request-Id"),
  }), (error) => ({ refused: String(error) }));
"""
POST = {"method": "POST", "headers": {"Content-Type": "application/json"}, "body": BODY}


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """A page of another origin; below PREFIX what the service at port says."""

    port = 0
    down = False

    def do_GET(self):
        if self.path.startswith(PREFIX):
            self.forward(None)
        else:
            self.answer(200, "text/html", b"<!doctype html><title>elsewhere</title><link rel=icon href=data:,>")

    def do_POST(self):
        self.forward(self.rfile.read(int(self.headers["Content-Length"])))

    def forward(self, body):
        if type(self).down:
            self.answer(502, "text/html", b"<!doctype html><title>Bad Gateway</title>")
            return
        told = served.Answer(self.port, self.command, self.path[len(PREFIX) - 1:], body)
        self.answer(told.status, told.headers["Content-Type"], told.body,
                    ("Content-Security-Policy", told.headers.get("Content-Security-Policy", "")))

    def answer(self, status, media, body, *headers):
        self.send_response(status)
        for name, value in (("Content-Type", media), ("Content-Length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def elsewhere(port):
    Elsewhere.port = port
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield "http://127.0.0.1:%d/" % server.server_port
    server.shutdown()


def origin_cases(browser, closed, open_):
    browser.open()
    get = "estimate?" + urllib.parse.urlencode({"model": "llama-3.2-1b", "gpus": "t4"})
    for name, address, options in (("GET", get, {}), ("POST as JSON", "estimate", POST)):
        told = browser.run(CALL, closed + address, options)
        yield "without --cors-origin %s of another origin is refused" % name, [] if "refused" in told else [str(told)]
        told = browser.run(CALL, open_ + address, options)
        right = (told.get("status"), told.get("gpu")) == (200, "t4")
        yield "with it %s is answered" % name, [] if right else [str(told)]
        yield "and its X-Request-Id is told", [] if told.get("id") else [str(told)]
    told = browser.run(CALL, open_ + get, {})
    yield "so is the ETag", [] if told.get("etag") else [str(told)]


def path_cases(browser):
    browser.base += PREFIX.lstrip("/")
    browser.console(), browser.foreign()  # those of the other cases
    browser.open("#model=llama-3.2-1b&gpus=t4")
    status = browser.until("an answer", lambda: "Fits" in browser.text("#status") and browser.text("#status"))
    yield "the page works at a path of a proxy", [] if "Tesla T4" in status or "T4" in status else [status]
    yield "its curl line has that path", [] if browser.base + "estimate" in browser.text("#text-curl") else [
        browser.text("#text-curl")]
    yield "it asks for nothing beside that path", browser.foreign()
    yield "no word on the console", browser.console()
    Elsewhere.down = True
    browser.fill("[id='field-sequence_length']", "512")
    told = browser.until("a word", lambda: browser.text("#problems"))
    Elsewhere.down = False
    browser.click("#problems button")
    browser.until("an answer", lambda: not browser.one("#problems").is_displayed())
    yield "a proxy that says 502 in HTML is no answer, and is asked again", [] if "No answer" in told else [told]
    yield "no script failed", browser.run("return thrown")


def main(source, vramcast):
    with served.service(source, vramcast) as port, elsewhere(port) as page, \
            served.service(source, vramcast, "--cors-origin", page.rstrip("/")) as allowed, \
            chromium.browser(page) as browser:
        addresses = ["http://127.0.0.1:%d/" % one for one in (port, allowed)]
        return 0 if drift.report([*origin_cases(browser, *addresses), *path_cases(browser)]) else 1


if __name__ == "__main__":
    sys.exit(main(SOURCE, *sys.argv[2:]))
