//! Every key of a rule file, with what it can be and what it means in one sentence.

use super::Shape::{Anything, Duration, Either, Flag, List, Map, Number, Pair, Plain, Table, Text, Whole, Words};
use super::{Key, LINTS, Shape, words};
use crate::rules::QuarantineReason;

const fn key(name: &'static str, shape: Shape, means: &'static str) -> Key {
    Key { name, shape, means }
}

/// The file.
pub(super) const ROOT: &[Key] = &[
    key(
        "rule",
        List(&Table("rule")),
        "rules, tried in the order in which they stand; the first that matches takes the message",
    ),
    key(
        "command",
        List(&Table("command")),
        "what comes down from the hub to plant clients; the first that matches takes it",
    ),
    key("desired", List(&Table("desired")), "what desired properties of twins become for plant clients"),
    key("test", List(&Table("test")), "what the rules are to make of a publish; run by `brownbridge test`"),
    key(
        "table",
        Map(&Either(&[Table("table"), Map(&Map(&Plain))])),
        "tables for `lookup`: rows under their keys, or a CSV file that has them",
    ),
];

/// What a table cannot do without: of each list, one key has to be there.
pub(super) const NEEDS: &[(&str, &[&[&str]])] = &[
    ("rule", &[&["topic", "regex", "on"], &["device", "drop"]]),
    ("command", &[&["topic"]]),
    ("desired", &[&["topic"]]),
    ("ack", &[&["topic"]]),
    ("response", &[&["topic"]]),
    ("decode", &[&["format"]]),
    ("field", &[&["type", "of", "skip"]]),
    ("lookup", &[&["table"], &["key"]]),
    ("scale", &[&["from", "factor", "offset", "round"]]),
    ("time", &[&["from"]]),
    ("dedupe", &[&["within"]]),
    ("batch", &[&["max_wait"]]),
    ("aggregate", &[&["every"], &["fields"]]),
    ("pivot", &[&["name"], &["max_wait"]]),
    ("table", &[&["file"]]),
    ("test", &[&["want"], &["topic", "on", "send", "command", "desired"]]),
];

/// The tables below it; a table has the keys of all its lists.
pub(super) const TABLES: &[(&str, &[&[Key]])] = &[
    ("rule", &[BODY, RULE]),
    ("command", &[BODY, COMMAND]),
    ("desired", &[BODY, DESIRED]),
    ("ack", &[ANSWER, PICKED]),
    ("response", &[ANSWER, RESPONSE, BODY]),
    ("decode", &[DECODE]),
    ("field", &[FIELD]),
    ("keys", &[KEPWARE_KEYS]),
    ("lookup", &[LOOKUP]),
    ("scale", &[SCALE]),
    ("time", &[TIME]),
    ("report_by_exception", &[REPORT]),
    ("dedupe", &[DEDUPE]),
    ("batch", &[BATCH]),
    ("aggregate", &[AGGREGATE]),
    ("pivot", &[PIVOT]),
    ("table", &[CSV_TABLE]),
    ("test", &[TEST, PUBLISH]),
    ("send", &[PUBLISH]),
    ("want", &[WANT, WANTED_MESSAGE]),
    ("wanted message", &[WANTED_MESSAGE]),
    ("tested command", &[TESTED_COMMAND]),
    ("tested desired", &[TESTED_DESIRED]),
    ("wanted command", &[WANT_OF_COMMAND, WANTED_PUBLISH]),
    ("wanted publish", &[WANTED_PUBLISH]),
];

/// What rules and commands do to a body.
const BODY: &[Key] = &[
    key("decode", DECODED, "how the payload is read where it is not JSON already"),
    key("add", Map(&Anything), "fields put behind those of the payload: {name}, {.field}, {time}, {topic}, {client}"),
    key("when", Text, "takes only what this is true for: .rms > 0.1 and $line == \"line3\""),
    key("lookup", Table("lookup"), "more names, from a table"),
    key("script", Text, "the payload through a filter in jq's language; each result is a message"),
    key("scale", Map(&Table("scale")), "numbers into other units"),
    key("set", Map(&Plain), "calculated fields: { temp_f = \".temp * 1.8 + 32\" }"),
    key("rename", Map(&Text), "new names of fields: { temp = \"temperature\" }"),
    key("remove", List(&Text), "fields that are left out"),
];

