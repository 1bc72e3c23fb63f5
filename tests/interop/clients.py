#!/usr/bin/env python3
"""MQTT clients by others against the broker, and what of their publishes arrives at the hub.

Programs: mosquitto_pub, mosquitto_sub, a Mosquitto bridge, paho-mqtt (1.6 and 2.x), mqtt.js, promtool.

    pip install paho-mqtt
    tests/interop/clients.py [path of brownbridge, default $BROWNBRIDGE, then what cargo built] [--only TEXT]

Every row publishes, and then the simulated hub must have received exactly that: device, properties,
system properties and body, in the order of the publishes of one client. At the end the sums of /metrics
must be right. Exits 0 when all rows passed, 1 on a difference, 2 when it could not run.
"""

import collections
import datetime
import json
import pathlib
import re
import select
import signal
import socket
import subprocess
import sys
import warnings

sys.dont_write_bytecode = True
import rig
from rig import Failure, check, until

try:
    from paho.mqtt import client as paho
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
except ImportError:
    rig.could_not_run("paho-mqtt is not there: python3 -m pip install paho-mqtt")

RULES = """
[[rule]]
name = "line"
topic = "line/{device}/{signal}"
device = "{device}"
props = { signal = "{signal}" }

[[rule]]
name = "nobody's business"
topic = "ready/#"
drop = true
"""
STAMPS = re.compile("iothub-(connection-device-id|connection-auth-method|enqueuedtime|message-source)")
VERSIONS = ["mqttv31", "mqttv311", "mqttv5"]
BIG = bytes(range(256)) * 800
PAHO = {"mqttv31": paho.MQTTv31, "mqttv311": paho.MQTTv311, "mqttv5": paho.MQTTv5}


# What the hub must show


def wish(topic, payload, device):
    """What a publish must look like at the hub, without what differs from message to message."""
    payload = payload.encode() if isinstance(payload, str) else payload
    addressed = re.fullmatch(f"devices/{device}/messages/events/(.*)", topic)
    if addressed:
        # Goes up as it is; the rows write only what needs no more than this to decode.
        decode = {"%24": "$", "%2F": "/", "%20": " "}
        bag = re.sub("%..", lambda found: decode[found[0]], addressed[1])
        pairs = dict(pair.split("=", 1) for pair in bag.split("&"))
        system = {"content-type": pairs.pop("$.ct")} if "$.ct" in pairs else {}
        return {"properties": pairs, "system": system, "body": payload, "as it is": True}
    line = re.fullmatch("line/([^/]+)/([^/]+)", topic)
    properties = {"device": line[1], "signal": line[2]} if line else {"topic": topic}
    return {"properties": properties, "system": looks(payload), "body": payload, "as it is": False}


def looks(payload):
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return {"content-type": "application/octet-stream"}
    if not text:
        return {}
    try:
        json.loads(text)
    except ValueError:
        return {"content-type": "text/plain", "content-encoding": "utf-8"}
    return {"content-type": "application/json", "content-encoding": "utf-8"}


