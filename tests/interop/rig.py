"""What the interop scripts share: a folder, the programs that run in it, and waiting for conditions.

Everything listens on a free port of 127.0.0.1. A program that was started here is ended here, by its own
process id, also when the script fails or is told to end.
"""

import argparse
import atexit
import base64
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATIENCE = 30.0


class Failure(Exception):
    """Something is not as it must be; the text says what."""


def check(what, got, want):
    if got != want:
        raise Failure(f"{what}: got {short(got)}, want {short(want)}")


def short(value):
    text = repr(value)
    return text if len(text) < 600 else f"{text[:400]} .. {text[-150:]} ({len(text)} characters)"


def until(what, look, patience=PATIENCE):
    """Waits for something another process brings about, and returns it."""
    deadline = time.monotonic() + patience
    while not (found := look()):
        if time.monotonic() > deadline:
            raise Failure(f"{what() if callable(what) else what}: not within {patience:.0f} s")
        time.sleep(0.005)
    return found


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def arguments():
    """The program under test (the argument, BROWNBRIDGE, or what cargo built last), and which rows to run."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__.split("\n")[0])
    parser.add_argument("binary", nargs="?", default=os.environ.get("BROWNBRIDGE"))
    parser.add_argument("--only", metavar="TEXT", default="", help="run only the rows with TEXT in their name")
    given = parser.parse_args()
    built = [ROOT / "target" / profile / "brownbridge" for profile in ("release", "debug")]
    candidates = [pathlib.Path(given.binary)] if given.binary else built
    for path in candidates:
        if path.is_file():
            return str(path.resolve()), given.only
    could_not_run(f"there is no {' and no '.join(str(path) for path in candidates)}: cargo build --release")


def could_not_run(text):
    print(f"error: {text}", file=sys.stderr)
    sys.exit(2)


def need(*programs):
    # Debian keeps mosquitto in sbin, which is not on everybody's path.
    os.environ["PATH"] += ":/usr/sbin:/usr/local/sbin"
    missing = [program for program in programs if not shutil.which(program)]
    if missing:
        could_not_run(f"not installed: {', '.join(missing)} "
                      "(Debian: mosquitto mosquitto-clients prometheus openssl; node brings npm)")


class Stage:
    """A folder and the processes that run in it."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="brownbridge-interop-"))
        self.children = []
        atexit.register(self.close)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: sys.exit(128 + number))

    def start(self, name, argv, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, **options):
        """Starts a program; what it says on stderr is in the file `name`.log."""
        with open(self.folder / f"{name}.log", "ab") as log:
            options.setdefault("stderr", log)
            child = subprocess.Popen([str(word) for word in argv], stdin=stdin, stdout=stdout, **options)
        self.children.append(child)
        return child

    def said(self, name):
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def run(self, argv, stdin=b"", patience=PATIENCE, **options):
        """Runs a program to its good end and returns what it printed."""
        argv = [str(word) for word in argv]
        done = subprocess.run(argv, input=stdin, capture_output=True, timeout=patience, **options)
        if done.returncode != 0:
            said = (done.stdout + done.stderr).decode(errors="replace")
            raise Failure(f"{' '.join(argv)[:300]} ended with {done.returncode}: {said[-2000:]}")
        return done.stdout.decode(errors="replace")

    def end(self, child, number=signal.SIGTERM, patience=15):
        """Ends one child and returns its exit code."""
        if child.poll() is None:
            child.send_signal(number)
        try:
            return child.wait(patience)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            raise Failure(f"{child.args[0]} did not end within {patience} s of signal {number}")
        finally:
            self.children.remove(child)

    def close(self):
        for child in self.children:
            if child.poll() is None:
                child.kill()
                child.wait()
        self.children.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