const RULE: &[Key] = &[
    key("name", Text, "for messages, logs and metrics"),
    key(
        "topic",
        Text,
        "the topics it takes, an MQTT topic filter; {name} is a level with a name: plant1/{line}/{machine}/#",
    ),
    key("regex", Text, "instead of `topic`: a regular expression; (?<name>..) gives a part a name"),
    key("on", Words(words::events), "instead of a topic: the coming or going of clients"),
    key("client", Text, "with `on`: which clients; {name} and * stand for any text"),
    key(
        "device",
        Text,
        "the device the message belongs to: {name} of the topic, {.field} of the payload, or plain text",
    ),
    key("to", Words(words::targets), "reported: the object is merged into the device twin, instead of being sent"),
    key("at", Text, "with `to`: where in the reported properties: press.{nr}"),
    key("every", Duration, "with `to`: the twin is not changed more often than that, 10 seconds where nothing is said"),
    key("props", Map(&Plain), "properties of the message, for routing in the hub"),
    key("time", Table("time"), "where in the payload the time of the message is"),
    key("priority", Words(words::priorities), "high: before all other messages, for alarms"),
    key("drop", Flag, "acknowledged, counted and not sent; with `when` only what that takes"),
    key("continue", Flag, "makes its message and lets the next matching rule make one too"),
    key(
        "dedupe",
        Either(&[Duration, Table("dedupe")]),
        "the same payload, or what has the same key, is not sent again within that time",
    ),
    key(
        "report_by_exception",
        Table("report_by_exception"),
        "sent only where it differs enough from what was sent last: { field = \"temp\", change = 0.5, at_least_every = \"5m\" }",
    ),
    key("throttle", Duration, "what comes sooner after the message before it is not sent"),
    key(
        "per",
        Text,
        "what throttle, report_by_exception, dedupe and aggregate tell apart; topic and device where nothing is said",
    ),
    key("batch", Table("batch"), "several messages of a device as one JSON list"),
    key("aggregate", Table("aggregate"), "minimum, maximum, mean and so on of fields over a length of time"),
    key("pivot", Table("pivot"), "one object of what several topics say about a device"),
    key("compress", Words(words::compressions), "the body goes up compressed"),
    key("allow", List(&Words(lints)), "warnings of `check` that this rule is not to have"),
];

const COMMAND: &[Key] = &[
    key("name", Text, "for messages, the audit log and metrics"),
    key("method", Text, "direct methods of this name; without it the command is for cloud-to-device messages"),
    key("device", Text, "which devices; {name} and * stand for any text"),
    key("props", Map(&Text), "properties the message must have; in their values {name} and * stand for any text"),
    key("topic", Text, "where it is published: {device}, {id}, {name}, {.field}, {time}"),
    key("payload", Text, "what is published; without it the body"),
    key(
        "encode",
        DECODED,
        "how the payload is written, in the words of `decode`: as PLC words, hexadecimal digits, csv",
    ),
    key("qos", Whole(0, 2), "the QoS of the publish; 1 where nothing is said, 2 with `once`"),
    key("retain", Flag, "the publish stays with the broker"),
    key("complete", Words(words::completions), "when the message is acknowledged to the hub"),
    key("ack", Table("ack"), "the answer of the plant that completes the message"),
    key("once", Flag, "a message is published once at most, over restarts and power failures, too"),
    key("response", Table("response"), "the answer of the plant that answers the method"),
    key("allow", List(&Words(lints)), "warnings of `check` that this command is not to have"),
];

const DESIRED: &[Key] = &[
    key("name", Text, "for messages, the audit log and metrics"),
    key("device", Text, "which devices; {name} and * stand for any text"),
    key("at", Text, "where in the properties what it takes is: settings.motor"),
    key("split", Words(words::parts), "leaf: each value makes a publish; whole: the object makes one"),
    key("topic", Text, "where it is published: {device}, {path}, {name}, {.field}"),
    key("payload", Text, "what is published: {.value}; without it the value, or the object"),
    key(
        "encode",
        DECODED,
        "how the payload is written, in the words of `decode`: as PLC words, hexadecimal digits, csv",
    ),
    key("qos", Whole(0, 2), "the QoS of the publish, 1 where nothing is said"),
    key("retain", Flag, "the publish stays with the broker; true where nothing is said"),
    key("acknowledge", Flag, "the value is reported with code, version and description when it is with the plant"),
];

const ANSWER: &[Key] = &[
    key("topic", Text, "on which topic the answer comes"),
    key("within", Duration, "how long it is waited for, 10 seconds where nothing is said"),
];

const PICKED: &[Key] = &[
    key("decode", DECODED, "how the answer is read where it is not JSON already"),
    key("lookup", Table("lookup"), "more names, from a table"),
    key("when", Text, "only a publish for which this is true is the answer: .state == \"ok\" and .ref == $id"),
];

const RESPONSE: &[Key] = &[
    key("status", Text, "the field of the answer that is the status of the method: .code"),
    key("payload", Text, "what the method is answered, instead of the answer as it came: {.state}"),
];

fn lints() -> Vec<&'static str> {
    LINTS.to_vec()
}

const DECODED: Shape = Either(&[Words(words::plain_formats), Table("decode")]);