class Plant:
    """The hub and the bridge under test, and what is due at the hub."""

    def __init__(self, stage, program):
        self.stage = stage
        (stage.folder / "binary").write_bytes(bytes(range(256)))
        (stage.folder / "big").write_bytes(BIG)
        self.hub = rig.Hub(stage, program)
        self.bridge = rig.Bridge(stage, program, self.hub.uplink(), RULES)
        self.port = self.bridge.port
        self.due, self.done, self.ids, self.number = [], 0, set(), 0

    def owe(self, topic, payload):
        self.due.append(wish(topic, payload, self.hub.device))

    def settle(self, ordered=True):
        """Compares what arrived since the last time with what is due."""
        due, begin = self.due, self.done
        self.due = []
        arrived = lambda: self.hub.received()[begin:]
        try:
            until(lambda: f"{len(due)} messages due at the hub, there are {len(arrived())}",
                  lambda: len(arrived()) >= len(due))
        except Failure:
            self.bridge.drained()
            raise
        finally:
            got = arrived()
            self.done = begin + len(got)
        check("number of messages at the hub", len(got), len(due))
        if not ordered:
            by_body = lambda entry: (repr(entry["properties"]), entry["body"])
            got.sort(key=lambda message: (repr(message["properties"]), rig.body(message)))
            due.sort(key=by_body)
        for number, (message, want) in enumerate(zip(got, due)):
            self.compare(f"message {number}", message, want)

    def compare(self, what, got, want):
        check(f"{what}, body", rig.body(got), want["body"])
        check(f"{what}, device", got["device"], self.hub.device)
        check(f"{what}, properties", got["properties"], want["properties"])
        system = {key: value for key, value in got["system"].items() if not STAMPS.fullmatch(key)}
        if not want["as it is"]:
            created = system.pop("iothub-creation-time-utc", "")
            age = datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.fromisoformat(created)
            check(f"{what}, created {created}: in the last two minutes", 0 <= age.total_seconds() < 120, True)
            identity = system.pop("message-id", "")
            check(f"{what}, the form of message id {identity}", bool(re.fullmatch(r"[0-9a-f]{16}-\d+", identity)), True)
            check(f"{what}, message id {identity} was there before", identity in self.ids, False)
            self.ids.add(identity)
        check(f"{what}, system properties", system, want["system"])

    # mosquitto_pub and mosquitto_sub

    def pub(self, version, topic, *arguments, payload, lines=None, owed=True, port=None):
        argv = ["mosquitto_pub", "-h", "127.0.0.1", "-p", port or self.port, "-V", version, "-t", topic, *arguments]
        for text in lines or [payload]:
            if owed:
                self.owe(topic, text)
        self.stage.run(argv, stdin="".join(f"{line}\n" for line in lines or []).encode())

    def sub(self, version, filters, form, *arguments):
        """A mosquitto_sub whose subscriptions are acknowledged, and the file it prints into."""
        self.number += 1
        ready, output = f"ready/{self.number}", self.stage.folder / f"sub-{self.number}.txt"
        self.pub(version, ready, "-q", "1", "-r", "-m", "now", payload="now", owed=False)
        topics = [word for name in [*filters, f"{ready}/#"] for word in ("-t", name)]
        with open(output, "wb") as file:
            argv = ["mosquitto_sub", "-h", "127.0.0.1", "-p", self.port, "-V", version, "-F", form]
            child = self.stage.start("mosquitto_sub", [*argv, *arguments, *topics], file)
        until("the subscriber is ready", lambda: f"{ready}|" in output.read_text(errors="replace"))
        return child, output, ready


# Rows: mosquitto_pub

JSON = '{"v": 21.5}'
PUBLISHES = [
    # name, topic, arguments, what is the payload
    ("a rule", "line/press7/temp", ["-m", JSON], JSON),
    ("no rule", "elsewhere/7", ["-m", "on"], "on"),
    ("retained", "line/press7/state", ["-r", "-m", "running"], "running"),
    ("empty payload", "line/press7/nothing", ["-n"], ""),
    ("binary file", "line/press7/image", ["-f", "{binary}"], bytes(range(256))),
    ("unicode and space in the topic", "halle 1/Öfen/温度/\U0001f3ed", ["-m", "21 °C"], "21 °C"),
    ("unicode as device", "line/Ofen-3/temp °C", ["-m", "7"], "7"),
    ("leading and doubled slash", "/line//press7/", ["-m", JSON], JSON),
    ("200 kB", "line/press7/big", ["-f", "{big}"], BIG),
    ("what a bag must escape", "a&b=c/%24.mid/?x~y", ["-m", "1"], "1"),
]


def publishes(plant, version, qos, topic, arguments, payload):
    files = {"binary": plant.stage.folder / "binary", "big": plant.stage.folder / "big"}
    arguments = [word.format(**files) if word.startswith("{b") else word for word in arguments]
    plant.pub(version, topic, "-q", qos, *arguments, payload=payload)
    if "-r" in arguments:
        plant.settle()
        plant.pub(version, topic, "-q", "1", "-r", "-n", payload="")
    plant.settle()


def many_lines(plant, version, qos):
    lines = [f'{{"line":{n}}}' for n in range(300)]
    plant.pub(version, "line/press7/lines", "-q", qos, "-l", payload="", lines=lines)
    plant.settle()


