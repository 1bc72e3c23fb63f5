//! Any text as a connection string, a token, a user name and an events topic: reading ends, and where it is a
//! connection string, what the bridge makes of it for CONNECT is what the simulator reads back, and its key does not
//! show in `Debug`.
#![no_main]

use brownbridge::hub::connect::{Identity, password};
use brownbridge::hub::connection_string::{Auth, ConnectionString};
use brownbridge::hub::sas::Token;
use brownbridge::hubsim::names::{EventsTopic, Username, is_known_filter};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ =
        (Token::parse(text).map(|token| token.check(0, &[])), Username::parse(text), is_known_filter(text, "d", None));
    let (topic, edge) = (EventsTopic::parse(text), EventsTopic::parse_edge(text));
    assert!(edge.is_none() || topic.is_some() || text.starts_with('/'));
    let connection = match ConnectionString::parse(text) {
        Ok(connection) => connection,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let identity = Identity::of(&connection);
    let name = identity.username(Some(text), Some(text));
    let read = Username::parse(&name).expect("a user name");
    assert_eq!((read.host, read.device, read.module), (identity.hub, identity.device, identity.module));
    assert_eq!(read.client_type, text);
    let Some(password) = password(&connection, 2_000_000_000) else { return };
    let token = Token::parse(password.expose()).expect("a token");
    if let Auth::Key(key) = &connection.auth {
        assert_eq!(token.audience, identity.resource());
        assert_eq!(token.check(1_999_999_999, &[key]), Ok(()));
        let secret = key.encode();
        assert!(secret.expose().len() < 16 || !format!("{:?}", connection.auth).contains(secret.expose()));
    }
});
