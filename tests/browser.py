"""Debian's chromium without a screen, driven over its debugging port: open, evaluate, look at the console, make pictures."""
import base64, json, shutil, subprocess, tempfile, time
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless=new", "--no-sandbox", "--no-first-run", "--no-default-browser-check", "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-extensions", "--disable-dev-shm-usage", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist", "--hide-scrollbars", "--mute-audio")


class Browser:
    "One chromium with one page; use it in `with`."
    def __init__(self, *flags):
        self.home = tempfile.mkdtemp(prefix="motionbench-chromium-")
        self.process = subprocess.Popen([CHROMIUM, *FLAGS, *flags, f"--user-data-dir={self.home}", "--remote-debugging-port=0", "--remote-allow-origins=*", "about:blank"],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try: self._connect()
        except BaseException: self.close(); raise

    def _connect(self):
        import urllib.request, websocket
        port, end = Path(self.home)/"DevToolsActivePort", time.time() + 30
        while not (port.is_file() and len(port.read_text().split("\n")) > 1):
            if time.time() > end or self.process.poll() is not None: raise RuntimeError("chromium does not start")
            time.sleep(0.05)
        number = port.read_text().split("\n")[0]
        pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{number}/json", timeout=10))
        self.socket = websocket.create_connection(next(p for p in pages if p["type"] == "page")["webSocketDebuggerUrl"], timeout=60, max_size=None)
        self.number, self.events = 0, []
        for domain in ("Page", "Runtime", "Log", "Network"): self.send(f"{domain}.enable")

    def send(self, method, **params):
        "One command of the DevTools protocol, and its result."
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        mine = self.number
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == mine:
                if "error" in message: raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            if "method" in message: self.events.append(message)

    def open(self, address, wait="document.readyState === 'complete'"):
        "Go there and wait until `wait` is true."
        self.events.clear()
        self.send("Page.navigate", url=str(address))
        return self.until(wait)

    def run(self, code):
        "The value of a JavaScript expression, awaited."
        done = self.send("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in done:
            e = done["exceptionDetails"]
            raise RuntimeError(e.get("exception", {}).get("description") or e["text"])
        return done["result"].get("value")

    def until(self, code, seconds=20):
        "Wait until the expression is true; it may fail until then."
        end = time.time() + seconds
        while not (value := self.run(f"(() => {{ try {{ return !!({code}) }} catch {{ return false }} }})()")):
            if time.time() > end: raise TimeoutError(f"never true: {code}; {self.complaints()}")
            time.sleep(0.03)
        return value

    def key(self, key, code=None, **more):
        "Press a key."
        text = {"text": key} if len(key) == 1 else {}
        codes = {"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35, " ": 32}
        for kind in ("keyDown", "keyUp"): self.send("Input.dispatchKeyEvent", type=kind, key=key, code=code or key, windowsVirtualKeyCode=codes.get(key, ord(key.upper()[0])), **(text if kind == "keyDown" else {}), **more)

    def click(self, x, y):
        "Press and release the left button there."
        for kind in ("mousePressed", "mouseReleased"): self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def look(self, width=1280, height=800, dark=False, mobile=False):
        "Size of the page and the reader's preference."
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if mobile else 1, mobile=mobile)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def picture(self, path):
        "PNG of what is seen."
        Path(path).write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def complaints(self):
        "Errors in the console since the page was opened."
        self.run("1")
        text = lambda e: e["params"].get("exceptionDetails", {}).get("exception", {}).get("description") or " ".join(str(a.get("value", a.get("description"))) for a in e["params"].get("args", []))
        found = [text(e) for e in self.events if e["method"] == "Runtime.exceptionThrown" or e["method"] == "Runtime.consoleAPICalled" and e["params"]["type"] in ("error", "warning")]
        return found + [e["params"]["entry"]["text"] for e in self.events if e["method"] == "Log.entryAdded" and e["params"]["entry"]["level"] == "error"]

    def requests(self):
        "Addresses asked for since the page was opened, beside files and data."
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent" and not e["params"]["request"]["url"].startswith(("file:", "data:", "blob:"))]

    def close(self):
        if getattr(self, "socket", None): self.socket.close()
        self.process.terminate()
        try: self.process.wait(10)
        except subprocess.TimeoutExpired: self.process.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self): return self
    def __exit__(self, *_): self.close()