const DECODE: &[Key] = &[
    key("format", Words(words::formats), "what the payload is"),
    key("decimal", Words(words::decimals), "number, keyvalue, csv: \",\" where numbers have a decimal comma"),
    key(
        "encoding",
        Words(words::encodings),
        "json, text, number, keyvalue, csv: what the text is written in; latin1 is Windows-1252",
    ),
    key("as", Words(words::codings), "raw: the bytes as text in the field value_base64 or value_hex"),
    key("then", DECODED, "hex, base64: how the bytes are read further"),
    key("separator", Text, "keyvalue: between pairs; csv: between fields, one character"),
    key("assign", Text, "keyvalue: between key and value"),
    key("header", Flag, "csv: the first row has the names of the columns"),
    key("names", List(&Text), "csv: the names of the columns"),
    key("order", Words(words::orders), "binary: how numbers lie in the bytes"),
    key("rest", Words(words::rests), "binary: what becomes of a longer payload"),
    key("fields", List(&Table("field")), "binary: the fields, in the order in which they lie"),
    key("split", Words(words::splits), "kepware: a message for each device or for each tag"),
    key("quality", Words(words::qualities), "kepware, sparkplug: what becomes of values of bad quality"),
    key("good", Either(&[Plain, List(&Plain)]), "kepware: the words for good quality where they are others"),
    key("rebirth", Flag, "sparkplug: edge nodes whose births are not known are asked to send them again"),
    key("keys", Table("keys"), "kepware: how the members are called in a template of your own"),
];

const FIELD: &[Key] = &[
    key("name", Text, "the field it becomes"),
    key("type", Words(words::types), "what lies there"),
    key(
        "at",
        Whole(0, i64::MAX),
        "where it begins, in bytes from 0; behind the field before it where this is not said",
    ),
    key("order", Words(words::orders), "how its bytes lie where it is not as in the others"),
    key("count", Whole(1, i64::MAX), "an array of so many; with `bit` so many bits from that on"),
    key("length", Whole(1, i64::MAX), "string, bytes: so many bytes; s7string, s7wstring: the declared length"),
    key("skip", Whole(1, i64::MAX), "no field: so many bytes nobody needs"),
    key(
        "bit",
        Whole(0, i64::MAX),
        "a bit of the field `of`; 0 is the least significant one, of an array that of the first",
    ),
    key("of", Text, "the field before it that the bit is of"),
];

const KEPWARE_KEYS: &[Key] = &[
    key("timestamp", Text, "the time of the whole message"),
    key("values", Text, "the list of values"),
    key("id", Text, "the name of a tag"),
    key("v", Text, "the value of a tag"),
    key("q", Text, "the quality of a value"),
    key("t", Text, "the time of a value"),
];

const LOOKUP: &[Key] = &[
    key("table", Text, "the name of the table: sensors for [table.sensors]"),
    key("key", Text, "the key of the row: {line}/{channel}"),
    key("miss", Words(words::misses), "no such row: the publish is quarantined, or the rule lets it go by"),
    key("default", Map(&Plain), "the row for keys that are not there"),
];

const SCALE: &[Key] = &[
    key("from", Pair, "the range of the input: [4, 20]"),
    key("to", Pair, "the range it becomes: [0, 150]"),
    key("factor", Number, "instead of ranges: it is multiplied by this"),
    key("offset", Number, "and this is added"),
    key("round", Number, "to so many digits behind the point"),
    key("clamp", Flag, "what is beyond `to` is cut off"),
];

const TIME: &[Key] = &[
    key("from", Text, "the field that has the time: .ts"),
    key("format", Either(&[Words(words::time_formats), Text]), "how it is written; a pattern: %d.%m.%Y %H:%M:%S"),
    key("zone", Text, "the zone of times without an offset: Europe/Berlin, UTC, +02:00"),
    key("max_ahead", Duration, "a clock that is ahead by more is not believed"),
    key("max_age", Duration, "a time that is older is not believed"),
];

const CSV_TABLE: &[Key] = &[
    key("file", Text, "a CSV file beside the rules; its first row has the names"),
    key("key", Text, "the column that has the keys; else the first"),
];

const TEST: &[Key] = &[
    key("name", Text, "how the test is called"),
    key("on", Words(words::events), "instead of a publish: a client comes or goes"),
    key("clock", Text, "when the test begins: 2026-11-21T06:00:00Z; else at 2026-01-01T00:00:00Z"),
    key("address", Text, "with `on`: where the client comes from"),
    key("reason", Text, "with `on`: why its connection ended"),
    key("send", List(&Table("send")), "several publishes; what one does not say is as in the test itself"),
    key("command", Table("tested command"), "instead of a publish: what comes down from the hub"),
    key("desired", Table("tested desired"), "instead of a publish: what is desired of a device"),
    key(
        "want",
        Either(&[
            Table("want"),
            List(&Table("wanted message")),
            Table("wanted command"),
            List(&Table("wanted publish")),
        ]),
        "what is to become of it",
    ),
];