def killed_client_leaves_its_will(plant, version, qos):
    for retain in ([], ["--will-retain"]):
        will = ["--will-topic", "line/press7/alive", "--will-payload", "gone", "--will-qos", qos, *retain]
        child, _, _ = plant.sub(version, ["will/unused"], "%t|%p", *will)
        plant.owe("line/press7/alive", "gone")
        plant.stage.end(child, signal.SIGKILL)
        plant.settle()
    child, output, _ = plant.sub(version, ["line/press7/alive"], "%t|%r|%p")
    until("the retained will", lambda: "line/press7/alive|1|gone\n" in output.read_text())
    plant.stage.end(child)
    # A client that says DISCONNECT leaves none.
    plant.pub(version, "line/press7/alive", "-r", "-n", "-q", "1", "--will-topic", "line/press7/alive",
              "--will-payload", "gone", payload="")
    plant.settle()


V5 = ["-D", "publish", "content-type", "text/csv", "-D", "publish", "response-topic", "answers/1",
      "-D", "publish", "correlation-data", "c-17", "-D", "publish", "user-property", "site", "Plant 1",
      "-D", "publish", "user-property", "site", "twice", "-D", "publish", "message-expiry-interval", "60",
      "-D", "publish", "payload-format-indicator", "1", "-D", "connect", "user-property", "who", "me"]


def properties_of_version_5(plant):
    for qos in "012":
        plant.pub("mqttv5", "line/press7/v5", "-q", qos, *V5, "-m", "1;2", payload="1;2")
    plant.settle(ordered=False)


# Rows: mosquitto_sub

SUBSCRIPTIONS = [
    # name, filters, format, arguments of mosquitto_sub, publishes (topic, arguments, payload), lines it must print
    ("one level", ["s/+/temp"], "%t|%p", [],
     [("s/a/temp", [], "1"), ("s/a/b/temp", [], "2"), ("s/b/temp", [], "3"), ("s//temp", [], "4"), ("s/temp", [], "5")],
     ["s/a/temp|1", "s/b/temp|3", "s//temp|4"]),
    ("many levels, and their parent", ["s/#"], "%t|%p", [],
     [("s", [], "1"), ("s/a", [], "2"), ("s/a/b/", [], "3"), ("t/s", [], "4")],
     ["s|1", "s/a|2", "s/a/b/|3"]),
    ("everything but $ topics", ["#"], "%t|%p", [],
     [("$SYS/x", [], None), ("/s", [], "1"), ("s/Öfen/温度 1", [], "2")],
     ["/s|1", "s/Öfen/温度 1|2"]),
    ("two filters that both match", ["s/two", "s/+"], "%t|%p", ["-q", "1"], [("s/two", [], "1")], ["s/two|1"]),
    ("QoS 0 of a publish with 2", ["s/q"], "%t|%q|%p", ["-q", "0"], [("s/q", ["-q", "2"], "1")], ["s/q|0|1"]),
    ("QoS 1 of a publish with 2", ["s/q"], "%t|%q|%p", ["-q", "1"], [("s/q", ["-q", "2"], "1")], ["s/q|1|1"]),
    ("QoS 2 of a publish with 2", ["s/q"], "%t|%q|%p", ["-q", "2"], [("s/q", ["-q", "2"], "1")], ["s/q|2|1"]),
    ("QoS 2 of a publish with 1", ["s/q"], "%t|%q|%p", ["-q", "2"], [("s/q", ["-q", "1"], "1")], ["s/q|1|1"]),
    ("a retain flag is not passed on live", ["s/r"], "%t|%r|%p", [], [("s/r", ["-r"], "1"), ("s/r", ["-r", "-n"], "")],
     ["s/r|0|1", "s/r|0|"]),
    ("200 kB", ["s/big"], "%t|%l", ["-q", "1"], [("s/big", ["-f", "big"], BIG)], [f"s/big|{len(BIG)}"]),
]


def subscription(plant, version, filters, form, arguments, messages, lines):
    child, output, ready = plant.sub(version, filters, form, *arguments)
    for topic, options, payload in messages:
        shown = options if "-n" in options else [*options, "-m", payload or "-"]
        if "-f" in options:
            shown = ["-f", plant.stage.folder / "big"]
        plant.pub(version, topic, "-q", "1", *shown, payload=payload, owed=payload is not None)
    # When this one is there, all before it are.
    plant.pub(version, f"{ready}/end", "-q", "1", "-m", "end", payload="end", owed=False)
    got = lambda: [line for line in output.read_text().splitlines() if not line.startswith("ready/")]
    until(lambda: f"the subscriber's end, there is {got()}", lambda: f"{ready}/end|" in output.read_text())
    check("the subscriber's lines", got(), lines)
    check("its end", plant.stage.end(child), 0)
    plant.settle()


