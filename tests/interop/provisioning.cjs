// Provisions with Microsoft's Node SDK over REST, sends one message to the hub it is told, prints hub and device.
//
//   node provisioning.cjs <folder of node_modules> <address> <host> <scope> <registration id> <key, or ""> <folder>
//
// Started by provisioning.py. Without a key the certificate <registration id>.pem in the last folder proves the device.
"use strict";

const dns = require("dns");
const fs = require("fs");
const https = require("https");
const path = require("path");

const [folder, address, host, scope, registration, key, dir] = process.argv.slice(2);
const need = require("module").createRequire(path.join(folder, "package.json"));

// Names below .example, and the port of HTTPS, lead to the simulator.
const lookup = dns.lookup;
dns.lookup = (name, options, done) => lookup(name.endsWith(".example") ? address : name, options, done);
const request = https.request;
https.request = (options, done) => request({ ...options, port: 8883 }, done);

const { ProvisioningDeviceClient } = need("azure-iot-provisioning-device");
const { Http } = need("azure-iot-provisioning-device-http");
const { SymmetricKeySecurityClient } = need("azure-iot-security-symmetric-key");
const { X509Security } = need("azure-iot-security-x509");
const { Client, Message } = need("azure-iot-device");
const { Mqtt } = need("azure-iot-device-mqtt");

const read = (kind) => fs.readFileSync(path.join(dir, `${registration}.${kind}`), "utf8");
const certificate = key ? null : { cert: read("pem"), key: read("key") };
const security = key
    ? new SymmetricKeySecurityClient(registration, key)
    : new X509Security(registration, certificate);

async function main() {
    const client = ProvisioningDeviceClient.create(host, scope, new Http(), security);
    const result = await client.register();
    const proof = key ? `SharedAccessKey=${key}` : "x509=true";
    const text = `HostName=${result.assignedHub};DeviceId=${result.deviceId};${proof}`;
    const device = Client.fromConnectionString(text, Mqtt);
    if (certificate) await device.setOptions(certificate);
    await device.open();
    await device.sendEvent(new Message(`from ${registration}`));
    await device.close();
    console.log(JSON.stringify({ hub: result.assignedHub, device: result.deviceId }));
}

main().then(() => process.exit(0), (error) => {
    console.error(error);
    process.exit(1);
});
