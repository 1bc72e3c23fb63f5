//! The hub core against what Microsoft's own SDKs and server parsers produced (`tests/golden/azure`).

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::string_slice)]

use brownbridge::hub::back::{Command, Downward, Upward};
use brownbridge::hub::connect::{CLEAN_SESSION, Identity, WEBSOCKET_PATH, password, server_name, websocket_path};
use brownbridge::hub::connection_string::{Auth, ConnectionString, ConnectionStringError};
use brownbridge::hub::dps::{Dialogue, REPLIES, Registration, RegistrationId, Reply, ReplyTopic, Request, Step};
use brownbridge::hub::sas::{Key, Token, TokenError, mint};
use brownbridge::hub::{back, bag, d2c, dps, twin};
use brownbridge::message::{Content, HubMessage, RecordWriter, Timestamp};
use proptest::prelude::*;
use serde_json::Value;
use std::time::Duration;

fn golden(name: &str) -> Value {
    let path = format!("{}/tests/golden/azure/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn rows<'a>(file: &'a Value, key: &str) -> &'a [Value] {
    let rows = file[key].as_array().unwrap();
    assert!(!rows.is_empty());
    rows
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Ordered pairs as the golden files write them: `[["a", "b"], ["c", null]]`.
fn pairs(value: &Value) -> Vec<(String, Option<String>)> {
    let pair = |pair: &Value| (text(&pair[0]).to_owned(), pair[1].as_str().map(str::to_owned));
    value.as_array().unwrap().iter().map(pair).collect()
}

fn decoded(bag: &str) -> Option<Vec<(String, Option<String>)>> {
    let owned = |(name, value): bag::Property<'_>| (name.into_owned(), value.map(|v| v.into_owned()));
    Some(bag::decode(bag).ok()?.into_iter().map(owned).collect())
}

#[test]
fn bags_are_read_as_microsoft_reads_them() {
    let file = golden("property_bag_codec");
    for row in rows(&file, "decode") {
        let input = text(&row["input"]);
        let expect = row["ok"].as_bool().unwrap().then(|| pairs(&row["props"]));
        assert_eq!(decoded(input), expect, "{input:?}");
        assert_eq!(bag::check(input).is_ok(), expect.is_some(), "{input:?}");
    }
}

#[test]
fn bags_are_written_as_microsoft_writes_them() {
    let file = golden("property_bag_codec");
    for row in rows(&file, "encode") {
        let mut bag = String::new();
        for (name, value) in pairs(&row["input"]) {
            match value {
                Some(value) => bag::push(&mut bag, 0, &name, &value),
                None => {
                    bag.push('&');
                    bag::encode(&mut bag, &name);
                }
            }
        }
        assert_eq!(bag, text(&row["bag"]));
    }
}

#[test]
fn tokens_are_minted_byte_for_byte_like_the_python_sdk() {
    let file = golden("sas_tokens");
    let (mut minted, mut checked) = (0, 0);
    for row in rows(&file, "vectors") {
        let key = Key::parse(text(&row["key_b64"])).unwrap();
        let (uri, expiry, policy) = (text(&row["uri"]), row["expiry"].as_i64().unwrap(), row["policy"].as_str());
        let expect = text(&row["token"]);
        let source = text(&row["source"]);
        if source.starts_with("python azure-iot-device") || source.starts_with("Microsoft Learn") {
            assert_eq!(mint(&key, uri, expiry, policy).expose(), expect);
            minted += 1;
        }
        // Whoever wrote it, its signature verifies over the text as sent, and its neighbour's does not.
        let token = Token::parse(expect).unwrap();
        if uri.contains('=') && expect.contains("l@m") {
            // A raw `=` in `sr` ends it for Microsoft's parser: such a token is good for nothing.
            assert_eq!(token.check(expiry, &[&key]), Err(TokenError::Signature));
            continue;
        }
        assert_eq!((token.audience.as_str(), token.expiry), (uri, expiry));
        assert_eq!(token.key_name, row["skn"].as_str().unwrap_or(""));
        assert_eq!(token.check(expiry, &[&key]), Ok(()), "{expect}");
        assert_eq!(token.check(expiry, &[&Key::from_bytes(b"another key")]), Err(TokenError::Signature));
        checked += 1;
    }
    assert!(minted > 20 && checked > 80, "{minted} {checked}");
}

#[test]
fn captured_tokens_verify() {
    let file = golden("sas_captured");
    for row in rows(&file, "vectors") {
        let key = Key::parse(text(&row["key_b64"])).unwrap();
        let Ok(token) = Token::parse(text(&row["token"])) else { panic!("{row}") };
        let good = token.check(token.expiry, &[&key]).is_ok();
        assert_eq!(good, row["verifies_with_test_key"].as_bool().unwrap(), "{row}");
    }
}

#[test]
fn tokens_are_accepted_and_refused_as_by_microsofts_server() {
    let file = golden("sas_validation");
    for row in rows(&file, "vectors") {
        let id = text(&row["id"]);
        let now = row["clock_unix"].as_i64().unwrap_or(1_795_000_000);
        let keys: Vec<Key> = ["primary_key", "secondary_key"]
            .iter()
            .filter_map(|name| row[name].as_str().filter(|k| !k.is_empty()))
            .map(|k| Key::parse(k).unwrap())
            .collect();
        let keys: Vec<&Key> = keys.iter().collect();
        let result = &row["result"];
        let token = Token::parse(text(&row["token"]));
        if !result["parse_ok"].as_bool().unwrap() {
            // Microsoft's parser looks at the clock, ours in `check`.
            let verdict = token.and_then(|token| token.check(now, &keys));
            assert!(verdict.is_err_and(|e| e != TokenError::Signature), "{id}");
            continue;
        }
        let token = token.unwrap();
        assert_eq!(token.audience, text(&result["audience"]), "{id}");
        assert_eq!(token.key_name, text(&result["key_name"]), "{id}");
        let expect = if result["authenticate"]["ok"].as_bool().unwrap() { Ok(()) } else { Err(TokenError::Signature) };
        assert_eq!(token.check(now, &keys), expect, "{id}");
    }
}

/// Where this program says something else than Microsoft's Python SDK about a connection string, on purpose.
const DIFFERENT: [(&str, bool, &str); 4] = [
    ("HostName=h; DeviceId=d;SharedAccessKey=k", false, "the space is tolerated; refused because `k` is no base64"),
    ("HostName=h;SharedAccessKeyName=iothubowner;SharedAccessKey=k", false, "a service string opens the whole hub"),
    (
        "HostName=h;DeviceId=d;SharedAccessSignature=SharedAccessSignature sr=h%2Fdevices%2Fd&sig=x&se=1",
        true,
        "a ready token is taken, as Node does",
    ),
    ("HostName=h;DeviceId=d;SharedAccessKey=MDEy;", true, "a `;` at the end is tolerated"),
];

/// The same for the Node SDK.
const DIFFERENT_FROM_NODE: [(&str, bool, &str); 2] = [
    ("HostName=h;DeviceId=d;SharedAccessKey=k;Foo=bar", false, "an unknown name is a mistake, and Node lets it pass"),
    ("HostName=h;DeviceId=d;SharedAccessKey=k;DeviceId=e", false, "nobody can know which of two is meant"),
];

#[test]
fn connection_strings_are_judged_like_the_sdks_but_for_a_listed_few() {
    let file = golden("connection_strings");
    let rows = rows(&file, "vectors");
    for (sdk, different) in [("python", DIFFERENT.as_slice()), ("node", DIFFERENT_FROM_NODE.as_slice())] {
        for row in rows {
            let input = text(&row["connection_string"]);
            let theirs = &row[sdk];
            let ours = ConnectionString::parse(input);
            let listed = different.iter().find(|(text, ..)| *text == input);
            let expect = listed.map_or(theirs["ok"].as_bool().unwrap(), |(_, expect, _)| *expect);
            assert_eq!(ours.is_ok(), expect, "{sdk} {input}: {ours:?}");
            let Ok(ours) = ours else { continue };
            let Some(parsed) = theirs["parsed"].as_object() else { continue };
            assert_eq!(Some(ours.host.as_str()), parsed["HostName"].as_str());
            assert_eq!(Some(ours.device.as_str()), parsed["DeviceId"].as_str());
            assert_eq!(ours.module.as_deref(), parsed.get("ModuleId").and_then(Value::as_str));
            assert_eq!(ours.gateway.as_deref(), parsed.get("GatewayHostName").and_then(Value::as_str));
            assert_eq!(matches!(ours.auth, Auth::X509), parsed.contains_key("x509"));
            assert_eq!(matches!(ours.auth, Auth::Token(_)), parsed.contains_key("SharedAccessSignature"));
        }
    }
    for (input, expect, why) in DIFFERENT {
        assert_eq!(ConnectionString::parse(input).is_ok(), expect, "{input}: {why}");
    }
    for (input, _, why) in DIFFERENT_FROM_NODE {
        assert!(rows.iter().any(|row| row["connection_string"] == input), "no row any more: {input}, {why}");
    }
}

/// The CONNECTs of the golden file that nothing here sends the like of.
const NOT_OURS: [(&str, &str); 4] = [
    ("mosq_bridge_seed", "mosquitto: the user name of older guides, without `?`, and a token made by hand"),
    ("mosq_bridge_defaults", "mosquitto: the same, with a will and a protocol level that no hub takes"),
    ("mosq_bridge_both", "mosquitto: the same"),
    ("mosq_bridge_remap", "mosquitto: the same"),
];

/// The key of all that the golden files sign.
const SIGNED_WITH: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

#[test]
fn connects_are_those_of_the_sdks() {
    let file = golden("connect");
    let (mut hubs, mut services) = (0, 0);
    let mut left_out: Vec<&str> = Vec::new();
    for row in rows(&file, "vectors") {
        let id = text(&row["id"]);
        if let Some(connection) = connection_of(&row["input"]) {
            same_connect_to_a_hub(id, row, &connection);
            hubs += 1;
        } else if id.contains("_dps_") {
            same_connect_to_the_service(id, row);
            services += 1;
        } else {
            left_out.push(id);
        }
    }
    assert_eq!(left_out, NOT_OURS.map(|(id, _)| id), "a row that is neither compared nor listed");
    assert_eq!((hubs, services), (45, 7));
}

/// Who connects, as the row says it: a connection string, its parts, or a token that was made before.
fn connection_of(input: &Value) -> Option<ConnectionString> {
    let part = |name: &str| input[name].as_str();
    let string = match (part("connection_string"), part("hostname"), part("sas_token")) {
        (Some(string), ..) => string.to_owned(),
        (None, Some(host), _) => {
            format!("HostName={host};DeviceId={};SharedAccessKey={}", part("device_id")?, part("key")?)
        }
        (None, None, Some(token)) => {
            let audience = Token::parse(token).unwrap().audience;
            let (host, device) = audience.split_once("/devices/").unwrap();
            format!("HostName={host};DeviceId={device};SharedAccessSignature={token}")
        }
        (None, None, None) => return None,
    };
    Some(ConnectionString::parse(&string).unwrap())
}

/// The names and values of a user name behind its `?`, or behind its last `/`.
fn query(username: &str) -> Vec<(String, String)> {
    let query = username.rsplit_once('/').unwrap().1.trim_start_matches('?');
    let mut pairs: Vec<_> = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), bag::unescape(value).into_owned()))
        .collect();
    pairs.sort();
    pairs
}