def retained_for_who_comes_later(plant, version):
    kept = {"r/a": "1", "r/b c": "2", "r/ü": "3"}
    for topic, payload in kept.items():
        plant.pub(version, topic, "-r", "-q", "1", "-m", payload, payload=payload)
    child, output, _ = plant.sub(version, ["r/+"], "%t|%r|%p")
    want = sorted(f"{topic}|1|{payload}" for topic, payload in kept.items())
    got = lambda: sorted(line for line in output.read_text().splitlines() if line.startswith("r/"))
    until(lambda: f"the retained messages {want}, there are {got()}", lambda: got() == want)
    plant.stage.end(child)
    for topic in kept:
        plant.pub(version, topic, "-r", "-n", "-q", "1", payload="")
    child, output, _ = plant.sub(version, ["r/+"], "%t|%r|%p")
    check("retained after they were cleared", [l for l in output.read_text().splitlines() if l.startswith("r/")], [])
    plant.stage.end(child)
    plant.settle()


def subscriber_sees_properties_of_version_5(plant):
    form = "%t|%C|%R|%D|%P|%E|%F|%p"
    child, output, _ = plant.sub("mqttv5", ["p/+"], form, "-q", "1", "-D", "subscribe", "user-property", "why", "test")
    plant.pub("mqttv5", "p/x", "-q", "1", "-r", *V5, "-m", "1;2", payload="1;2")
    want = r"p/x\|text/csv\|answers/1\|c-17\|site:Plant 1 site:twice\|(59|60)\|1\|1;2\n"
    until(lambda: f"the properties, there is {output.read_text()}", lambda: re.search(want, output.read_text()))
    plant.stage.end(child)
    # The same for who comes later, and a subscriber that knows no properties.
    child, output, _ = plant.sub("mqttv5", ["p/+"], form)
    until(lambda: f"the retained properties, there is {output.read_text()}", lambda: re.search(want, output.read_text()))
    plant.stage.end(child)
    child, output, _ = plant.sub("mqttv311", ["p/+"], "%t|%p")
    until("the payload in version 3.1.1", lambda: "p/x|1;2\n" in output.read_text())
    plant.stage.end(child)
    plant.pub("mqttv5", "p/x", "-r", "-n", "-q", "1", payload="")
    plant.settle()


# Rows: paho-mqtt


class Client:
    """A paho client, the same with 1.6 and 2.x."""

    def __init__(self, plant, version, name, threaded=True, will=None, keepalive=30):
        first = [paho.CallbackAPIVersion.VERSION1] if hasattr(paho, "CallbackAPIVersion") else []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.paho = paho.Client(*first, client_id=name, protocol=PAHO[version])
        self.got, self.subscribed, self.codes = [], [], []
        self.pongs = self.told_why = 0
        self.connected = False
        self.paho.on_connect = self.on_connect
        self.paho.on_disconnect = lambda client, data, code, *rest: self.codes.append(code)
        self.paho.on_message = lambda client, data, message: self.got.append((message.topic, message.payload))
        self.paho.on_subscribe = self.paho.on_unsubscribe = lambda client, data, mid, *rest: self.subscribed.append(mid)
        self.paho.on_log = self.on_log
        self.paho.max_inflight_messages_set(100)
        if will:
            self.paho.will_set(*will, qos=1)
        self.paho.connect("127.0.0.1", plant.port, keepalive)
        self.threaded = threaded
        if threaded:
            self.paho.loop_start()
        until(f"{name} is connected", lambda: self.turn() and self.connected)

    def on_connect(self, client, data, flags, code, *rest):
        self.connected = code == 0

    def on_log(self, client, data, level, text):
        self.pongs += text.startswith("Received PINGRESP")
        self.told_why += text.startswith("Received DISCONNECT")

    def turn(self):
        """One round of the loop, where no thread does it."""
        if not self.threaded:
            self.paho.loop(0.01)
        return True

    def acknowledged(self, mid):
        until("SUBACK or UNSUBACK", lambda: self.turn() and mid in self.subscribed)

    def end(self):
        self.paho.disconnect()
        if self.threaded:
            self.paho.loop_stop()


