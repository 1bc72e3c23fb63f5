#!/usr/bin/env python3
"""Microsoft's SDKs provision through `brownbridge sim --site`, and send to the hub they are told.

The simulator's provisioning service and the bridge's own client share the code of the dialogue, so an error in it
cancels out between them. These are the strangers: the Python SDK over MQTT and WebSocket, Node's over REST.

    pip install azure-iot-device==2.14.0
    tests/interop/provisioning.py [path of brownbridge, default $BROWNBRIDGE, then what cargo built] [--only TEXT]

The SDKs dial the ports 8883 and 443 of the names they are given. The simulator listens on a loopback address of its own
and one port, and on a second one for WebSocket alone; names below .example lead there. Node's packages are installed from npm into target/interop-azure-node.
Exits 0 when all rows passed, 1 on a difference, 2 when it could not run.
"""

import base64
import hashlib
import hmac
import json
import os
import pathlib
import socket
import sys

sys.dont_write_bytecode = True
import rig
from rig import check, until

try:
    from azure.iot.device import IoTHubDeviceClient, Message, ProvisioningDeviceClient, X509
except ImportError:
    rig.could_not_run("azure-iot-device is not there: python3 -m pip install azure-iot-device==2.14.0")

NODE = rig.ROOT / "target" / "interop-azure-node"
PACKAGES = ["azure-iot-provisioning-device@1.9.1", "azure-iot-provisioning-device-http@1.9.1",
            "azure-iot-security-symmetric-key@1.8.2", "azure-iot-security-x509@1.7.12", "azure-iot-device@1.18.4",
            "azure-iot-device-mqtt@1.16.4"]
ADDRESS = f"127.{os.getpid() >> 16 & 255}.{os.getpid() >> 8 & 255}.{os.getpid() & 254 | 1}"
WEB = 9443
DPS, SCOPE = "dps.example", "0ne00000A0A"
KEY = base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
PLAN = f"""
scope = "{SCOPE}"
host = "{DPS}"
assigning = 2
retry_after = 1
[[hub]]
host = "hub-a.example"
[[hub]]
host = "hub-b.example"
[[enrolment]]
id = "press-4"
key_file = "key"
device = "plant-1:press-4"
[[enrolment]]
group = "line-1"
key_file = "key"
hub = "hub-b.example"
[[enrolment]]
id = "press-6"
x509 = true
hub = "hub-b.example"
[[enrolment]]
id = "off"
key_file = "key"
disabled = true
"""


def derived(group, registration):
    digest = hmac.new(base64.b64decode(group), registration.encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


class Site:
    def __init__(self, stage, program):
        self.dir = stage.folder / "site"
        self.dir.mkdir()
        (self.dir / "key").write_text(KEY)
        (self.dir / "site.toml").write_text(PLAN)
        self.output = self.dir / "received.jsonl"
        with open(self.output, "wb") as output:
            stage.start("sim", [program, "sim", "--site", self.dir / "site.toml", "--listen", f"{ADDRESS}:8883",
                                "--websocket", f"{ADDRESS}:{WEB}", "--dir", self.dir], output)
        until("the simulator listens", lambda: "id_scope = " in stage.said("sim"))
        self.ca = (self.dir / "ca.pem").read_text()
        self.seen = 0

    def next(self):
        """The next message that any of the hubs got."""
        def look():
            lines = self.output.read_bytes().split(b"\n")[:-1]
            return lines[self.seen] if len(lines) > self.seen else None
        message = json.loads(until("a message arrives", look))
        self.seen += 1
        return message


def python_row(site, registration, proof, hub, device, payload=None, websockets=False):
    trust = {"server_verification_cert": site.ca, "websockets": websockets}
    certificate = X509(f"{site.dir}/{registration}.pem", f"{site.dir}/{registration}.key")
    if proof is None:
        client = ProvisioningDeviceClient.create_from_x509_certificate(
            provisioning_host=DPS, registration_id=registration, id_scope=SCOPE, x509=certificate, **trust)
    else:
        client = ProvisioningDeviceClient.create_from_symmetric_key(
            provisioning_host=DPS, registration_id=registration, id_scope=SCOPE, symmetric_key=proof, **trust)
    if payload is not None:
        client.provisioning_payload = payload
    result = client.register()
    check("status", result.status, "assigned")
    state = result.registration_state
    check("hub and device", (state.assigned_hub, state.device_id), (hub, device))
    check("substatus", state.sub_status, "initialAssignment")
    check("payload", json.loads(str(state.response_payload)) if payload else None, payload)
    if proof is None:
        sender = IoTHubDeviceClient.create_from_x509_certificate(
            hostname=state.assigned_hub, device_id=state.device_id, x509=certificate, **trust)
    else:
        sender = IoTHubDeviceClient.create_from_symmetric_key(
            symmetric_key=proof, hostname=state.assigned_hub, device_id=state.device_id, **trust)
    sender.connect()
    sender.send_message(Message(f"from {registration}"))
    arrived(site, hub, device, f"from {registration}")
    sender.shutdown()


def arrived(site, hub, device, body):
    got = site.next()
    check("arrived", (got["hub"], got["device"], got["body"]), (hub, device, body))


def python_refused(site, registration, proof):
    client = ProvisioningDeviceClient.create_from_symmetric_key(
        provisioning_host=DPS, registration_id=registration, id_scope=SCOPE, symmetric_key=proof,
        server_verification_cert=site.ca)
    try:
        result = client.register()
    except Exception:
        return
    check("status", result.status, "disabled")


def node_row(site, stage, registration, proof, hub, device):
    install()
    script = pathlib.Path(__file__).with_name("provisioning.cjs")
    said = stage.run(["node", script, NODE, ADDRESS, DPS, SCOPE, registration, proof or "", site.dir], patience=60,
                     env={**os.environ, "NODE_EXTRA_CA_CERTS": str(site.dir / "ca.pem")})
    check("hub and device", json.loads(said.splitlines()[-1]), {"hub": hub, "device": device})
    arrived(site, hub, device, f"from {registration}")


def install():
    if (NODE / "node_modules" / "azure-iot-provisioning-device-http").exists():
        return
    NODE.mkdir(parents=True, exist_ok=True)
    rig.Stage().run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "--ignore-scripts", "--prefix",
                     NODE, *PACKAGES], patience=300)


