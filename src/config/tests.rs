use super::*;

fn env(name: &str) -> Option<String> {
    (name == "HUB").then(|| "HostName=h;DeviceId=d;SharedAccessKey=a2V5".to_owned())
}

const MINIMAL: &str = "[uplink]\nconnection_string = \"${HUB}\"\n";

#[test]
fn a_connection_string_is_enough() {
    let (config, found) = parse(0, MINIMAL, &env);
    assert_eq!(found, []);
    let config = config.unwrap();
    assert_eq!(config.uplink.connection_string.unwrap().value.expose(), env("HUB").unwrap());
    assert_eq!(config.rules.value, "rules");
    assert_eq!(config.broker.listen.value.port(), 1883);
    assert_eq!((config.uplink.window, config.uplink.tier, config.spool.max_age), (None, None, None));
    assert_eq!(config.spool.max_size, 4 << 30);
    assert_eq!(config.unmatched, Unmatched::Forward);
}

#[test]
fn findings() {
    let hub = "[uplink]\nconnection_string = \"x\"\n";
    let dps = "[uplink.dps]\nid_scope = \"0ne00000A0A\"\n";
    let per_device = format!("{hub}identity = \"per-device\"\n[uplink.devices]\ngroup_key = \"k\"\n");
    for (text, expect) in [
        ("", vec!["no-uplink"]),
        ("[uplink]\n", vec!["missing-key"]),
        ("[uplink]\nconnection_string = \"${NOWHERE}\"", vec!["no-such-variable"]),
        ("[uplink]\nconnection_string = \"x\"\nconnection_string_file = \"y\"", vec!["two-connection-strings"]),
        ("[uplink]\nkind = \"mqtt\"\n", vec!["missing-key"]),
        ("[uplink]\nkind = \"mqtt\"\naddress = \"h:1\"\nconnection_string = \"x\"", vec!["not-for-this-kind"]),
        ("[uplink]\nkind = \"mqtt\"\naddress = \"h:1\"\ntopic = \"a/{gerät}\"", vec!["unknown-name"]),
        ("[uplink]\nkind = \"mqtt\"\naddress = \"h:1\"\ntopic = \"a/#\"", vec!["topic"]),
        ("[uplink]\nkind = \"hub\"\nconnection_string = \"x\"", vec!["unknown-value"]),
        (&format!("{hub}topic = \"a\""), vec!["not-for-this-kind"]),
        (&format!("{hub}ca_file = \"a.pem\"\nextra_ca_file = \"b.pem\""), vec!["two-roots"]),
        (&format!("{hub}ca_file = [\"a.pem\", 1]\nextra_ca_file = 1"), vec!["wrong-type", "wrong-type"]),
        (&format!("{hub}extra_ca_file = [\"${{NOWHERE}}\"]"), vec!["no-such-variable"]),
        (&format!("{hub}certificate = \"c.pem\""), vec!["no-key"]),
        (&format!("{hub}key = \"c.pem\""), vec!["no-certificate"]),
        (&format!("{hub}address = \":x\""), vec!["not-an-address"]),
        (&format!("{hub}keep_alive = \"20m\""), vec!["out-of-range"]),
        (&format!("{hub}window = 0"), vec!["out-of-range"]),
        (&format!("{hub}window = \"aut\""), vec!["unknown-value"]),
        (&format!("{hub}window = true"), vec!["wrong-type"]),
        (&format!("{hub}tier = \"S4\"\nunits = 0"), vec!["unknown-value", "out-of-range"]),
        ("[uplink]\nkind = \"mqtt\"\naddress = \"h:1\"\ntier = \"S1\"", vec!["not-for-this-kind"]),
        (&format!("{hub}[spool]\nmax_age = \"5s\""), vec!["out-of-range"]),
        (&format!("{hub}token_lifetime = \"ten\""), vec!["not-a-duration"]),
        (&format!("{hub}[spool]\nmax_size = \"4 gigs\""), vec!["not-a-size"]),
        (&format!("{hub}[spool]\nmax_size = \"1MiB\"\nwhen_ful = \"refuse\""), vec!["out-of-range", "unknown-key"]),
        (&format!("{hub}[broker]\nlisten = 1883\n[admn]\n"), vec!["wrong-type", "unknown-key"]),
        (&format!("{hub}[broker]\nanonymous = false"), vec!["no-users"]),
        (
            &format!("{hub}[broker]\nover_publish_rate = \"drop\"\nmax_connect_rate = -1"),
            vec!["unknown-value", "out-of-range"],
        ),
        (&format!("{hub}identity = \"per-device\""), vec!["no-credentials"]),
        (&format!("{hub}identity = \"per-plant\""), vec!["unknown-value"]),
        (&format!("{per_device}group_key_file = \"k\""), vec!["two-keys"]),
        (&format!("{per_device}idle_timeout = \"10ms\""), vec!["out-of-range"]),
        (&format!("{per_device}shelf_max_device_size = \"2GiB\""), vec!["out-of-range"]),
        (&format!("{per_device}allow = \"press-*\"\nwhen_refused = \"drop\""), vec!["wrong-type", "unknown-value"]),
        (
            "[uplink]\nkind = \"mqtt\"\naddress = \"h:1\"\nidentity = \"per-device\"\ndevices.table = \"t\"",
            vec!["not-for-this-kind"],
        ),
        ("[uplink]\nkind = \"mqtt\"\naddress = \"h:1\"\ngateway_host_name = \"g\"", vec!["not-for-this-kind"]),
        ("[uplink]\nkind = \"mqtt\"\naddress = \"h:1\"\nmodel_id = \"dtmi:a;1\"", vec!["not-for-this-kind"]),
        ("[uplink\n", vec!["toml-syntax"]),
        (&format!("{hub}bind = \"eth0\""), vec!["not-an-address"]),
        (
            &format!("{hub}[uplink.dps]\nid_scope = \"0ne\"\nregistration_id = \"r\"\ngroup_key = \"k\""),
            vec!["two-identities"],
        ),
        ("[uplink.dps]\nregistration_id = \"r\"\nsymmetric_key = \"k\"", vec!["missing-key"]),
        (&format!("{dps}registration_id = \"r\""), vec!["no-proof"]),
        (
            &format!("{hub}identity = \"per-device\"\ndevices.group_key = \"k\"\n{dps}registration_id = \"r\""),
            vec!["two-identities"],
        ),
        (
            &format!("{hub}identity = \"per-device\"\ndevices.group_key = \"k\"\n{dps}group_key = \"k\""),
            vec!["two-keys"],
        ),
        (&format!("{hub}identity = \"per-device\"\n{dps}"), vec!["no-credentials"]),
        (
            &format!("[uplink]\nidentity = \"per-device\"\ndevices.group_key = \"k\"\n{dps}registration_id = \"r\""),
            vec!["no-proof"],
        ),
        (&format!("{dps}symmetric_key = \"k\""), vec!["missing-key"]),
        (&format!("{dps}registration_id = \"r\"\nsymmetric_key = \"k\"\ngroup_key = \"k\""), vec!["two-proofs"]),
        (&format!("{dps}registration_id = \"r\"\ngroup_key = \"k\"\ngroup_key_file = \"f\""), vec!["two-proofs"]),
        (
            &format!("[uplink]\nkind = \"edge\"\n{dps}registration_id = \"r\"\ngroup_key = \"k\""),
            vec!["not-for-this-kind"],
        ),
        (&format!("{dps}registration_id = \"r\"\ngroup_key = \"k\"\ntransport = \"amqp\""), vec!["unknown-value"]),
        (&format!("{dps}registration_id = \"r\"\ngroup_key = \"k\"\npayload = \"a\""), vec!["bad-value"]),
        (&format!("{dps}registration_id = \"r\"\ngroup_key = \"k\"\nhost = \"https://x\""), vec!["bad-value"]),
        (&format!("{dps}registration_id = \"r\"\ngroup_key = \"k\"\napi_version = \"a&b\""), vec!["bad-value"]),
        ("[uplink.dps]\nid_scope = \"a/b\"\nregistration_id = \"r\"\ngroup_key = \"k\"", vec!["bad-value"]),
        (&format!("{dps}registration_id = \"r\"\ngroup_key = \"k\"\nkey = \"k\""), vec!["unknown-key"]),
    ] {
        let (config, found) = parse(0, text, &env);
        let codes: Vec<&str> = found.iter().map(|d| d.code).collect();
        assert!(expect.iter().all(|code| codes.contains(code)) && codes.len() >= expect.len(), "{text}\n{found:#?}");
        assert!(config.is_none(), "{text}");
    }
}