def pipelined(plant, version, qos):
    client = Client(plant, version, f"pipeline-{version}")
    sent = [client.paho.publish("line/paho/n", f'{{"n":{n}}}', qos) for n in range(2000)]
    for n in range(2000):
        plant.owe("line/paho/n", f'{{"n":{n}}}')
    for n, info in enumerate(sent):
        until(f"publish {n} is acknowledged", info.is_published)
    client.end()
    plant.settle()


def three_publishers_at_once(plant, version):
    clients = [Client(plant, version, f"at-once-{n}") for n in range(3)]
    begin, want = plant.done, {f"p{n}": [f'{{"n":{i}}}' for i in range(500)] for n in range(3)}
    infos = []
    for i in range(500):
        for n, client in enumerate(clients):
            infos.append(client.paho.publish(f"line/p{n}/x", f'{{"n":{i}}}', 1 + i % 2))
            plant.owe(f"line/p{n}/x", f'{{"n":{i}}}')
    for info in infos:
        until("all are acknowledged", info.is_published)
    for client in clients:
        client.end()
    until("all at the hub", lambda: len(plant.hub.received()) >= begin + 1500)
    got = collections.defaultdict(list)
    for message in plant.hub.received()[begin:]:
        got[message["properties"]["device"]].append(message["body"])
    check("each publisher's own order", dict(got), want)
    plant.settle(ordered=False)


def subscribe_and_unsubscribe(plant, version):
    listener, speaker = Client(plant, version, "listener"), Client(plant, version, "speaker")
    listener.acknowledged(listener.paho.subscribe([("u/+", 1), ("v", 2)])[1])

    def say(topic, payload):
        plant.owe(topic, payload)
        until("acknowledged", speaker.paho.publish(topic, payload, 1).is_published)

    say("u/1", "a")
    say("v", "b")
    until("both", lambda: len(listener.got) == 2)
    listener.acknowledged(listener.paho.unsubscribe("u/+")[1])
    say("u/1", "c")
    say("v", "d")
    until("the last", lambda: ("v", b"d") in listener.got)
    check("what the listener got", listener.got, [("u/1", b"a"), ("v", b"b"), ("v", b"d")])
    listener.end()
    speaker.end()
    plant.settle()


def cut_line_leaves_the_will(plant, version):
    client = Client(plant, version, "cut", threaded=False, will=("line/cut/alive", "gone"))
    plant.owe("line/cut/alive", "gone")
    client.paho.socket().shutdown(socket.SHUT_RDWR)
    plant.settle()


def the_second_with_an_id_takes_over(plant, version):
    first = Client(plant, version, "twin", threaded=False, will=("line/twin/alive", "gone"))
    plant.owe("line/twin/alive", "gone")
    second = Client(plant, version, "twin", threaded=False)
    until("the first is sent away", lambda: first.turn() and first.codes)
    # paho reads no reason code from a DISCONNECT without properties, so only that it came can be seen.
    check("DISCONNECT packets", first.told_why, 1 if version == "mqttv5" else 0)
    plant.owe("line/twin/x", "2")
    info = second.paho.publish("line/twin/x", "2", 1)
    until("the second publishes", lambda: second.turn() and info.is_published())
    second.end()
    plant.settle(ordered=False)


def pings_keep_it_alive(plant, version):
    client = Client(plant, version, "pings", keepalive=1, will=("line/pings/alive", "gone"))
    until("four pings answered", lambda: client.pongs >= 4)
    plant.owe("line/pings/x", "1")
    until("still alive", client.paho.publish("line/pings/x", "1", 1).is_published)
    check("ends", client.codes, [])
    client.end()
    plant.settle()


def silence_ends_it(plant, version):
    client = Client(plant, version, "silent", threaded=False, keepalive=1, will=("line/silent/alive", "gone"))
    plant.owe("line/silent/alive", "gone")
    line = client.paho.socket()
    until("the broker closes", lambda: select.select([line], [], [], 0)[0])
    plant.settle()