/// The value of one name of a user name.
fn queried(username: &str, name: &str) -> String {
    query(username).into_iter().find(|(n, _)| n == name).unwrap().1
}

/// A CONNECT as the bridge has it sent, in hex.
fn packet(row: &Value, (client_id, username, password): (&str, &str, &str), clean_session: bool) -> String {
    use rumqttc::mqttbytes::v4::{Connect, Login};
    let mut connect = Connect::new(client_id);
    connect.keep_alive = u16::try_from(row["keep_alive"].as_u64().unwrap()).unwrap();
    connect.clean_session = clean_session;
    connect.login = Some(Login::new(username, password));
    let mut bytes = bytes::BytesMut::new();
    connect.write(&mut bytes).unwrap();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn same_connect_to_a_hub(id: &str, row: &Value, connection: &ConnectionString) {
    let identity = Identity::of(connection);
    assert_eq!(identity.client_id(), text(&row["client_id"]), "{id}");
    // The bridge names itself, and asks for the version that Node asks for.
    let theirs = text(&row["username"]);
    let (version, client) = (queried(theirs, "api-version"), queried(theirs, "DeviceClientType"));
    let ours = identity.username(Some(&client), row["input"]["model_id"].as_str());
    let ours = ours.replace("api-version=2021-04-12", &format!("api-version={version}"));
    if id.starts_with("py_") {
        assert_eq!(ours, theirs, "{id}");
    } else {
        // Node escapes less, and says the model first.
        let head = |name: &str| name.rsplit_once('/').unwrap().0.to_owned();
        assert_eq!((head(&ours), query(&ours)), (head(theirs), query(theirs)), "{id}");
        assert_eq!(version, "2021-04-12", "{id}");
    }
    let token = row["password_example"].as_str().unwrap_or_default();
    let se = row["password_shape"]["se"].as_i64().unwrap_or(0);
    let minted = password(connection, se);
    assert_eq!(minted.is_some(), row["has_password"].as_bool().unwrap(), "{id}");
    if let Some(minted) = minted {
        // Node escapes fewer characters of the id, and signs the resource as it sends it.
        let is_same = id != "node_connect_special_device_id";
        assert_eq!(minted.expose() == token, is_same, "{id}");
        let (minted, theirs) = (Token::parse(minted.expose()).unwrap(), Token::parse(token).unwrap());
        assert_eq!(
            (minted.audience, minted.expiry, minted.key_name),
            (theirs.audience, theirs.expiry, theirs.key_name)
        );
    }
    assert_eq!(row["clean_session"], CLEAN_SESSION, "{id}");
    let connect = packet(row, (&identity.client_id(), theirs, token), CLEAN_SESSION);
    assert_eq!(connect, text(&row["packet_hex"]), "{id}");
    // Node ignores the gateway when the device has a certificate.
    if id != "node_connect_x509_gateway" {
        assert_eq!(server_name(connection), text(&row["transport"]["sni"]), "{id}");
    }
    if let Some(request) = row["transport"]["ws_request_line"].as_str() {
        assert_eq!(request, format!("GET {} HTTP/1.1", websocket_path(true)), "{id}");
    }
}

fn same_connect_to_the_service(id: &str, row: &Value) {
    let theirs = text(&row["username"]);
    let registration = registration(&text(&row["client_id"]).to_uppercase(), &queried(theirs, "api-version"), None);
    assert_eq!(registration.username(&queried(theirs, "ClientVersion")), theirs, "{id}");
    let token = row["password_example"].as_str().unwrap_or_default();
    if row["has_password"] == true {
        let key = Key::parse(SIGNED_WITH).unwrap();
        let theirs = Token::parse(token).unwrap();
        let ours = registration.token(&key, theirs.expiry);
        let ours = Token::parse(ours.expose()).unwrap();
        assert_eq!((&ours.audience, ours.expiry), (&theirs.audience, theirs.expiry), "{id}");
        // Python leaves out the policy, which the service takes, too.
        assert!(ours.key_name == theirs.key_name || id.starts_with("py_"), "{id}: {}", theirs.key_name);
        assert!(ours.check(0, &[&key]).is_ok() && theirs.check(0, &[&key]).is_ok(), "{id}");
    }
    // Python keeps a session with the service, of which nothing is used again; Node and the bridge do not.
    let clean_session = if id.starts_with("py_") { false } else { dps::CLEAN_SESSION };
    let connect = packet(row, (registration.id.as_str(), theirs, token), clean_session);
    assert_eq!(connect, text(&row["packet_hex"]), "{id}");
    if let Some(request) = row["transport"]["ws_request_line"].as_str() {
        assert_eq!(request, format!("GET {WEBSOCKET_PATH} HTTP/1.1"), "{id}");
    }
}

#[test]
fn the_c_sdk_agrees() {
    let file = golden("c_sdk_vectors");
    let ids = [
        ("device", "dev-01", None),
        ("module", "dev-01", Some("mod-01")),
        ("special_id", "a-b.c%d_e*f!g(h)i,j:k=l@m$n'o", None),
    ];
    let mut seen = 0;
    for row in rows(&file, "vectors") {
        if row["fn"] == "websocket_paths" {
            assert_eq!(row["out"], serde_json::json!([true, false].map(websocket_path)));
            seen += 1;
        }
        let Some((_, device, module)) = ids.iter().find(|(id, ..)| row["id"] == *id) else { continue };
        let identity = Identity { hub: "contoso-hub.azure-devices.net", device, module: *module };
        let ours = match text(&row["fn"]) {
            "client_id" => identity.client_id(),
            "user_name" => identity.username(None, None).replace("2021-04-12", "2020-09-30"),
            "telemetry_topic_no_props" => {
                let mut topic = String::new();
                d2c::push_prefix(&mut topic, &identity);
                topic
            }
            "sas_string_to_sign" => {
                let mut resource = String::new();
                bag::encode(&mut resource, &identity.resource());
                resource + "\n1893456000"
            }
            _ => continue,
        };
        assert_eq!(ours, text(&row["out"]), "{row}");
        seen += 1;
    }
    assert!(seen >= 13, "{seen}");
}

fn record(content: Content<'_>, properties: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    let mut writer = RecordWriter::begin(&mut record, Timestamp(0), content, |_| ());
    for (name, value) in properties {
        writer.property(name, |out| out.extend_from_slice(value.as_bytes()));
    }
    writer.finish(|out| out.extend_from_slice(body)).unwrap();
    record
}

#[test]
fn topics_carry_what_the_sdks_carry() {
    let file = golden("d2c_topics");
    for row in rows(&file, "vectors") {
        let id = text(&row["id"]);
        let system = |name: &str| row["system_properties"][name].as_str();
        let mut properties = Vec::new();
        for (name, wire) in [("correlation_id", "$.cid"), ("user_id", "$.uid"), ("expiry", "$.exp")] {
            properties.extend(system(name).map(|value| (wire, value)));
        }
        let own: Vec<(&str, &str)> = row["app_properties"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|pair| Some((pair[0].as_str()?, pair[1].as_str()?)))
            .collect();
        properties.extend(own);
        let content = Content::Named {
            content_type: system("content_type").unwrap_or(""),
            encoding: system("content_encoding").unwrap_or(""),
        };
        let record = record(content, &properties, b"");
        let message = HubMessage::parse(&record).unwrap();
        let identity = Identity { hub: "h", device: text(&row["device_id"]), module: None };
        let sender = d2c::Sender { identity, gateway: true, replayed: false };
        let mut topic = String::new();
        d2c::push_topic(&mut topic, &sender, &message, system("message_id").unwrap_or(""));
        for sdk in ["python", "node"] {
            let Some(theirs) = row["expected"][sdk]["topic"].as_str() else { continue };
            let set = |topic: &str| {
                let bag =
                    d2c::addressed(topic, (identity.device, identity.module)).unwrap_or_else(|| panic!("{topic}"));
                let mut all = decoded(bag).unwrap_or_else(|| panic!("{id}: {bag}"));
                all.retain(|(name, _)| name != "$.ctime");
                all.sort();
                all
            };
            assert_eq!(set(&topic), set(theirs), "{id} {sdk}");
        }
        // The style of writing is Python's: the same pairs in its order make its topic.
        if let Some(theirs) = row["expected"]["python"]["topic"].as_str() {
            let bag = d2c::addressed(theirs, (identity.device, identity.module)).unwrap();
            let mut again = String::new();
            for pair in bag::pairs(bag) {
                let (name, value) = pair.unwrap();
                bag::push(&mut again, 0, &bag::unescape(name), &value.map(bag::unescape).unwrap_or_default());
            }
            assert_eq!(again, bag, "{id}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn a_bag_that_was_written_is_read_back(properties in proptest::collection::btree_map(".{1,9}", ".{0,20}", 0..30)) {
        let mut bag = String::new();
        for (name, value) in &properties {
            bag::push(&mut bag, 0, name, value);
        }
        let expect: Vec<_> =
            properties.into_iter().map(|(name, value)| (name, Some(value).filter(|v| !v.is_empty()))).collect();
        prop_assert_eq!(decoded(&bag).unwrap(), expect);
    }

    #[test]
    fn any_text_is_a_bag_or_an_error(text in "[a%&=/2F\u{e9}]{0,24}") {
        let lower = text.to_lowercase();
        prop_assert_eq!(bag::check(&text).is_ok(), decoded(&text).is_some());
        prop_assert!(bag::unescape(&lower).len() <= lower.len());
        let _ = ConnectionString::parse(&text);
        let _ = Token::parse(&format!("SharedAccessSignature {text}"));
    }

    #[test]
    fn no_error_repeats_the_key(prefix in "(HostName=h;)?(DeviceId=d;)?(x509=true;)?(Foo=1;)?", tail in ";?(x|=|;;)?") {
        const KEY: &str = "c2VjcmV0c2VjcmV0c2VjcmV0!";
        let said = match ConnectionString::parse(&format!("{prefix}SharedAccessKey={KEY}{tail}")) {
            Err(e) => format!("{e} {e:?}"),
            Ok(parsed) => format!("{parsed:?}"),
        };
        prop_assert!(!said.contains("c2Vj"), "{}", said);
    }
}

#[test]
fn mistakes_in_connection_strings_are_named() {
    use ConnectionStringError as E;
    for (input, expect) in [
        ("", E::Empty),
        ("  \n", E::Empty),
        (r#"{"connectionString": "HostName=h"}"#, E::Json),
        ("HostName=h;DeviceId", E::NotAPair(2)),
        ("HostName=h;deviceid=d", E::Unknown(2, Some("DeviceId"))),
        ("HostName=h;DeviceId=d;X509=true", E::Unknown(3, Some("x509"))),
        ("HostName=h;DeviceId=d;Foo=1", E::Unknown(3, None)),
        ("HostName=h;HostName=h", E::Repeated("HostName")),
        ("HostName=;DeviceId=d;x509=true", E::Missing("HostName")),
        ("HostName=h;DeviceId=d", E::NoAuth),
        ("HostName=h;DeviceId=d;x509=true;SharedAccessKey=MDEy", E::MixedAuth),
        ("HostName=h;DeviceId=d;x509=false", E::X509),
        ("HostName=h;SharedAccessKeyName=device;SharedAccessKey=MDEy", E::Service),
        ("HostName=https://h;DeviceId=d;x509=true", E::Host("HostName")),
        ("HostName=h:8883;DeviceId=d;x509=true", E::Host("HostName")),
        ("HostName=h;DeviceId=a/b;x509=true", E::Id("DeviceId")),
        ("HostName=h;DeviceId=d;ModuleId=a+b;x509=true", E::Id("ModuleId")),
        ("HostName=h;DeviceId=d;SharedAccessKey=", E::Key(brownbridge::hub::sas::KeyError::Empty)),
        ("HostName=h;DeviceId=d;SharedAccessKey=ab!=", E::Key(brownbridge::hub::sas::KeyError::Character(2))),
        ("HostName=h;DeviceId=d;SharedAccessKey=MDE", E::Key(brownbridge::hub::sas::KeyError::Cut)),
        ("HostName=h;DeviceId=d;SharedAccessSignature=x", E::Token(TokenError::Malformed)),
    ] {
        assert_eq!(ConnectionString::parse(input).unwrap_err(), expect, "{input:?}");
    }
    for harmless in [
        "\"HostName=h;DeviceId=d;x509=true\"\n",
        " HostName=h ; DeviceId = d;x509=true; ",
        "'HostName=h;DeviceId=d;x509=true;'",
    ] {
        let parsed = ConnectionString::parse(harmless).unwrap();
        assert_eq!((parsed.host.as_str(), parsed.device.as_str()), ("h", "d"), "{harmless}");
    }
}

#[test]
fn twin_requests_are_read_as_the_edge_hub_reads_them() {
    for row in rows(&golden("edgehub_twin_addresses"), "vectors") {
        let topic = text(&row["input"]);
        let read = Upward::parse(topic).map(|upward| match upward {
            Upward::GetTwin { resource, .. } => ("TwinGetState", resource, upward.query()),
            Upward::PatchReported { resource, .. } => ("TwinPatchReportedState", resource, upward.query()),
            Upward::MethodAnswer { status, .. } => ("DirectMethodResponse", status, upward.query()),
        });
        let expect = row["ok"].as_bool().unwrap().then(|| (text(&row["operation"]), text(&row["resource"])));
        assert_eq!(read.map(|(operation, resource, _)| (operation, resource)), expect, "{topic}");
        for (name, value) in pairs(&row["props"]) {
            assert_eq!(read.and_then(|(_, _, query)| back::field(query, &name)), value.as_deref(), "{topic}");
        }
    }
}

#[test]
fn cloud_to_device_messages_are_read_as_the_sdks_read_them() {
    for row in rows(&golden("c2d"), "vectors") {
        let topic = text(&row["topic"]);
        let Some(Downward::Command { device: "dev-01", module: None, bag }) = Downward::parse(topic) else {
            panic!("{topic}");
        };
        let read = Command::parse(bag).unwrap();
        let python = &row["python_decoded"];
        for (name, value) in [
            ("message_id", &read.message_id),
            ("correlation_id", &read.correlation_id),
            ("user_id", &read.user_id),
            ("content_type", &read.content_type),
            ("content_encoding", &read.content_encoding),
            ("expiry_time_utc", &read.expiry),
            ("ack", &read.ack),
        ] {
            assert_eq!(value.as_deref(), python[name].as_str(), "{topic}: {name}");
        }
        assert_eq!(read.to.as_deref().unwrap_or(""), text(&row["node_decoded"]["to"]), "{topic}");
        let expect = python["custom_properties"].as_object().unwrap();
        assert_eq!(read.properties.len(), expect.len(), "{topic}");
        for (name, value) in &read.properties {
            assert_eq!(value.as_deref().unwrap_or(""), text(&expect[name]), "{topic}: {name}");
        }
    }
}

#[test]
fn what_the_sdks_and_the_hub_say_about_twins_and_methods_is_read() {
    let (mut up, mut down) = (0, 0);
    for session in rows(&golden("twin_methods"), "sessions") {
        for packet in session["packets"].as_array().unwrap().iter().filter(|packet| packet["type"] == "PUBLISH") {
            let topic = text(&packet["topic"]);
            let payload = packet["payload"].as_str().unwrap_or("");
            if packet["dir"] == "c2s" {
                up += 1;
                let read = Upward::parse(topic).unwrap_or_else(|| panic!("{topic}"));
                let rid = back::field(read.query(), "$rid").unwrap();
                let ours = match read {
                    Upward::GetTwin { .. } => back::get_twin(rid),
                    Upward::PatchReported { .. } => {
                        twin::parse(payload.as_bytes()).unwrap();
                        back::patch_reported(rid)
                    }
                    Upward::MethodAnswer { status, .. } => back::method_answer(status.parse().unwrap(), rid),
                };
                assert_eq!(ours, topic);
            } else {
                down += 1;
                let ours = match Downward::parse(topic).unwrap_or_else(|| panic!("{topic}")) {
                    Downward::TwinAnswer { status, rid, version } => back::twin_answer(status, rid, version),
                    Downward::Desired { version } => back::desired(version.unwrap()),
                    Downward::Method { name, rid } => back::method(&name, rid),
                    Downward::Command { .. } => panic!("{topic}"),
                };
                assert_eq!(ours, topic);
            }
        }
    }
    assert!(up > 20 && down > 20, "{up} and {down} publishes");
}

#[test]
fn subscriptions_are_those_of_the_sdks() {
    let file = golden("subscriptions");
    let key = file.as_object().unwrap().keys().find(|key| file[*key].is_array()).unwrap();
    let wanted: Vec<&str> = rows(&file, key)
        .iter()
        .flat_map(|row| row["filters"].as_array().unwrap())
        .map(|filter| text(filter.get("filter").unwrap_or(filter)))
        .collect();
    let device = Identity { hub: "contoso-hub.azure-devices.net", device: "dev-01", module: None };
    for ours in [back::TWIN_ANSWERS, back::DESIRED, back::METHODS, &back::commands(&device)] {
        assert!(wanted.contains(&ours), "{ours} is not among {wanted:?}");
    }
}

#[test]
fn publishes_already_addressed_to_the_hub() {
    for (topic, expect) in [
        ("devices/d1/messages/events", Some("")),
        ("devices/d1/messages/events/", Some("")),
        ("devices/d1/messages/events/a=b", Some("a=b")),
        ("devices/d1/messages/events/a=b/", Some("a=b")),
        ("devices/d1/messages/events/$.ct=application/json", Some("$.ct=application/json")),
        ("devices/d1/messages/events2/", None),
        ("devices/d12/messages/events/", None),
        ("devices/d/messages/events/", None),
        ("/devices/d1/messages/events/", None),
        ("devices/d1/messages/devicebound/", None),
    ] {
        for module in [None, Some("m")] {
            assert_eq!(d2c::addressed(topic, ("d1", module)), expect, "{topic}");
        }
    }
    for (topic, expect) in [
        ("devices/d1/modules/m/messages/events", Some("")),
        ("devices/d1/modules/m/messages/events/a=b/", Some("a=b")),
        ("devices/d1/modules/m2/messages/events/", None),
        ("devices/d1/modules/messages/events/", None),
        ("devices/d2/modules/m/messages/events/", None),
    ] {
        assert_eq!(d2c::addressed(topic, ("d1", Some("m"))), expect, "{topic}");
        assert_eq!(d2c::addressed(topic, ("d1", None)), None, "{topic}");
    }
    assert_eq!(bag::lost("$.ct=application/json&$.ce=utf-8"), Some("json&$.ce=utf-8"));
    assert_eq!(bag::lost("a=b/"), None);
}

#[test]
fn a_topic_in_full() {
    let given = record(Content::BagAsGiven, &[("", "$.ct=a%2Fb&x=1")], b"");
    let json = record(Content::Json, &[("topic", "a/b"), ("é", "")], b"{}");
    let mut named = Vec::new();
    let writer = RecordWriter::begin(&mut named, Timestamp(1), Content::None, |out| out.extend_from_slice(b"plc 7"));
    writer.finish(|_| ()).unwrap();
    let identity = Identity { hub: "h", device: "gw", module: None };
    let module = Identity { module: Some("m"), ..identity };
    for (identity, gateway, record, mid, expect) in [
        (identity, true, &given, "7", "devices/gw/messages/events/$.ct=a%2Fb&x=1"),
        (
            module,
            true,
            &json,
            "7-1",
            "devices/gw/modules/m/messages/events/%24.mid=7-1&%24.ct=application%2Fjson&%24.ce=utf-8\
             &%24.ctime=1970-01-01T00%3A00%3A00.000Z&topic=a%2Fb&%C3%A9=",
        ),
        (
            identity,
            true,
            &named,
            "",
            "devices/gw/messages/events/%24.ctime=1970-01-01T00%3A00%3A00.001Z&device=plc%207",
        ),
        (identity, false, &named, "", "devices/gw/messages/events/%24.ctime=1970-01-01T00%3A00%3A00.001Z"),
    ] {
        let mut topic = String::from("kept ");
        let sender = d2c::Sender { identity, gateway, replayed: false };
        d2c::push_topic(&mut topic, &sender, &HubMessage::parse(record).unwrap(), mid);
        assert_eq!(topic, format!("kept {expect}"));
    }
}

#[test]
fn sizes_at_the_limit() {
    let identity = Identity { hub: "h", device: "d", module: None };
    let sender = d2c::Sender { identity, gateway: true, replayed: false };
    // Counted: `$.ctime` has 24 bytes, the property 2 + 30 (90 in the topic).
    let value = "é".repeat(15);
    let free = 262_144 - 24 - 32;
    for (body, expect) in [(free, Ok(())), (free + 1, Err(d2c::SizeError::Message(262_145)))] {
        let record = record(Content::None, &[("ab", &value)], &vec![0; body]);
        let message = HubMessage::parse(&record).unwrap();
        let mut topic = String::new();
        d2c::push_topic(&mut topic, &sender, &message, "");
        assert_eq!(d2c::check_size(&sender, &message, "", &topic), expect);
    }
    let wide = record(Content::None, &[("p", &"é".repeat(20_000))], b"");
    let message = HubMessage::parse(&wide).unwrap();
    let mut topic = String::new();
    d2c::push_topic(&mut topic, &sender, &message, "");
    assert_eq!(d2c::check_size(&sender, &message, "", &topic), Err(d2c::SizeError::Topic(topic.len())));
    let given = record(Content::BagAsGiven, &[("", "$.ct=a%2Fb&xy=1")], &vec![0; 262_144 - 6]);
    let message = HubMessage::parse(&given).unwrap();
    assert_eq!(d2c::size(&sender, &message, ""), 262_144);
}

#[test]
fn a_refusal_is_told_in_plain_words() {
    use brownbridge::hub::refused::{is_identity, refused};
    for (code, identity, words) in [
        (1, false, &["MQTT 3.1.1"][..]),
        (2, true, &["device id"]),
        (3, false, &["not available", "user name"]),
        (4, true, &["key", "clock"]),
        (5, true, &["clock", "key", "device id", "disabled", "X.509"]),
        (77, false, &["does not know"]),
    ] {
        assert_eq!(is_identity(code), identity, "{code}");
        for word in words {
            assert!(refused(code).contains(word), "{code}: {word}");
        }
    }
}

#[test]
fn message_ids() {
    for (id, expect) in [
        ("0000018f-17", true),
        ("a:b.c+d%e_f#g*h?i!j(k)l,m=n@o;p$q'r", true),
        ("", false),
        ("a b", false),
        ("a/b", false),
        ("é", false),
        (&"x".repeat(128), true),
        (&"x".repeat(129), false),
    ] {
        assert_eq!(d2c::is_message_id(id), expect, "{id}");
    }
}

#[test]
fn keys_of_a_group_are_derived_as_microsoft_derives_them() {
    let file = golden("derived_keys");
    for row in rows(&file, "vectors") {
        let group = Key::parse(text(&row["group_key"])).unwrap();
        let written = text(&row["registration_id"]);
        // Mixed case is derived as written in the file; the product writes all ids in lower case.
        assert_eq!(group.derive(written).expose(), text(&row["derived_key"]), "{written}");
        if written.bytes().all(|b| !b.is_ascii_uppercase()) {
            let id = RegistrationId::parse(written).unwrap();
            assert_eq!(id.key_of(&group).expose(), text(&row["derived_key"]), "{written}");
        }
    }
}

fn registration(id: &str, api_version: &str, payload: Option<&Value>) -> Registration {
    Registration {
        scope: "0ne00000A0A".into(),
        id: RegistrationId::parse(id).unwrap(),
        api_version: api_version.into(),
        payload: payload.map(Value::to_string),
    }
}

#[test]
fn provisioning_over_rest_asks_what_the_node_sdk_asks() {
    let file = golden("dps_http");
    let mut dialogue = Dialogue::begin(Duration::ZERO);
    let mut next = Request::Register;
    let (mut registrations, mut now) = (0, Duration::ZERO);
    for row in rows(&file, "requests") {
        let words: Vec<&str> = text(&row["request_line"]).split(' ').collect();
        let id = words[1].split('/').nth(3).unwrap();
        let sent: Value = serde_json::from_str(text(&row["body"])).unwrap();
        let registration = registration(id, "2019-03-31", sent.get("payload"));
        let request = next.http(&registration);
        assert_eq!((request.method, request.path.as_str()), (words[0], words[1]));
        if next == Request::Register {
            assert_eq!(serde_json::from_str::<Value>(&request.body).unwrap(), sent);
        }
        let header = |name: &str| {
            let headers = row["headers"].as_array().unwrap().iter();
            headers.clone().find(|h| text(&h[0]) == name).map(|h| text(&h[1]).to_owned())
        };
        // A token stands for the same thing with the same key, whichever way it is written.
        let theirs = header("Authorization").map(|token| Token::parse(&token).unwrap());
        assert_eq!(theirs.is_none(), !row["tls"]["client_cert_cn"].is_null());
        if let Some(theirs) = theirs {
            let key = Key::parse("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").unwrap();
            let ours = Token::parse(registration.token(&key, theirs.expiry).expose()).unwrap();
            assert_eq!((&ours.audience, &ours.key_name), (&theirs.audience, &theirs.key_name));
            assert_eq!(ours.check(theirs.expiry, &[&key]), Ok(()));
            assert_eq!(theirs.check(theirs.expiry, &[&key]), Ok(()));
        }
        let answer = &row["response_sent"];
        let body = answer["body"].to_string();
        let reply = Reply {
            status: text(&answer["status"]).split(' ').next().unwrap().parse().unwrap(),
            retry_after: answer["headers"]["Retry-After"].as_str().map(|s| Duration::from_secs(s.parse().unwrap())),
            body: body.as_bytes(),
        };
        next = match dialogue.answered(&reply, now, 0.0) {
            Step::Ask(request, pause) => {
                assert_eq!(pause, Duration::from_secs(1));
                now += pause;
                request
            }
            Step::Done(assignment) => {
                let want = &answer["body"]["registrationState"];
                assert_eq!(
                    (assignment.hub.as_str(), assignment.device.as_str()),
                    (text(&want["assignedHub"]), text(&want["deviceId"]))
                );
                registrations += 1;
                (dialogue, now) = (Dialogue::begin(Duration::ZERO), Duration::ZERO);
                Request::Register
            }
            Step::Failed(trouble) => panic!("{trouble}"),
        };
    }
    assert_eq!(registrations, 3);
}

#[test]
fn provisioning_over_mqtt_says_what_the_sdks_say() {
    let file = golden("dps_mqtt");
    let mut answers = 0;
    for session in rows(&file, "sessions") {
        let packets = session["packets"].as_array().unwrap();
        let (mut dialogue, mut next) = (Dialogue::begin(Duration::ZERO), Some(Request::Register));
        let (mut now, mut id, mut rid) = (Duration::ZERO, String::new(), String::new());
        for packet in packets {
            match (text(&packet["dir"]), text(&packet["type"])) {
                ("c2s", "CONNECT") => {
                    id = text(&packet["client_id"]).to_owned();
                    let ours = registration(&id, "2019-03-31", None).username("x");
                    let (ours, theirs) = (ours.split_once("&ClientVersion=").unwrap(), text(&packet["username"]));
                    assert_eq!(ours.0, theirs.split_once("&ClientVersion=").unwrap().0);
                }
                ("c2s", "SUBSCRIBE") => assert_eq!(text(&packet["filters"][0]["filter"]), REPLIES),
                ("c2s", "PUBLISH") => {
                    let request = next.take().unwrap();
                    let topic = text(&packet["topic"]);
                    rid = topic.split("$rid=").nth(1).unwrap().split('&').next().unwrap().to_owned();
                    assert_eq!(request.topic(&rid), topic);
                    let sent = text(&packet["payload"]);
                    if let Ok(sent) = serde_json::from_str::<Value>(sent) {
                        let payload = sent.get("payload").filter(|payload| !payload.is_null());
                        let ours: Value =
                            serde_json::from_str(&request.payload(&registration(&id, "", payload))).unwrap();
                        let mut sent = sent.clone();
                        sent.as_object_mut().unwrap().retain(|_, value| !value.is_null());
                        assert_eq!(ours, sent);
                    } else {
                        assert_eq!(request.payload(&registration(&id, "", None)), sent);
                    }
                }
                ("s2c", "PUBLISH") => {
                    let topic = ReplyTopic::parse(text(&packet["topic"])).unwrap();
                    assert_eq!(topic.request_id, rid);
                    let retry_after = topic.retry_after.map(Duration::from_secs);
                    let body = text(&packet["payload"]).as_bytes();
                    answers += 1;
                    match dialogue.answered(&Reply { status: topic.status, retry_after, body }, now, 0.0) {
                        Step::Ask(request, pause) => {
                            now += pause;
                            next = Some(request);
                        }
                        Step::Done(assignment) => assert_eq!(assignment.hub, "contoso-hub.azure-devices.net"),
                        Step::Failed(trouble) => panic!("{trouble}"),
                    }
                }
                _ => {}
            }
        }
        assert!(next.is_none(), "{id} came to its end");
    }
    assert!(answers >= 18, "{answers}");
}

/// `{name}`s of a documented text, filled in.
fn filled(documented: &Value, values: &[(&str, &str)]) -> String {
    values.iter().fold(text(documented).to_owned(), |text, (name, value)| text.replace(name, value))
}

#[test]
fn provisioning_over_rest_is_as_documented() {
    let file = golden("dps_http");
    let contract = &file["wire_contract"];
    let values = [("{idScope}", "0ne00000A0A"), ("{registrationId}", "reg-01"), ("{operationId}", "5.a")];
    let mut known = 0;
    for version in rows(contract, "api_versions_in_spec") {
        let registration = registration("Reg-01", text(version), None);
        for operation in rows(contract, "operations") {
            let request = match text(&operation["name"]) {
                "RegisterDevice" => Request::Register,
                "OperationStatusLookup" => Request::Status("5.a".into()),
                // Nobody here asks for what is known without registering.
                other => {
                    assert_eq!(other, "DeviceRegistrationStatusLookup");
                    continue;
                }
            };
            let asked = request.http(&registration);
            let path = format!("{}?api-version={}", filled(&operation["path"], &values), text(version));
            assert_eq!((asked.method, asked.path), (text(&operation["method"]), path));
            known += 1;
        }
    }
    assert!(known >= 10, "{known}");

    let documented = &contract["response_200_202"];
    let answer = |status: &str, substatus: &str| {
        let mut state = documented["registrationState"].clone();
        let assigned = [("assignedHub", "h.example"), ("deviceId", "d"), ("status", status), ("substatus", substatus)];
        assigned.iter().for_each(|(key, value)| state[*key] = (*value).into());
        state["errorCode"] = 0.into();
        state["x509"]["enrollmentGroupId"] = "line-1".into();
        state.as_object_mut().unwrap().remove("symmetricKey");
        let body = serde_json::json!({"operationId": "5.a", "status": status, "registrationState": state});
        let code = if status == "assigning" { 202 } else { 200 };
        let body = body.to_string();
        let reply = Reply { status: code, retry_after: None, body: body.as_bytes() };
        Dialogue::begin(Duration::ZERO).answered(&reply, Duration::ZERO, 0.0)
    };
    for status in text(&documented["status"]).split('|') {
        let step = match answer(status, "initialAssignment") {
            Step::Done(assignment) => format!("{} of {:?}", assignment.hub, assignment.group),
            Step::Ask(..) => "ask".to_owned(),
            Step::Failed(trouble) => trouble.kind.label().to_owned(),
        };
        let expect = match status {
            "assigned" => "h.example of Some(\"line-1\")",
            "assigning" => "ask",
            "disabled" => "disabled",
            "unassigned" | "failed" => "failed",
            other => panic!("{other}"),
        };
        assert_eq!(step, expect, "{status}");
    }
    for substatus in text(&documented["registrationState"]["substatus"]).split('|') {
        let Step::Done(assignment) = answer("assigned", substatus) else { panic!("{substatus}") };
        assert!(assignment.how() != substatus && assignment.how() != "assigned", "{substatus} has no words");
    }
}

#[test]
fn provisioning_over_mqtt_is_as_documented() {
    let file = golden("dps_mqtt");
    let documented = &file["documented"];
    let values = [
        ("{idScope}", "0ne00000A0A"),
        ("{registration_id}", "reg-01"),
        ("{urlencoded}", "x"),
        ("{request_id}", "7"),
        ("{operationId}", "5.a"),
        ("{seconds}", "3"),
    ];
    let registration = registration("reg-01", "2019-03-31", None);
    assert_eq!(registration.id.as_str(), filled(&documented["client_id"], &values));
    assert_eq!(registration.username("x"), filled(&documented["username_forms"][1], &values));
    let token = registration.token(&Key::parse("a2V5").unwrap(), 4_000_000_000);
    let token = Token::parse(token.expose()).unwrap();
    assert_eq!(
        (token.audience, token.key_name.as_str()),
        (filled(&documented["sr"], &values), text(&documented["skn"]))
    );
    assert_eq!(REPLIES, text(&documented["subscribe"]));
    assert_eq!(Request::Register.topic("7"), filled(&documented["register_topic"], &values));
    assert_eq!(Request::Status("5.a".into()).topic("7"), filled(&documented["query_topic"], &values));
    let body = documented["observed_error_body"].to_string();
    let mut statuses = Vec::new();
    for topic in rows(documented, "responses") {
        let topic = filled(topic, &values);
        let topic = ReplyTopic::parse(&topic).unwrap();
        assert_eq!((topic.request_id, topic.retry_after), ("7", (topic.status == 202).then_some(3)));
        statuses.push(topic.status);
    }
    assert_eq!(statuses, [202, 200, 401]);
    let reply = Reply { status: 401, retry_after: None, body: body.as_bytes() };
    let Step::Failed(trouble) = Dialogue::begin(Duration::ZERO).answered(&reply, Duration::ZERO, 0.0) else {
        panic!("a refusal")
    };
    assert!(trouble.kind.label() == "refused" && trouble.text.contains("error 401002"), "{trouble}");
}
