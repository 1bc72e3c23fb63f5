#!/usr/bin/env python3
"""The uplink of `kind = "mqtt"` against a Mosquitto: plain with a password, and TLS with a CA of our own.

Everything acknowledged to the plant must reach a subscriber, also when Mosquitto is restarted meanwhile, and a
bridge that is refused must say why in the log and on /readyz.

    tests/interop/uplink.py [path of brownbridge, default $BROWNBRIDGE, then what cargo built] [--only TEXT]

Exits 0 when all rows passed, 1 on a difference, 2 when it could not run.
"""

import json
import re
import sys
import threading
import warnings

sys.dont_write_bytecode = True
import rig
from rig import check, until

try:
    from paho.mqtt import client as paho
except ImportError:
    rig.could_not_run("paho-mqtt is not there: python3 -m pip install paho-mqtt")

RULES = """
[[rule]]
name = "line"
topic = "line/{device}/{signal}"
device = "{device}"
props = { signal = "{signal}" }
"""
USER, PASSWORD = "bridge", "p/w=d 4 tests"
QUICK = 'backoff_min = "20ms"\nbackoff_max = "200ms"\n'


class Upstairs:
    """A Mosquitto that asks for a password and remembers, and a subscriber that stays a session."""

    def __init__(self, stage, name, tls=None):
        self.stage, self.name, self.tls = stage, name, tls
        kept = stage.folder / f"{name}.kept"
        kept.mkdir()
        users = stage.folder / f"{name}.users"
        stage.run(["mosquitto_passwd", "-b", "-c", users, USER, PASSWORD])
        lines = [f"allow_anonymous false\npassword_file {users}",
                 f"persistence true\npersistence_location {kept}/\nmax_queued_messages 0"]
        if tls:
            lines.append(f"certfile {tls}/server.pem\nkeyfile {tls}/server.key")
        self.broker = rig.Mosquitto(stage, name, "\n".join(lines))
        self.got = []
        self.listen()

    def listen(self):
        versions = [paho.CallbackAPIVersion.VERSION1] if hasattr(paho, "CallbackAPIVersion") else []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.subscriber = paho.Client(*versions, client_id=f"durable-{self.name}", clean_session=False)
        granted = threading.Event()
        self.subscriber.on_connect = lambda client, *rest: client.subscribe("up/#", 1)
        self.subscriber.on_subscribe = lambda *rest: granted.set()
        self.subscriber.on_message = lambda client, data, m: self.got.append((m.topic, m.payload.decode()))
        self.subscriber.username_pw_set(USER, PASSWORD)
        if self.tls:
            self.subscriber.tls_set(str(self.tls / "ca.pem"))
        self.subscriber.connect("localhost", self.broker.port)
        self.subscriber.loop_start()
        check("the subscription", granted.wait(rig.PATIENCE), True)

    def address(self):
        return f'kind = "mqtt"\naddress = "localhost:{self.broker.port}"\nclient_id = "bridge-under-test"\n'

    def arrived(self):
        """(topic, payload) of every message, in the order of arrival."""
        return list(self.got)

    def down(self):
        """The subscriber goes first, its session stays: TLS libraries of clients trip over a server that is going."""
        self.subscriber.disconnect()
        self.subscriber.loop_stop()
        self.broker.down()

    def up(self):
        self.broker.up()
        self.listen()


def login(password=PASSWORD):
    return f'username = "{USER}"\npassword = "{password}"\n'


def publish(stage, bridge, topic, lines):
    """Returns when all are acknowledged to the publisher."""
    argv = ["mosquitto_pub", "-h", "127.0.0.1", "-p", bridge.port, "-q", "1", "-t", topic, "-l"]
    stage.run(argv, stdin="".join(f"{line}\n" for line in lines).encode(), patience=120)


def topics_are_filled_in(stage, program, upstairs):
    for topic, want in [
        ("up/{device}/x", r"up/press7/x"),
        ("up/{topic}", r"up/"),
        ("up/{device}/{properties}", r"up/press7/%24\.mid=[0-9a-f]{16}-1&%24\.ct=application%2Fjson&%24\.ce=utf-8&"
                                     r"%24\.ctime=\d{4}-\d\d-\d\dT\d\d%3A\d\d%3A\d\d\.\d{3}Z&device=press7&signal=temp"),
    ]:
        before = len(upstairs.arrived())
        name = f"topic-{upstairs.name}-{len(topic)}"
        uplink = upstairs.address() + login() + secure(upstairs) + f'topic = "{topic}"\n{QUICK}'
        bridge = rig.Bridge(stage, program, uplink, RULES, name)
        publish(stage, bridge, "line/press7/temp", ['{"v": 1}'])
        got, payload = until("the message", lambda: upstairs.arrived()[before:])[0]
        check(f"the topic {got} made of {topic}", bool(re.fullmatch(want, got)), True)
        check("the payload", payload, '{"v": 1}')
        bridge.drained()
        bridge.check_conserved()
        check("exit code", stage.end(bridge.process), 0)


def secure(upstairs):
    return f'ca_file = "{upstairs.tls}/ca.pem"\n' if upstairs.tls else "tls = false\n"