def main():
    rig.need("node", "npm")
    program, only = rig.arguments()
    resolve = socket.getaddrinfo
    socket.getaddrinfo = lambda host, port, *rest, **named: resolve(
        *(ADDRESS, WEB if port == 443 else port) if str(host).endswith(".example") else (host, port), *rest, **named)
    stage = rig.Stage()
    site = Site(stage, program)
    rows = [
        ("Python, a key of its own", lambda: python_row(site, "press-4", KEY, "hub-a.example", "plant-1:press-4")),
        ("Python, a payload", lambda: python_row(site, "press-4", KEY, "hub-a.example", "plant-1:press-4", {"site": "Plant 1"})),
        ("Python, the key of a group",
         lambda: python_row(site, "press-5", derived(KEY, "press-5"), "hub-b.example", "press-5")),
        ("Python, a certificate", lambda: python_row(site, "press-6", None, "hub-b.example", "press-6")),
        ("Python by WebSocket, a key",
         lambda: python_row(site, "press-4", KEY, "hub-a.example", "plant-1:press-4", websockets=True)),
        ("Python by WebSocket, a certificate",
         lambda: python_row(site, "press-6", None, "hub-b.example", "press-6", websockets=True)),
        ("Python, disabled", lambda: python_refused(site, "off", KEY)),
        ("Python, a wrong key", lambda: python_refused(site, "press-4", derived(KEY, "x"))),
        ("Node over REST, a key of its own", lambda: node_row(site, stage, "press-4", KEY, "hub-a.example", "plant-1:press-4")),
        ("Node over REST, the key of a group",
         lambda: node_row(site, stage, "press-9", derived(KEY, "press-9"), "hub-b.example", "press-9")),
        ("Node over REST, a certificate", lambda: node_row(site, stage, "press-6", None, "hub-b.example", "press-6")),
    ]
    passed = 0
    for name, row in rows:
        if only not in name:
            continue
        try:
            row()
        except Exception as error:
            print(f"error: {name}: {type(error).__name__}: {error}\n{stage.said('sim')[-3000:]}", file=sys.stderr)
            print(f"{passed} passed, 1 failed", flush=True)
            stage.close()
            # The SDK's threads are not daemons: they would keep a failed run alive.
            sys.stderr.flush()
            os._exit(1)
        passed += 1
        print(f"{name}: ok", flush=True)
    print(f"{passed} passed, 0 failed", flush=True)
    stage.close()
    # The SDK does not disconnect a client that was refused, and complains of the end of the line.
    os._exit(0)


main()