class Hub:
    """`brownbridge sim`, and what it received."""

    def __init__(self, stage, program):
        self.dir, self.port = stage.folder / "sim", free_port()
        self.dir.mkdir()
        self.output = self.dir / "received.jsonl"
        with open(self.output, "wb") as output:
            stage.start("sim", [program, "sim", "--listen", f"127.0.0.1:{self.port}", "--dir", self.dir], output)
        until("the simulator listens", lambda: "address = " in stage.said("sim"))
        self.connection_string = re.search(r'connection_string = "(.*)"', stage.said("sim"))[1]
        self.device = re.search(r"DeviceId=([^;]*)", self.connection_string)[1]
        self.read, self.partial, self.messages = 0, b"", []

    def uplink(self):
        return (f'connection_string = "{self.connection_string}"\nca_file = "{self.dir}/ca.pem"\n'
                f'address = "127.0.0.1:{self.port}"\n')

    def received(self):
        """Every message so far."""
        with open(self.output, "rb") as file:
            file.seek(self.read)
            new = file.read()
        self.read += len(new)
        *lines, self.partial = (self.partial + new).split(b"\n")
        self.messages += [json.loads(line) for line in lines]
        return self.messages


class Bridge:
    """`brownbridge run`."""

    def __init__(self, stage, program, uplink, rules, name="bridge"):
        self.stage, self.name = stage, name
        self.port, self.admin, self.websocket = free_port(), free_port(), free_port()
        folder = stage.folder / f"{name}.d"
        (folder / "rules").mkdir(parents=True, exist_ok=True)
        (folder / "rules" / "10-test.toml").write_text(rules)
        (folder / "bridge.toml").write_text(
            f'rules = "rules"\nstate = "state"\n[broker]\nlisten = "127.0.0.1:{self.port}"\n'
            f'websocket = "127.0.0.1:{self.websocket}"\n[admin]\nlisten = "127.0.0.1:{self.admin}"\n[uplink]\n{uplink}')
        self.process = stage.start(name, [program, "run", "--config", folder / "bridge.toml"])
        until("the bridge listens", lambda: self.alive() and listens(self.port))

    def alive(self):
        if self.process.poll() is not None:
            raise Failure(f"the bridge ended with {self.process.returncode}: {self.said()}")
        return True

    def said(self):
        return self.stage.said(self.name)

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=10) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as answer:
            return answer.read().decode()

    def metric(self, name, **labels):
        """The sum of a metric over its labels, or over those given."""
        total = 0.0
        for line in self.get("/metrics").splitlines():
            found = re.fullmatch(rf"brownbridge_{name}(?:\{{(.*)\}})? (\S+)", line)
            if found and all(f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()):
                total += float(found[2])
        return total

    def drained(self):
        until("the spool drains", lambda: self.metric("spool_messages") == 0)

    def check_conserved(self):
        """The two sums of src/metrics.rs."""
        m = self.metric
        taken = m("publishes_translated_total") + m("messages_dropped_total") + m("messages_quarantined_total")
        check("publishes received", m("publishes_received_total"), taken)
        settled = (m("messages_delivered_total") + m("messages_shed_total") + m("spool_lost_total")
                   + m("spool_messages"))
        check("messages made", m("messages_translated_total") + m("spool_recovered_total"), settled)


class Mosquitto:
    """A Mosquitto with one listener; `lines` is the rest of its configuration."""

    def __init__(self, stage, name, lines):
        self.stage, self.name, self.port = stage, name, free_port()
        self.config = stage.folder / f"{name}.conf"
        # As root Mosquitto changes to the user `mosquitto`, who may not enter the folder.
        self.config.write_text(f"user root\nlog_dest stderr\nlog_type all\nlistener {self.port} 127.0.0.1\n{lines}\n")
        self.up()

    def up(self):
        self.process = self.stage.start(self.name, ["mosquitto", "-c", self.config])
        until(lambda: f"{self.name} listens: {self.said()[-500:]}", lambda: listens(self.port))

    def down(self):
        self.stage.end(self.process)

    def said(self):
        return self.stage.said(self.name)


class Rows:
    """Counts what passed, and prints each row."""

    def __init__(self, only=""):
        self.only, self.passed, self.failed = only, 0, 0

    def run(self, name, row, *arguments):
        if self.only not in name:
            return
        begun = time.monotonic()
        try:
            row(*arguments)
        except Exception as failure:
            self.failed += 1
            told = isinstance(failure, Failure)
            print(f"FAILED  {name}: {failure if told else traceback.format_exc()}")
        else:
            self.passed += 1
            print(f"ok      {name}  ({time.monotonic() - begun:.1f} s)")
        sys.stdout.flush()

    def finish(self):
        print(f"{self.passed} passed, {self.failed} failed")
        sys.exit(1 if self.failed or not self.passed else 0)


def body(message):
    return message["body"].encode() if "body" in message else base64.b64decode(message["body_base64"])