def a_restart_loses_nothing(stage, program, upstairs):
    # Without lanes the order of a client is the order of arrival, whatever the restarts leave waiting.
    uplink = upstairs.address() + login() + secure(upstairs) + f'topic = "up/{{device}}"\nlive_first = false\n{QUICK}'
    bridge = rig.Bridge(stage, program, uplink, RULES, f"restart-{upstairs.name}")
    counts = {f"p{n}": [json.dumps({"p": n, "n": i}) for i in range(4_000)] for n in range(2)}
    publishers = [threading.Thread(target=publish, args=(stage, bridge, f"line/{name}/x", lines), daemon=True)
                  for name, lines in counts.items()]
    for publisher in publishers:
        publisher.start()
    for share in (500, 2_000):
        until(f"{share} messages up", lambda: bridge.metric("messages_delivered_total") > share)
        upstairs.down()
        until("the bridge notices", lambda: bridge.metric("uplink_connected") == 0)
        upstairs.up()
        until("it is connected again", lambda: bridge.metric("uplink_connected") == 1)
    for publisher in publishers:
        publisher.join(120)
    bridge.drained()
    want = {(f"up/{name}", line) for name, lines in counts.items() for line in lines}
    missing = lambda: want - set(upstairs.arrived())
    until(lambda: f"all {len(want)} messages, {len(missing())} are missing", lambda: not missing())
    check("messages nobody sent", set(upstairs.arrived()[-len(want):]) - want, set())
    first = dict.fromkeys(entry for entry in upstairs.arrived() if entry in want)
    for name, lines in counts.items():
        check(f"order of {name}", [line for topic, line in first if topic == f"up/{name}"], lines)
    check("reconnects", bridge.metric("uplink_reconnects_total") >= 2, True)
    bridge.check_conserved()
    check("exit code", stage.end(bridge.process), 0)


def what_is_told(stage, program, upstairs, name, uplink, told):
    bridge = rig.Bridge(stage, program, upstairs.address() + uplink + QUICK + 'drain_timeout = "50ms"\n', RULES, name)
    publish(stage, bridge, "line/press7/temp", ["1"])
    for where, text in (("/readyz", lambda: bridge.get("/readyz")), ("the log", bridge.said)):
        until(lambda: f"{told} on {where}: {text()}", lambda: all(part in text() for part in told))
    check("the password is in the log", PASSWORD in bridge.said() or "wrong-p" in bridge.said(), False)
    check("healthz", bridge.get("/healthz"), "ok\n")
    check("waiting", bridge.metric("spool_messages"), 1)
    check("exit code", stage.end(bridge.process), 0)
    stage.why.append(f"{name}: {until('readyz', lambda: told_line(bridge.said()))}")


def told_line(log):
    lines = [line for line in log.splitlines() if "uplink" in line and ("WARN" in line or "ERROR" in line)]
    return lines[0] if lines else log


def certificates(stage, name):
    """A CA and a server certificate for localhost, as the handbook of Mosquitto has them made."""
    folder = stage.folder / name
    folder.mkdir()
    names = folder / "names"
    names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl = lambda *words: stage.run(["openssl", *words], cwd=folder)
    key = ["-newkey", "rsa:2048", "-nodes"]
    openssl("req", "-new", "-x509", "-days", "2", *key, "-subj", f"/CN={name} CA", "-keyout", "ca.key", "-out", "ca.pem")
    openssl("req", "-new", *key, "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "names", "-out", "server.pem")
    return folder


def main():
    program, only = rig.arguments()
    rig.need("mosquitto", "mosquitto_passwd", "mosquitto_pub", "mosquitto_sub", "openssl")
    rows, stage = rig.Rows(only), rig.Stage()
    stage.why = []
    plain = Upstairs(stage, "plain")
    tls = Upstairs(stage, "tls", certificates(stage, "ours"))
    other = certificates(stage, "others")
    for upstairs in (plain, tls):
        rows.run(f"{upstairs.name}: topics", topics_are_filled_in, stage, program, upstairs)
        rows.run(f"{upstairs.name}: two restarts of Mosquitto under load", a_restart_loses_nothing, stage, program, upstairs)
    for name, upstairs, uplink, told in [
        ("wrong-password", plain, login("wrong-p") + "tls = false\n", ["refused the connection", "`username`", "`password`"]),
        ("no-password", plain, "tls = false\n", ["refused the connection", "`username`", "`password`"]),
        ("wrong-password-tls", tls, login("wrong-p") + secure(tls), ["refused the connection", "`username`", "`password`"]),
        ("unknown-ca", tls, login() + f'ca_file = "{other}/ca.pem"\n', ["UnknownIssuer", "`ca_file`"]),
        ("tls-to-plain", plain, login() + f'ca_file = "{other}/ca.pem"\n', ["`tls = false`"]),
        ("plain-to-tls", tls, login() + "tls = false\n", ["localhost closed the connection"]),
    ]:
        rows.run(f"told: {name}", what_is_told, stage, program, upstairs, name, uplink, told)
    rows.run("Mosquitto and its subscriber end", lambda: [upstairs.down() for upstairs in (plain, tls)])
    print(*stage.why, sep="\n")
    rows.finish()


main()
