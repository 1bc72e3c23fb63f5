#!/usr/bin/env python3
"""The way down by strangers: Microsoft's service SDK, `brownbridge sim`, `brownbridge run`, mosquitto_sub and _pub.

A service calls a method and sends messages; a "device" that knows nothing of a cloud (mosquitto_sub prints what it
hears, mosquitto_pub answers) carries them out, and the service gets its answer.

    pip install azure-iot-hub==2.7.0 six
    tests/interop/commands.py [path of brownbridge] [--only TEXT]
"""

import json
import os
import re
import threading

from rig import Bridge, Hub, Rows, Stage, arguments, check, need, until

import requests
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.iothub_http_runtime_manager import IoTHubHttpRuntimeManager
from azure.iot.hub.models import CloudToDeviceMethod, Twin, TwinProperties
from azure.iot.hub.sastoken import SasToken

RULES = """
[[command]]
method   = "set speed"
decode   = "json"
topic    = "plant/{.machine}/speed/{id}"
payload  = "{.rpm}"
response = { topic = "plant/answers/{id}", within = "20s", status = ".code" }

[[command]]
name    = "lamp"
props   = { kind = "lamp", colour = "{colour}" }
topic   = "plant/{device}/lamp"
payload = "{colour}"
retain  = true

[[command]]
name  = "careful"
props = { kind = "careful" }
topic = "plant/{device}/do"
ack   = { topic = "plant/{device}/done", within = "20s" }

[[command]]
name  = "stroke"
props = { kind = "stroke" }
topic = "plant/{device}/stroke"
once  = true
ack   = { topic = "plant/{device}/struck", within = "20s" }

[[desired]]
name        = "speed"
device      = "press-{nr}"
at          = "motor"
topic       = "plant/press{nr}/set/{path}"
acknowledge = true

[[rule]]
name   = "state"
topic  = "state/{machine}/{part}"
device = "{machine}"
to     = "reported"
at     = "parts.{part}"
every  = "100ms"
"""


class World:
    def __init__(self, stage, program):
        self.stage = stage
        self.hub = Hub(stage, program)
        os.environ["REQUESTS_CA_BUNDLE"] = f"{self.hub.dir}/ca.pem"
        self.service_string = re.search(r'# service: "(.*)"', until(
            "the simulator names its service", lambda: re.search(r"# service: .*\n", stage.said("sim")))[0])[1]
        self.service = IoTHubRegistryManager.from_connection_string(self.service_string)
        commands = self.hub.uplink() + '[commands]\nenabled = true\nallow = { "*" = ["plant/#"] }\n'
        self.feedback = IoTHubHttpRuntimeManager.from_connection_string(self.service_string)
        self.bridge = Bridge(stage, program, commands, RULES)
        until("the uplink is up", lambda: self.bridge.metric("uplink_connected") == 1)
        self.heard = stage.folder / "heard"
        with open(self.heard, "wb") as output:
            stage.start("sub", ["stdbuf", "-oL", "mosquitto_sub", "-p", self.bridge.port, "-t", "plant/#", "-F", "%t %r %p", "-d"], output)
        until("mosquitto_sub is subscribed", lambda: "Subscribed" in self.heard.read_text())

    def hears(self, pattern):
        found = until(f"a publish like {pattern}", lambda: re.findall(f"^{pattern}$", self.heard.read_text(), re.M))
        return found[-1]

    def says(self, topic, payload):
        self.stage.run(["mosquitto_pub", "-p", self.bridge.port, "-q", "1", "-t", topic, "-m", payload])

    def send(self, headers, body):
        parts = dict(part.split("=", 1) for part in self.service_string.split(";"))
        token = str(SasToken(parts["HostName"], parts["SharedAccessKey"], parts["SharedAccessKeyName"]))
        url = (f"https://localhost:{self.hub.port}/devices/{self.hub.device}/messages/devicebound"
               "?api-version=2021-04-12")
        sent = requests.post(url, data=body, headers={"Authorization": token, **headers}, timeout=10)
        check("the message is taken", sent.status_code, 204)

    def told(self, message):
        """What the service hears of a message: the SDK asks for the records, and says that it has them."""
        def record():
            answer = self.feedback.protocol.cloud_to_device_messages.receive_feedback_notification(raw=True).response
            if answer.status_code == 204:
                return None
            self.feedback.complete_feedback_notification(answer.headers["ETag"].strip('"'))
            return next((one["statusCode"] for one in answer.json() if one["originalMessageId"] == message), None)
        return until(f"feedback about {message}", record)

    def call(self, method, payload):
        return self.service.invoke_device_method(self.hub.device, CloudToDeviceMethod(
            method_name=method, payload=payload, response_timeout_in_seconds=30, connect_timeout_in_seconds=5))