const TESTED_COMMAND: &[Key] = &[
    key("device", Text, "the device it is for"),
    key("method", Text, "the direct method that is called; without it a cloud-to-device message comes"),
    key("id", Text, "its message id or request id"),
    key("props", Map(&Text), "its properties"),
    key("payload", Text, "its body as text"),
    key("payload_hex", Text, "its body as hexadecimal digits"),
    key("answered", Text, "what the plant then publishes on the topic of the answer"),
    key("answered_hex", Text, "the same as hexadecimal digits"),
];

const TESTED_DESIRED: &[Key] = &[
    key("device", Text, "the device it is desired of"),
    key("properties", Text, "what is desired, a JSON object as text"),
];

const WANT_OF_COMMAND: &[Key] = &[
    key("nothing", Flag, "no command takes it"),
    key("refused", Words(reasons), "a command takes it and fails for this reason"),
    key("status", Whole(0, i64::MAX), "the status the method is answered; 504 where that was not its answer"),
    key("body", Text, "the body the method is answered; JSON is compared as JSON"),
];

const WANTED_PUBLISH: &[Key] = &[
    key("topic", Text, "the topic of the publish"),
    key("payload", Text, "its payload; JSON is compared as JSON"),
    key("payload_hex", Text, "its payload as hexadecimal digits"),
    key("qos", Whole(0, 2), "the QoS of the publish"),
    key("retain", Flag, "whether it is retained"),
    key("answer", Text, "the topic on which the answer is awaited"),
];

const PUBLISH: &[Key] = &[
    key("topic", Text, "the topic of the publish"),
    key("payload", Text, "its payload as text"),
    key("payload_hex", Text, "its payload as hexadecimal digits"),
    key("client", Text, "the client id of the publisher"),
    key("user", Text, "the user name of the publisher"),
    key("qos", Whole(0, 2), "the QoS of the publish"),
    key("retained", Flag, "the RETAIN flag of the publish"),
    key("at", Duration, "how long after the test's begin it comes"),
];

const WANT: &[Key] = &[
    key("count", Whole(0, i64::MAX), "so many messages, whatever is in them"),
    key("nothing", Flag, "no message, and nothing quarantined"),
    key("quarantine", Words(reasons), "a rule takes it and fails for this reason"),
];

fn reasons() -> Vec<&'static str> {
    QuarantineReason::ALL.map(QuarantineReason::label).to_vec()
}

const WANTED_MESSAGE: &[Key] = &[
    key("device", Text, "the device of the message"),
    key("payload", Text, "its body; JSON is compared as JSON"),
    key("time", Text, "its creation time: 2026-01-01T00:00:00.000Z"),
    key("priority", Words(words::priorities), "the priority of the rule that made it"),
    key("to", Words(words::targets), "whether it is a message, or goes into the twin"),
    key("props", Map(&Text), "properties it has"),
];

const REPORT: &[Key] = &[
    key("field", Text, "the field that must have changed; the whole payload where nothing is said"),
    key("fields", List(&Text), "several fields; it is enough if one has changed"),
    key("change", Number, "by how much at least; any change where nothing is said"),
    key("percent", Number, "by how much at least, in percent of the value sent last"),
    key("at_least_every", Duration, "after that time the next value is sent, changed or not"),
];

const DEDUPE: &[Key] = &[
    key("within", Duration, "how long the same is not sent again"),
    key("key", Text, "what makes it the same: {.id}/{.seq}; the payload where nothing is said"),
];

const BATCH: &[Key] = &[
    key("max_messages", Whole(2, 100_000), "it goes up with so many messages"),
    key("max_bytes", Whole(2, 262_144), "the longest list; what one billed message has where nothing is said"),
    key("max_wait", Duration, "how long its first message waits at most"),
];

const AGGREGATE: &[Key] = &[
    key("every", Duration, "how long a window is; it ends with each whole one of UTC"),
    key(
        "fields",
        Map(&Either(&[Words(words::functions), List(&Words(words::functions))])),
        "what is made of which field: { temp = [\"min\", \"max\"], energy = \"last\" }",
    ),
];

const PIVOT: &[Key] = &[
    key("name", Text, "what a value is called in the object: {signal}"),
    key("value", Text, "where the value is: .v; the field `value`, or the whole payload, where nothing is said"),
    key("max_wait", Duration, "how long the first value waits at most"),
    key("complete", List(&Text), "it goes up when all of these are there"),
    key("trigger", Either(&[Text, List(&Text)]), "it goes up when one of these comes"),
];