#[test]
fn devices_are_read_where_each_has_its_identity() {
    for (identity, expect, warned) in [("", false, vec!["not-used"]), ("identity = \"per-device\"\n", true, vec![])] {
        let text =
            format!("{MINIMAL}{identity}[uplink.devices]\ntable = \"devices.csv\"\nallow = [\"press-*\", \"a\"]\n");
        let (config, found) = parse(0, &text, &env);
        assert_eq!(found.iter().map(|found| found.code).collect::<Vec<_>>(), warned);
        let devices = config.unwrap().uplink.devices;
        assert_eq!(devices.is_some(), expect);
        if let Some(devices) = devices {
            let allow: Vec<_> = devices.allow.iter().map(|pattern| pattern.value.as_str()).collect();
            assert_eq!((allow, devices.connect_rate), (vec!["press-*", "a"], None));
            assert_eq!((devices.when_refused, devices.max_connections), (WhenRefused::Wait, 5_000));
        }
    }
}

#[test]
fn a_plain_broker_needs_its_address_only() {
    let (config, found) = parse(0, "[uplink]\nkind = \"mqtt\"\naddress = \"h:1883\"\ntls = false", &env);
    assert_eq!(found, []);
    let uplink = config.unwrap().uplink;
    assert_eq!((uplink.kind.value, uplink.mqtt.tls), (Kind::Mqtt, false));
}

