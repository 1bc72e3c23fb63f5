#!/usr/bin/env python3
"""Microsoft's device SDK and service SDK against `brownbridge sim`.

The simulator and the uplink share the code that writes and reads topics, bags and tokens, so an error
in it cancels out between them. This is the stranger: what the SDK sent must be what the simulator shows.

    pip install azure-iot-device==2.14.0 azure-iot-hub==2.7.0 six
    tests/interop/azure_sdk.py [path of brownbridge, default target/debug/brownbridge]

The SDK dials port 8883, or 443 for WebSocket, and no other. So that nobody else's 127.0.0.1:8883 is in the way, the
simulator listens on a loopback address of its own, and this script lets `localhost` and both ports lead there.
Exits 0 when all is equal, else 1.
"""

import base64
import json
import os
import pathlib
import queue
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import requests
from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient, Message, MethodResponse, X509
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod, Twin, TwinProperties
from azure.iot.hub.sastoken import SasToken

SENT = [
    # body, system properties as the SDK names them, application properties
    (b"plain", {}, {}),
    (b"", {}, {"only": "properties"}),
    (b'{"v":21.5}', {"content_type": "application/json", "content_encoding": "utf-8"}, {"site": "Plant 1"}),
    ("Temperatur 21 °C".encode(), {"message_id": "m-1", "correlation_id": "c/1", "user_id": "line1/plc 7"}, {}),
    (b"x", {"expiry_time_utc": "2030-01-02T03:04:05Z"}, {"topic": "a/b//c", "empty": "", "ampersand": "a&b=c&"}),
    (b"x", {}, {"ü": "°C", "emoji": "\U0001f3ed", "plus": "1+1", "percent": "100%25", "space ": " a b "}),
    (b"x", {}, {"marks": "!*'();:@=+$,/?#[]\"<>\\^`{|}~-._", "nul-ish": "\x01\t\n"}),
    (bytes(range(256)), {"content_type": "application/octet-stream"}, {"binary": "1"}),
    (b"y" * 250_000, {}, {"big": "1"}),
]
WIRE = {
    "content_type": "content-type",
    "content_encoding": "content-encoding",
    "message_id": "message-id",
    "correlation_id": "correlation-id",
    "user_id": "user-id",
    "expiry_time_utc": "absolute-expiry",
}
ADDRESS = f"127.{os.getpid() >> 16 & 255}.{os.getpid() >> 8 & 255}.{os.getpid() & 254 | 1}"
WEB = 9443
PASSED = []
STAMPS = {"iothub-connection-device-id", "iothub-connection-module-id", "iothub-connection-auth-method",
          "iothub-enqueuedtime", "iothub-message-source"}


