// mqtt.js against the broker. Arguments: folder of node_modules, URL (mqtt: or ws:), mqttv31 | mqttv311 | mqttv5.
// Publishes at QoS 0, 1 and 2 while a second client listens, and lets a line be cut for its will.
// Prints each publish as a line of JSON on stdout; the exit code is 1 where the listener got something else.
import { createRequire } from 'node:module'
import { once } from 'node:events'

const [folder, url, version] = process.argv.slice(2)
const mqtt = createRequire(`${folder}/package.json`)('mqtt')
const speaks = {
  mqttv31: { protocolId: 'MQIsdp', protocolVersion: 3 },
  mqttv311: { protocolVersion: 4 },
  mqttv5: { protocolVersion: 5 },
}[version]

const connect = (clientId, more = {}) =>
  mqtt.connectAsync(url, { ...speaks, clientId, reconnectPeriod: 0, connectTimeout: 10_000, ...more })
const sent = (topic, payload) => console.log(JSON.stringify({ topic, payload }))
const fail = (text) => { console.error(text); process.exit(1) }
setTimeout(() => fail('not done within 40 s'), 40_000).unref()

const listener = await connect('js-listener')
const got = []
const waiting = []
listener.on('message', (topic, payload, packet) => {
  got.push({ topic, payload: payload.toString(), packet })
  waiting.forEach((look) => look())
})
const until = (done) => new Promise((resolve) => {
  const look = () => done() && resolve()
  waiting.push(look)
  look()
})
await listener.subscribeAsync({ 'line/js/+': { qos: 2 }, 'line/js-will/#': { qos: 0 } })

const speaker = await connect('js-speaker')
for (const qos of [0, 1, 2]) {
  const topic = `line/js/q${qos}`
  const payloads = Array.from({ length: 50 }, (_, n) => JSON.stringify({ n, qos, text: 'ü'.repeat(n) }))
  const properties = version === 'mqttv5' ? { properties: { userProperties: { qos: String(qos) } } } : {}
  await Promise.all(payloads.map((payload) => speaker.publishAsync(topic, payload, { qos, ...properties })))
  payloads.forEach((payload) => sent(topic, payload))
  const mine = () => got.filter((message) => message.topic === topic)
  await until(() => mine().length >= payloads.length)
  if (JSON.stringify(mine().map((message) => message.payload)) !== JSON.stringify(payloads)) fail(`${topic}: not what was sent`)
  for (const { packet } of mine()) {
    if (packet.qos !== qos) fail(`${topic}: arrived with QoS ${packet.qos}`)
    if (version === 'mqttv5' && packet.properties?.userProperties?.qos !== String(qos)) fail(`${topic}: no user property`)
  }
}

const dying = await connect('js-dying', { will: { topic: 'line/js-will/alive', payload: 'gone', qos: 1, retain: false } })
dying.stream.destroy()
await until(() => got.some((message) => message.topic === 'line/js-will/alive' && message.payload === 'gone'))
sent('line/js-will/alive', 'gone')

await listener.unsubscribeAsync('line/js/+')
await Promise.all([listener.endAsync(), speaker.endAsync()])