#[test]
fn addresses() {
    for (text, expect) in
        [("127.0.0.1:8883", ("127.0.0.1", 8883)), ("edge.local", ("edge.local", 8883)), ("[::1]:1", ("::1", 1))]
    {
        let (config, found) = parse(0, &format!("{MINIMAL}address = \"{text}\""), &env);
        assert_eq!(found, []);
        let address = config.unwrap().uplink.address.unwrap().value;
        assert_eq!((address.0.as_str(), address.1), expect);
    }
}

#[test]
fn a_provisioning_service_stands_in_for_a_connection_string() {
    for (proof, key) in [("symmetric_key = \"${HUB}\"", true), ("symmetric_key_file = \"k\"", false)] {
        let text = format!("[uplink.dps]\nid_scope = \"0ne00000A0A\"\nregistration_id = \"r\"\n{proof}");
        let (config, found) = parse(0, &text, &env);
        assert_eq!(found, []);
        let dps = config.unwrap().uplink.dps.unwrap();
        assert_eq!((dps.symmetric_key.text.is_some(), dps.transport), (key, DpsTransport::Rest));
        assert_eq!(dps.host.value, "global.azure-devices-provisioning.net");
    }
    let text = "[uplink]\ncertificate = \"c\"\nkey = \"k\"\n[uplink.dps]\nid_scope = \"0ne00000A0A\"\n";
    assert_eq!(parse(0, text, &env).1, []);
}

#[test]
fn a_dollar_can_be_written() {
    let text = "rules = \"a$$b$c\"\n".to_owned() + MINIMAL;
    assert_eq!(parse(0, &text, &env).0.unwrap().rules.value, "a$b$c");
}

/// Settings without their places.
fn values(text: &str) -> String {
    let (config, found) = parse(0, text, &env);
    assert_eq!(found, [], "{text}");
    let config = format!("{:#?}", config.unwrap());
    config.lines().filter(|line| !line.contains("span: ")).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_is_complete_and_says_the_defaults() {
    let example = include_str!("../../bridge.toml.example");
    let connection = example.lines().find(|line| line.starts_with("connection_string")).unwrap();
    assert_eq!(values(example), values(&format!("[uplink]\n{connection}")));
    // Every key the program knows stands in it, also those that are only a comment.
    let sources = [include_str!("mod.rs"), include_str!("read.rs"), include_str!("devices.rs"), include_str!("dps.rs")];
    let source = sources.concat();
    let calls = regex::Regex::new(r#"section(\.\w+\(|,)\s*"(\w+)""#).unwrap();
    let calls = calls.captures_iter(&source).map(|call| call.extract::<2>().1);
    let keys: Vec<&str> = calls.filter(|[how, _]| *how != ".table(").map(|[_, key]| key).collect();
    assert!(keys.len() > 25, "{keys:?}");
    for key in keys {
        let is_there = example.contains(&format!("{key} = ")) || example.contains(&format!(".{key}]"));
        assert!(is_there, "`{key}` is not in bridge.toml.example");
    }
}
