#!/usr/bin/env python3
"""Node-RED's MQTT nodes against the broker: MQTT 3.1.1 and 5, over TCP and WebSocket, both ways.

    pip install paho-mqtt
    tests/interop/nodered.py [path of brownbridge, default $BROWNBRIDGE, then what cargo built] [--only TEXT]

A headless Node-RED runs one flow for each way in: an "mqtt in" node takes what is published to ask/<way>/+, a
function changes the topic to line/<way>/+, an "mqtt out" node publishes it again. So each message crosses the
broker twice, once in each direction, and ends at the simulated hub. Birth, close and will messages are set in the
broker's nodes as an integrator would. Node-RED is installed from npm into target/interop-node-red and stays there.
Exits 0 when all rows passed, 1 on a difference, 2 when it could not run.
"""

import json
import signal
import sys
import threading

sys.dont_write_bytecode = True
import rig
from rig import check, until

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
name = "not for the hub"
topic = "ask/#"
drop = true
"""
NODE_RED = rig.ROOT / "target" / "interop-node-red"
WAYS = ["tcp4", "tcp5", "ws4", "ws5"]
PAYLOADS = ['{"bar": 61.5}', "näh", "", "x" * 100_000]


def install():
    if (NODE_RED / "node_modules" / "node-red" / "red.js").exists():
        return
    NODE_RED.mkdir(parents=True, exist_ok=True)
    rig.Stage().run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "--ignore-scripts", "--prefix",
                     NODE_RED, "node-red@4"], patience=300)


def flow(way, bridge):
    """The nodes of one way in."""
    url = f"ws://127.0.0.1:{bridge.websocket}/mqtt" if way.startswith("ws") else "127.0.0.1"
    says = lambda name, payload: {f"{name}Topic": f"line/{way}/state", f"{name}Qos": "1", f"{name}Retain": "false",
                                  f"{name}Payload": payload, f"{name}Msg": {}}
    broker = {"id": f"{way}b", "type": "mqtt-broker", "name": way, "broker": url, "port": str(bridge.port),
              "clientid": f"node-red-{way}", "autoConnect": True, "usetls": False, "protocolVersion": way[-1],
              "keepalive": "60", "cleansession": True, "autoUnsubscribe": True, "userProps": "", "sessionExpiry": "",
              **says("birth", "born"), **says("close", "closed"), **says("will", "died")}
    listens = {"id": f"{way}i", "type": "mqtt in", "z": "tab", "topic": f"ask/{way}/+", "qos": "2", "broker": f"{way}b",
               "datatype": "buffer", "nl": False, "rap": True, "rh": 0, "inputs": 0, "wires": [[f"{way}f"]]}
    turns = {"id": f"{way}f", "type": "function", "z": "tab", "outputs": 1, "libs": [], "wires": [[f"{way}o"]],
             "func": "msg.topic = msg.topic.replace('ask/', 'line/'); delete msg.retain; return msg;"}
    speaks = {"id": f"{way}o", "type": "mqtt out", "z": "tab", "topic": "", "qos": "", "retain": "", "respTopic": "",
              "contentType": "", "userProps": "", "correl": "", "expiry": "", "broker": f"{way}b", "wires": []}
    return [broker, listens, turns, speaks]


class Floor:
    """Hub, bridge, Node-RED, and a listener on everything Node-RED says."""

    def __init__(self, stage, program):
        self.stage = stage
        self.hub = rig.Hub(stage, program)
        self.bridge = rig.Bridge(stage, program, self.hub.uplink(), RULES)
        self.heard, self.arrived = [], threading.Condition()
        self.client = self.connect()
        folder = stage.folder / "node-red"
        folder.mkdir()
        nodes = [{"id": "tab", "type": "tab", "label": "proof"}]
        nodes += [node for way in WAYS for node in flow(way, self.bridge)]
        (folder / "flows.json").write_text(json.dumps(nodes))
        (folder / "settings.js").write_text(
            f"module.exports = {{ flowFile: 'flows.json', uiHost: '127.0.0.1', uiPort: {rig.free_port()}, "
            "httpAdminRoot: false, telemetry: { enabled: false }, externalModules: { autoInstall: false } }\n")
        self.output = open(folder / "output.txt", "wb")
        self.node_red = stage.start("node-red", [
            "node", NODE_RED / "node_modules" / "node-red" / "red.js", "--userDir", folder], self.output)

    def connect(self):
        options = {"protocol": paho.MQTTv5}
        if hasattr(paho, "CallbackAPIVersion"):
            client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="proof", **options)
        else:
            client = paho.Client(client_id="proof", **options)
        ready = threading.Event()
        client.on_connect = lambda *_: client.subscribe("line/#", qos=2)
        client.on_subscribe = lambda *_: ready.set()
        client.on_message = self.on_message
        client.connect("127.0.0.1", self.bridge.port)
        client.loop_start()
        check("SUBACK", ready.wait(rig.PATIENCE), True)
        return client

    def on_message(self, _client, _userdata, message):
        with self.arrived:
            self.heard.append(message)
            self.arrived.notify_all()

    def on(self, topic):
        return [message for message in self.heard if message.topic == topic]

    def await_on(self, topic, count):
        with self.arrived:
            enough = self.arrived.wait_for(lambda: len(self.on(topic)) >= count, rig.PATIENCE)
        check(f"{count} messages on {topic}", enough, True)
        return self.on(topic)

    def at_hub(self, way, signal):
        wanted = {"device": way, "signal": signal}
        return [rig.body(message) for message in self.hub.received() if message["properties"] == wanted]


def born(floor, way):
    check("birth message", [message.payload for message in floor.await_on(f"line/{way}/state", 1)], [b"born"])


def there_and_back(floor, way):
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = [("shift", "früh")]
    for qos in (0, 1, 2):
        topic = f"line/{way}/q{qos}"
        for payload in PAYLOADS:
            floor.client.publish(f"ask/{way}/q{qos}", payload.encode(), qos, properties=properties)
        got = floor.await_on(topic, len(PAYLOADS))
        want = [payload.encode() for payload in PAYLOADS]
        check(f"QoS {qos}, payloads", [message.payload for message in got], want)
        check(f"QoS {qos}, as it came", {message.qos for message in got}, {qos})
        if way.endswith("5"):
            told = {tuple(getattr(message.properties, "UserProperty", [])) for message in got}
            check(f"QoS {qos}, user property", told, {(("shift", "früh"),)})
        until(lambda: f"{topic} at the hub", lambda: len(floor.at_hub(way, f"q{qos}")) >= len(PAYLOADS))
        check(f"QoS {qos}, at the hub", floor.at_hub(way, f"q{qos}"), want)


def a_thousand(floor, way):
    topic, count = f"line/{way}/many", 1000
    for number in range(count):
        floor.client.publish(f"ask/{way}/many", str(number), 1)
    got = [int(message.payload) for message in floor.await_on(topic, count)]
    check("in order, none twice", got, list(range(count)))


def killed(floor):
    floor.stage.end(floor.node_red, signal.SIGKILL)
    for way in WAYS:
        told = [message.payload for message in floor.await_on(f"line/{way}/state", 2)]
        check(f"{way}, birth and will", told, [b"born", b"died"])


def balanced(floor):
    floor.bridge.drained()
    floor.bridge.check_conserved()
    for name in ("messages_quarantined_total", "broker_deliveries_dropped_total"):
        check(name, floor.bridge.metric(name), 0)
    check("exit code", floor.stage.end(floor.bridge.process), 0)


def main():
    program, only = rig.arguments()
    rig.need("node", "npm")
    install()
    rows, floor = rig.Rows(only), Floor(rig.Stage(), program)
    for way in WAYS:
        for row in (born, there_and_back, a_thousand):
            rows.run(f"Node-RED {way}: {row.__name__.replace('_', ' ')}", row, floor, way)
    rows.run("Node-RED is killed: its wills", killed, floor)
    rows.run("all counted, sums of /metrics", balanced, floor)
    rows.finish()


main()