def paho_properties(plant):
    listener, speaker = Client(plant, "mqttv5", "listener-5"), Client(plant, "mqttv5", "speaker-5")
    seen = []
    listener.paho.on_message = lambda client, data, message: seen.append(message)
    properties = Properties(PacketTypes.SUBSCRIBE)
    properties.SubscriptionIdentifier = 268_435_455
    listener.acknowledged(listener.paho.subscribe("five/+", qos=2, properties=properties)[1])
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = [("ü", "°C"), ("", ""), ("ü", "again")]
    properties.CorrelationData = bytes(range(256))
    properties.ResponseTopic = "answer/ü"
    properties.ContentType = "application/x"
    plant.owe("five/x", b"\xff\x00")
    until("sent", speaker.paho.publish("five/x", b"\xff\x00", 2, properties=properties).is_published)
    until("it arrives", lambda: seen)
    got = seen[0].properties
    check("user properties", got.UserProperty, properties.UserProperty)
    check("correlation data", got.CorrelationData, properties.CorrelationData)
    check("response topic", got.ResponseTopic, "answer/ü")
    check("content type", got.ContentType, "application/x")
    check("subscription identifier", got.SubscriptionIdentifier, [268_435_455])
    listener.end()
    speaker.end()
    plant.settle()


# Rows: mqtt.js


def install_mqtt_js(plant):
    where = plant.stage.folder / "npm"
    where.mkdir()
    quiet = ["--no-audit", "--no-fund", "--loglevel=error", "--ignore-scripts"]
    plant.stage.run(["npm", "install", *quiet, "--prefix", where, "mqtt@5"], patience=180)


def mqtt_js(plant, version, websocket=False):
    script = pathlib.Path(__file__).with_name("mqttjs.mjs")
    if not (plant.stage.folder / "npm").exists():
        install_mqtt_js(plant)
    url = f"ws://127.0.0.1:{plant.bridge.websocket}/mqtt" if websocket else f"mqtt://127.0.0.1:{plant.port}"
    told = plant.stage.run(["node", script, plant.stage.folder / "npm", url, version], patience=60)
    for line in told.splitlines():
        sent = json.loads(line)
        plant.owe(sent["topic"], sent["payload"])
    check("publishes", len(plant.due) > 100, True)
    plant.settle(ordered=False)


# Rows: a Mosquitto that bridges to brownbridge


def dropped(plant):
    return plant.bridge.metric("messages_dropped_total", reason="system_topic")


def mosquitto_bridge(plant, name, settings, messages, notifies):
    """`messages` are publishes into Mosquitto, and the topic under which each reaches the broker."""
    before = begun = dropped(plant)
    upper = rig.Mosquitto(plant.stage, name, (
        f"allow_anonymous true\nconnection {name}\naddress 127.0.0.1:{plant.port}\n{settings}"))
    until("it gets a CONNACK", lambda: "Received CONNACK on connection local." in upper.said())
    if notifies:
        # The first CONNACK refused level 0x84; Mosquitto tries again after 5 to 30 seconds.
        until("its state is told on $SYS and dropped", lambda: dropped(plant) > before, patience=60)
    for topic, payload, arrives in messages:
        plant.owe(arrives, payload)
        plant.pub("mqttv311", topic, "-q", "1", "-m", payload, payload=payload, owed=False, port=upper.port)
    plant.settle()
    before = dropped(plant)
    if notifies:
        plant.stage.end(upper.process, signal.SIGKILL)
        until("its will is dropped", lambda: dropped(plant) > before)
    else:
        upper.down()
        check("publishes on $SYS", dropped(plant), begun)


def mosquitto_bridge_the_other_way(plant):
    """What the plant publishes comes down to a Mosquitto whose bridge asks for it."""
    lower = rig.Mosquitto(plant.stage, "other-way", (
        f"allow_anonymous true\nconnection other-way\naddress 127.0.0.1:{plant.port}\n"
        "try_private false\ntopic down/# in 1"))
    until("its subscription is acknowledged", lambda: "Received SUBACK" in lower.said())
    output = plant.stage.folder / "other-way.txt"
    with open(output, "wb") as file:
        argv = ["mosquitto_sub", "-h", "127.0.0.1", "-p", lower.port, "-q", "1", "-t", "down/#", "-F", "%t|%p"]
        child = plant.stage.start("other-way.sub", argv, file)
    until("a subscriber of that Mosquitto", lambda: re.search("Sending SUBACK to (?!local)", lower.said()))
    plant.pub("mqttv311", "down/Ö 1", "-q", "1", "-m", JSON, payload=JSON)
    until(lambda: f"the message, there is {output.read_text()!r}", lambda: output.read_text() == f"down/Ö 1|{JSON}\n")
    plant.settle()
    plant.stage.end(child)
    lower.down()