class Sim:
    running = []

    def __init__(self, binary, folder, *arguments):
        self.process = subprocess.Popen(
            [binary, "sim", "--listen", f"{ADDRESS}:8883", "--dir", folder, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8")
        Sim.running.append(self.process)
        self.lines, self.said = queue.Queue(), queue.Queue()
        threading.Thread(target=lambda: [self.lines.put(l) for l in self.process.stdout], daemon=True).start()
        threading.Thread(target=lambda: [self.said.put(l) for l in self.process.stderr], daemon=True).start()
        self.told = ""
        self.wait_for("address = ", times=1)
        self.connection_string = re.search(r'connection_string = "(.*)"', self.told)[1]
        self.wait_for("# service: ", times=1)
        self.service = re.search(r'# service: "(.*)"', self.told)[1]

    def wait_for(self, text, times):
        end = time.monotonic() + 20
        while self.told.count(text) < times:
            try:
                self.told += self.said.get(timeout=max(0, end - time.monotonic()))
            except queue.Empty:
                fail(f"{text!r} was not said {times} times: {self.told}")

    def next(self):
        try:
            return json.loads(self.lines.get(timeout=10))
        except queue.Empty:
            fail("a message did not arrive")

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        if (code := self.process.wait(10)) != 0:
            fail(f"the simulator ended with {code}")


def passed(text):
    PASSED.append(text)
    print(text, flush=True)


def fail(text):
    print(f"error: {text}", file=sys.stderr)
    print(f"{len(PASSED)} passed, 1 failed", flush=True)
    for process in Sim.running:
        process.kill()
    # The SDK's threads are not daemons: they would keep a failed run alive.
    sys.stderr.flush()
    os._exit(1)


def compare(what, got, want):
    if got != want:
        fail(f"{what}:\n  sent    {want!r}\n  arrived {got!r}")


def exchange(sim, client, name, module=None, kind="sas", how=""):
    client.connect()
    for number, (body, system, properties) in enumerate(SENT):
        message = Message(body)
        for key, value in system.items():
            setattr(message, key, value)
        message.custom_properties = dict(properties)
        client.send_message(message)
        got = sim.next()
        where = f"{name}, message {number}"
        arrived = got["body"].encode() if "body" in got else base64.b64decode(got["body_base64"])
        compare(f"{where}, body", arrived, body)
        compare(f"{where}, device", (got["device"], got.get("module")), (client_device(name), module))
        compare(f"{where}, properties", got["properties"], {k: v or None for k, v in properties.items()})
        shown = {k: v for k, v in got["system"].items() if k not in STAMPS}
        compare(f"{where}, system", shown, {WIRE[k]: v for k, v in system.items()})
        auth = json.loads(got["system"]["iothub-connection-auth-method"])
        compare(f"{where}, stamp", auth["type"], "sas" if kind == "sas" else "x509Certificate")
    if module is None:
        twin = client.get_twin()
        compare(f"{name}, twin", set(twin), {"desired", "reported"})
        client.patch_twin_reported_properties({"seen": True})
    client.shutdown()
    passed(f"{name}{how}: {len(SENT)} messages equal")


def way_back(sim, client, name):
    """What the service SDK does arrives at the device SDK, and its answers come back."""
    service = IoTHubRegistryManager.from_connection_string(sim.service)
    patches, commands = queue.Queue(), queue.Queue()

    def answer(request):
        given = request.payload
        status, payload = {
            "add": lambda: (200, {"sum": sum(given["of"])}),
            "echo": lambda: (201, given),
            "nothing": lambda: (204, None),
        }.get(request.name, lambda: (404, {"unknown": request.name}))()
        client.send_method_response(MethodResponse.create_from_method_request(request, status, payload))

    client.on_twin_desired_properties_patch_received = patches.put
    client.on_method_request_received = answer
    client.on_message_received = commands.put
    client.connect()
    compare("desired, at first", patches.get(timeout=10), {"$version": 1})  # The SDK asks for the twin by itself.

    changed = service.update_twin(name, Twin(properties=TwinProperties(desired={"every": "5m", "ünï": [1, None]})), "*")
    compare("desired, as the service has it", changed.properties.desired["every"], "5m")
    patch = patches.get(timeout=10)
    compare("desired, as the device is told", patch, {"every": "5m", "ünï": [1, None], "$version": patch["$version"]})
    service.update_twin(name, Twin(properties=TwinProperties(desired={"every": None})), changed.etag)
    compare("removed", patches.get(timeout=10)["every"], None)
    client.patch_twin_reported_properties({"state": {"on": True, "rpm": 1450.5}, "gone": None})
    reported = service.get_twin(name).properties.reported
    compare("reported", reported["state"], {"on": True, "rpm": 1450.5})
    twin = client.get_twin()
    compare("twin of the device", (twin["desired"]["$version"], twin["reported"]["state"]["on"]), (3, True))
    try:
        client.patch_twin_reported_properties({"no.dots": 1})
    except Exception as error:
        passed(f"{name}: a bad patch is refused ({type(error).__name__})")
    else:
        fail("a bad patch was taken")
    passed(f"{name}: twin equal from both sides")

    for method, payload, want in [
        ("add", {"of": [1, 2, 3]}, (200, {"sum": 6})),
        ("echo", ["ü", {"a": None}, 1.5], (201, ["ü", {"a": None}, 1.5])),
        ("nothing", None, (204, None)),
        ("no such thing", {}, (404, {"unknown": "no such thing"})),
    ]:
        called = service.invoke_device_method(name, CloudToDeviceMethod(
            method_name=method, payload=payload, response_timeout_in_seconds=10, connect_timeout_in_seconds=5))
        compare(f"method {method}", (called.status, called.payload), want)
    passed(f"{name}: 4 methods answered")

    # The SDK sends these over AMQP; the simulator takes them in the form of the hub's own HTTPS side.
    parts = dict(part.split("=", 1) for part in sim.service.split(";"))
    url = f"https://{parts['HostName']}/devices/{name}/messages/devicebound?api-version=2021-04-12"
    token = str(SasToken(parts["HostName"], parts["SharedAccessKey"], parts["SharedAccessKeyName"]))
    for number, (body, headers, want) in enumerate([
        (b"plain", {}, {}),
        ("{\"°C\":21}".encode(), {"iothub-messageid": "m/1", "iothub-correlationid": "c 1", "iothub-ack": "full",
                                  "iothub-contenttype": "application/json", "iothub-contentencoding": "utf-8"},
         {"message_id": "m/1", "correlation_id": "c 1", "ack": "full", "content_type": "application/json",
          "content_encoding": "utf-8"}),
        (b"", {"iothub-app-site": "a&b=c", "iothub-app-plus": "1+1"}, {"custom_properties": {"site": "a&b=c", "plus": "1+1"}}),
    ]):
        sent = requests.post(url, data=body, headers={"Authorization": token, **headers}, timeout=10)
        compare(f"command {number} sent", sent.status_code, 204)
        got = commands.get(timeout=10)
        compare(f"command {number}, body", got.data, body)
        for key, value in want.items():
            compare(f"command {number}, {key}", getattr(got, key), value)
    client.shutdown()
    try:
        service.invoke_device_method(name, CloudToDeviceMethod(method_name="add", payload={}))
    except Exception as error:
        compare("offline", error.response.status_code, 404)
    else:
        fail("a method of a device that is gone was answered")
    passed(f"{name}: 3 commands equal, offline told")


def client_device(name):
    return name.split("/")[0]


def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else "target/debug/brownbridge"
    resolve = socket.getaddrinfo
    socket.getaddrinfo = lambda host, port, *rest, **named: resolve(
        *(ADDRESS, WEB if port == 443 else port) if host == "localhost" else (host, port), *rest, **named)
    with tempfile.TemporaryDirectory() as folder:
        ca = lambda: pathlib.Path(folder, "ca.pem").read_text()
        sim = Sim(binary, folder, "--device", "dev-01")
        client = IoTHubDeviceClient.create_from_connection_string(
            sim.connection_string, server_verification_cert=ca(), product_info="plant 7 (line&1)")
        exchange(sim, client, "dev-01")
        sim.stop()

        sim = Sim(binary, folder, "--device", "dev-01/mod-01")
        client = IoTHubModuleClient.create_from_connection_string(
            sim.connection_string, server_verification_cert=ca())
        exchange(sim, client, "dev-01/mod-01", module="mod-01")
        sim.stop()

        sim = Sim(binary, folder, "--x509", "x509-dev")
        client = IoTHubDeviceClient.create_from_x509_certificate(
            hostname="localhost", device_id="x509-dev", server_verification_cert=ca(),
            x509=X509(f"{folder}/x509-dev.pem", f"{folder}/x509-dev.key"))
        exchange(sim, client, "x509-dev", kind="x509")
        sim.stop()

        # In a WebSocket on 443: here a port that takes nothing else.
        web = ["--websocket", f"{ADDRESS}:{WEB}"]
        for kind, device, module in [(IoTHubDeviceClient, "ws-01", None), (IoTHubModuleClient, "ws-01/mod-01", "mod-01")]:
            sim = Sim(binary, folder, "--device", device, *web)
            client = kind.create_from_connection_string(
                sim.connection_string, server_verification_cert=ca(), websockets=True)
            exchange(sim, client, device, module=module, how=", WebSocket")
            sim.stop()
        sim = Sim(binary, folder, "--x509", "ws-x509", *web)
        client = IoTHubDeviceClient.create_from_x509_certificate(
            hostname="localhost", device_id="ws-x509", server_verification_cert=ca(), websockets=True,
            x509=X509(f"{folder}/ws-x509.pem", f"{folder}/ws-x509.key"))
        exchange(sim, client, "ws-x509", kind="x509", how=", WebSocket")
        sim.stop()

        sim = Sim(binary, folder, "--edge", "--device", "leaf-01")
        client = IoTHubDeviceClient.create_from_connection_string(
            sim.connection_string, server_verification_cert=ca())
        exchange(sim, client, "leaf-01")
        sim.stop()

        # The SDK renews its token 120 s before the end by a new connection, and does not subscribe again:
        # the simulator must have kept the subscription, and take the new connection for the old.
        sim = Sim(binary, folder, "--device", "dev-01")
        client = IoTHubDeviceClient.create_from_connection_string(
            sim.connection_string, server_verification_cert=ca(), sastoken_ttl=122)
        client.on_message_received = lambda message: None
        client.connect()
        sim.wait_for(" identity=dev-01", times=2)
        client.send_message(Message(b"renewed"))
        compare("after renewal", sim.next()["body"], "renewed")
        client.shutdown()
        sim.stop()
        passed("token renewed")

        sim = Sim(binary, folder, "--device", "dev-01")
        os.environ["REQUESTS_CA_BUNDLE"] = f"{folder}/ca.pem"
        client = IoTHubDeviceClient.create_from_connection_string(sim.connection_string, server_verification_cert=ca())
        way_back(sim, client, "dev-01")
        sim.stop()

        # The stranger must be refused too, or the above proves nothing about tokens.
        sim = Sim(binary, folder, "--device", "dev-01")
        wrong = re.sub(r"SharedAccessKey=[^;]*", "SharedAccessKey=" + base64.b64encode(b"k" * 32).decode(),
                       sim.connection_string)
        client = IoTHubDeviceClient.create_from_connection_string(
            wrong, server_verification_cert=ca(), connection_retry=False)
        try:
            client.connect()
        except Exception as e:
            passed(f"wrong key: refused ({type(e).__name__})")
        else:
            fail("a wrong key was let in")
        client.shutdown()
        sim.stop()
    print(f"{len(PASSED)} passed, 0 failed")


main()