def method(world):
    answers = []
    call = threading.Thread(
        target=lambda: answers.append(world.call("set speed", {"machine": "press7", "rpm": 1450})), daemon=True)
    call.start()
    id = world.hears(r"plant/press7/speed/(\S+) 0 1450")
    world.says(f"plant/answers/{id}", '{"code": 202, "was": 1200}')
    call.join(30)
    check("the answer", (answers[0].status, answers[0].payload), (202, {"code": 202, "was": 1200}))


def own_method(world):
    check("ping", world.call("ping", None).status, 200)
    check("no such method", world.call("format disk", {}).status, 404)
    shown = world.call("get-config", None).payload["bridge.toml"]
    check("no secret", "SharedAccessKey=*" in shown, True)


def message(world):
    headers = {"iothub-app-kind": "lamp", "iothub-app-colour": "red", "iothub-app-device": "press7"}
    world.send({**headers, "iothub-messageid": "m-1"}, b"")
    world.hears("plant/press7/lamp 0 red")
    late = world.stage.run(["mosquitto_sub", "-p", world.bridge.port, "-t", "plant/+/lamp", "-C", "1", "-F", "%r %p"])
    check("it is retained", late.strip(), "1 red")


def careful(world):
    world.send({"iothub-app-kind": "careful", "iothub-app-device": "press8", "iothub-messageid": "m-2"}, b"go")
    world.hears("plant/press8/do 0 go")
    check("acknowledged before the answer", world.bridge.metric("commands_total", outcome="acknowledged"), 0.0)
    world.says("plant/press8/done", "")
    until("it is acknowledged", lambda: world.bridge.metric("commands_total", outcome="acknowledged") == 1)
    check("nothing waits", world.bridge.metric("commands_waiting"), 0.0)
    lines = (world.stage.folder / "bridge.d/state/commands.jsonl").read_text().splitlines()
    check("audit", [json.loads(line)["outcome"] for line in lines[-2:]], ["published", "acknowledged"])


def feedback(world):
    headers = {"iothub-app-kind": "stroke", "iothub-app-device": "press8", "iothub-ack": "full"}
    world.send({**headers, "iothub-messageid": "m-3"}, b"down")
    world.hears("plant/press8/stroke 0 down")
    world.says("plant/press8/struck", "")
    check("of what was done", world.told("m-3"), "Success")
    late = {**headers, "iothub-messageid": "m-4", "iothub-expiry": "2020-01-01T00:00:00Z"}
    world.send(late, b"too late")
    check("of what has expired", world.told("m-4"), "Expired")
    lines = (world.stage.folder / "bridge.d/state/commands.jsonl").read_text().splitlines()
    check("audit", [json.loads(line)["outcome"] for line in lines[-3:]], ["begun", "published", "acknowledged"])
    world.service.protocol.cloud_to_device_messages.purge_cloud_to_device_message_queue(world.hub.device)


def desired(world):
    def patch(properties):
        twin = Twin(properties=TwinProperties(desired={"devices": {"press-9": properties}}))
        return world.service.update_twin(world.hub.device, twin, "*").properties.desired["$version"]

    version = patch({"motor": {"speed": 12.5, "mode": "auto"}})
    world.hears(r"plant/press9/set/speed [01] 12\.5")
    world.hears(r"plant/press9/set/mode [01] auto")
    late = world.stage.run(
        ["mosquitto_sub", "-p", world.bridge.port, "-t", "plant/press9/set/speed", "-C", "1", "-F", "%r %p"])
    check("it is retained", late.strip(), "1 12.5")

    def answered():
        reported = world.service.get_twin(world.hub.device).properties.reported
        return reported.get("devices", {}).get("press-9", {}).get("motor", {}).get("speed")
    expect = {"value": 12.5, "ac": 200, "av": version, "ad": "published"}
    until("the value is acknowledged", lambda: answered() == expect)
    patch({"motor": {"mode": None}})
    world.hears(r"plant/press9/set/mode 0 ")


def reported(world):
    def state():
        reported = world.service.get_twin(world.hub.device).properties.reported
        return reported.get("devices", {}).get("press%2E9", {})
    world.says("state/press.9/door", '{"open": true, "since": "10:30"}')
    until("the state is reported", lambda: state().get("parts") == {"door": {"open": True, "since": "10:30"}})
    world.says("state/press.9/door", '{"since": null}')
    until("null removes", lambda: state().get("parts") == {"door": {"open": True}})


def main():
    program, only = arguments()
    need("mosquitto_pub", "mosquitto_sub")
    stage, rows = Stage(), Rows(only)
    world = World(stage, program)
    rows.run("a method from the service SDK to mosquitto and back", method, world)
    rows.run("methods of the bridge itself", own_method, world)
    rows.run("a message becomes a retained publish", message, world)
    rows.run("a message is complete with the device's answer", careful, world)
    rows.run("a service hears what became of its messages", feedback, world)
    rows.run("desired properties from the service SDK to retained publishes, and their acknowledgement", desired, world)
    rows.run("a publish of mosquitto_pub becomes a reported property", reported, world)
    rows.finish()


main()