# Rows: metrics


def metrics_are_sound(plant):
    argv = ["promtool", "check", "metrics"]
    done = subprocess.run(argv, input=plant.bridge.get("/metrics").encode(), capture_output=True, timeout=60)
    told = (done.stdout + done.stderr).decode()
    check("promtool", (done.returncode, told), (0, ""))


def counted_and_balanced(plant):
    plant.bridge.drained()
    plant.bridge.check_conserved()
    check("delivered", plant.bridge.metric("messages_delivered_total"), len(plant.hub.received()))
    check("at the hub", len(plant.hub.received()), plant.done)
    for name in ("messages_quarantined_total", "messages_shed_total", "spool_lost_total", "uplink_reconnects_total",
                 "broker_deliveries_dropped_total", "broker_retained_dropped_total"):
        check(name, plant.bridge.metric(name), 0)


def ends_well(plant):
    check("exit code", plant.stage.end(plant.bridge.process), 0)
    check("panics and errors in the log", re.findall(r".*(?:panicked|ERROR).*", plant.bridge.said()), [])


def main():
    program, only = rig.arguments()
    rig.need("mosquitto", "mosquitto_pub", "mosquitto_sub", "node", "npm", "promtool")
    rows, plant = rig.Rows(only), Plant(rig.Stage(), program)
    run = lambda name, row, *arguments: rows.run(name, row, plant, *arguments)
    run("mqtt.js: npm install", install_mqtt_js)
    for version in VERSIONS:
        for qos in "012":
            for name, topic, arguments, payload in PUBLISHES:
                run(f"mosquitto_pub {version} QoS {qos}: {name}", publishes, version, qos, topic, arguments, payload)
            run(f"mosquitto_pub {version} QoS {qos}: 300 lines", many_lines, version, qos)
            run(f"mosquitto_sub {version} QoS {qos}: will", killed_client_leaves_its_will, version, qos)
        for name, *row in SUBSCRIPTIONS:
            run(f"mosquitto_sub {version}: {name}", subscription, version, *row)
        run(f"mosquitto_sub {version}: retained", retained_for_who_comes_later, version)
        for qos in (1, 2):
            run(f"paho {version}: 2000 publishes, 100 in flight, QoS {qos}", pipelined, version, qos)
        for row in (three_publishers_at_once, subscribe_and_unsubscribe, cut_line_leaves_the_will,
                    the_second_with_an_id_takes_over, pings_keep_it_alive, silence_ends_it):
            run(f"paho {version}: {row.__name__.replace('_', ' ')}", row, version)
        run(f"mqtt.js {version}", mqtt_js, version)
        run(f"mqtt.js {version} over WebSocket", mqtt_js, version, True)
    run("mosquitto_pub mqttv5: properties", properties_of_version_5)
    run("mosquitto_sub mqttv5: properties", subscriber_sees_properties_of_version_5)
    run("paho mqttv5: properties", paho_properties)
    run("mosquitto bridge, settings as they come", mosquitto_bridge, "plain",
        "topic line/# out 1\ntopic halle/# out 1",
        [("line/press7/temp", JSON, "line/press7/temp"), ("halle/Ö 1", "x", "halle/Ö 1")], True)
    bag = f"devices/{plant.hub.device}/messages/events/site=Plant%201&%24.ct=application%2Fjson"
    run("mosquitto bridge, classic settings for a hub", mosquitto_bridge, "classic",
        "try_private false\nnotifications false\nbridge_attempt_unsubscribe false\nbridge_protocol_version mqttv311\n"
        f'cleansession true\ntopic "" out 1 press7/temp {bag}',
        [("press7/temp", f'{{"n":{n}}}', bag) for n in range(5)], False)
    run("mosquitto bridge, the other way", mosquitto_bridge_the_other_way)
    run("promtool check metrics", metrics_are_sound)
    run("all counted, sums of /metrics", counted_and_balanced)
    run("the bridge ends by itself", ends_well)
    rows.finish()


main()
