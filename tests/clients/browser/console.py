"""Looks at the web console in a real Chromium, as a person would.

    console.py LINK [DIRECTORY]

LINK is what `signet-server console login` prints. Pages are opened, keys pressed, an entry made and
deleted, light and dark, wide and narrow; screenshots go into DIRECTORY. The last line is "ok".
Chromium is driven by chromedriver's own protocol (W3C WebDriver): no library is needed.
"""

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

PAGES = ["/", "/agents", "/entries", "/entries/new", "/explain", "/authorities", "/federation",
         "/activity", "/server"]


class Browser:
    def __init__(self, width, height, dark):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.driver = subprocess.Popen(["chromedriver", f"--port={port}"],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.base = f"http://127.0.0.1:{port}"
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     f"--window-size={width},{height}"]
        if dark:
            arguments.append("--force-dark-mode")
            arguments.append("--blink-settings=preferredColorScheme=0")
        wanted = {"acceptInsecureCerts": True, "goog:chromeOptions": {"args": arguments},
                  "goog:loggingPrefs": {"browser": "ALL"}}
        body = {"capabilities": {"alwaysMatch": wanted}}
        for _ in range(300):
            try:
                self.session = self.call("POST", "/session", body, "")["sessionId"]
                return
            except (ConnectionError, urllib.error.URLError):
                time.sleep(0.1)
        raise SystemExit("chromedriver does not answer")

    def call(self, method, path, body=None, session=None):
        prefix = f"/session/{self.session}" if session is None else session
        data = json.dumps(body if body is not None else {}).encode() if method == "POST" else None
        request = urllib.request.Request(self.base + prefix + path, data, method=method,
                                         headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{method} {path}: {error.read().decode()[:500]}") from error

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def script(self, text, *args):
        return self.call("POST", "/execute/sync", {"script": text, "args": list(args)})

    def until(self, text, what):
        for _ in range(100):
            if self.script(text):
                return
            time.sleep(0.1)
        raise SystemExit(f"{what}: {self.script('return document.body.innerText')[:2000]}")

    def keys(self, text):
        actions = []
        for key in text:
            actions += [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "k", "actions": actions}]})

    def screenshot(self, name):
        if directory := (sys.argv[2] if len(sys.argv) > 2 else None):
            with open(os.path.join(directory, name + ".png"), "wb") as file:
                file.write(base64.b64decode(self.call("GET", "/screenshot")))

    def complaints(self):
        log = self.call("POST", "/se/log", {"type": "browser"})
        return [line["message"] for line in log if line["level"] in ("SEVERE", "WARNING")]

    def close(self):
        self.call("DELETE", "")
        self.driver.terminate()
        self.driver.wait()


def check(condition, what):
    if not condition:
        raise SystemExit(what)


# What everyone must be able to read: the contrast of all text against what is behind it (WCAG 2.2,
# 1.4.3), and that nothing is wider than the window (1.4.10).
CONTRAST = r"""
const light = (text) => {
  const [r, g, b] = text.match(/[\d.]+/g).map(Number).map((c) => {
    c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const colour = getComputedStyle(node).backgroundColor;
    if (!/, 0\)$/.test(colour)) return colour; }
  return "rgb(255, 255, 255)"; };
const poor = [];
for (const node of document.querySelectorAll("body *")) {
  const own = [...node.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim());
  if (!own || !node.getClientRects().length || node.closest("svg")) continue;
  const [a, b] = [light(getComputedStyle(node).color), light(behind(node))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) poor.push(`${node.tagName} ${node.textContent.trim().slice(0, 40)} ${ratio.toFixed(2)}`);
}
return poor;
"""
NAMES = """
const bare = [];
for (const node of document.querySelectorAll("a, button, input:not([type=hidden]), textarea")) {
  const label = node.labels && node.labels.length ? node.labels[0].textContent : "";
  if (!(label + node.textContent + (node.getAttribute("aria-label") || "")).trim())
    bare.push(node.outerHTML.slice(0, 100)); }
return bare;
"""


def look(browser, base, variant):
    for page in PAGES:
        browser.open(base + page)
        check(browser.script("return document.querySelectorAll('h1').length") == 1, page)
        name = page.strip("/").replace("/", "-") or "problems"
        browser.screenshot(f"{name}-{variant}")
        poor = browser.script(CONTRAST)
        check(not poor, f"{page} ({variant}): too little contrast: {poor}")
        bare = browser.script(NAMES)
        check(not bare, f"{page}: without a name: {bare}")
        wide = browser.script("return document.documentElement.scrollWidth - innerWidth")
        check(wide <= 0, f"{page} ({variant}): {wide} px wider than the window")


def act(browser, base):
    browser.open(base + "/")
    browser.keys("ge")
    browser.until("return location.pathname === '/entries'", "g e goes to the entries")
    browser.keys("/")
    check(browser.script("return document.activeElement.name") == "spiffe_id", "/ searches")
    browser.open(base + "/entries/new")
    browser.script("""
        const form = document.querySelector("form.edit");
        form.elements.spiffe_id.value = "spiffe://example.org/from-the-browser";
        form.elements.parent_id.value = "spiffe://example.org/node1";
        form.elements.selectors.value = "unix:uid:77";
        form.querySelector("button").click();
    """)
    browser.until("return document.body.innerText.includes('Create this entry?')", "it asks first")
    browser.screenshot("confirm-light")
    browser.script("document.querySelector('main form button').click()")
    browser.until("return document.body.innerText.includes('Who gets it')", "the entry is shown")
    browser.screenshot("entry-light")
    browser.script("document.querySelector('a.danger').click()")
    browser.until("return document.body.innerText.includes('Delete this entry?')", "it asks first")
    browser.script("document.querySelector('main form button').click()")
    browser.until("return location.pathname === '/entries'", "it is deleted")
    text = browser.script("return document.body.innerText")
    check("from-the-browser" not in text, "it is gone")


def main():
    link = sys.argv[1]
    base = link.split("/login")[0]
    browser = Browser(1280, 900, False)
    try:
        browser.open(link)
        browser.until("return document.title.startsWith('Problems')", "the link logs in")
        check("#" not in browser.script("return location.href"), "the code is out of the address")
        look(browser, base, "light")
        act(browser, base)
        browser.call("POST", "/goog/cdp/execute", {
            "cmd": "Emulation.setEmulatedMedia",
            "params": {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}})
        look(browser, base, "dark")
        browser.call("POST", "/goog/cdp/execute", {
            "cmd": "Emulation.setDeviceMetricsOverride",
            "params": {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}})
        look(browser, base, "narrow")
        complaints = [line for line in browser.complaints() if "/login" not in line]
        check(not complaints, f"the browser complains: {complaints}")
        browser.open(base + "/")
        browser.script("document.querySelector('.user form button').click()")
        browser.until("return document.title.startsWith('Log in')", "logged out")
    finally:
        browser.close()
    print("ok")


main()
