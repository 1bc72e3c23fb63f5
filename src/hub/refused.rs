//! What a refused CONNECT probably means, for a person who has only the log.

/// The part of [`refused`] about the clock, for where that was compared and is not the reason.
pub const CLOCK: &str = "the clock of this machine (a token more than 5 minutes off is refused); ";

/// A refusal without what there is to look at, for who was told that before.
pub fn brief(text: &str) -> &str {
    text.split_once(". In the order to look at").map_or(text, |(brief, _)| brief)
}

/// The likely causes behind a CONNACK return code other than 0.
///
/// The hub answers 5 to nearly every mistake and never says which, so the text lists what to look at,
/// the most frequent first.
pub fn refused(code: u8) -> &'static str {
    match code {
        1 => "the server does not speak MQTT 3.1.1: is this address an IoT Hub or edgeHub?",
        2 => "the server does not take this client id: does the device id in the connection string exist in the hub?",
        3 => {
            "the server is not available, or (edgeHub) did not understand the user name: \
             it is tried again; if it stays, look at the host name"
        }
        4 => "bad user name or password: look at the key in the connection string and at the clock of this machine",
        5 => {
            "not authorised. In the order to look at: \
             the clock of this machine (a token more than 5 minutes off is refused); \
             the key (was it regenerated in the portal, does it belong to this device?); \
             the device id, upper and lower case included, and the host name of the hub; \
             whether the device is disabled or deleted in the hub; \
             for X.509, whether the certificate or its CA is registered for this device and not expired"
        }
        _ => "the server refused with a code that MQTT 3.1.1 does not know",
    }
}

/// The same for an identity that shows its certificate below a WebSocket.
pub const REFUSED_CERTIFICATE: &str = "\
    not authorised. Over WebSocket a hub may not ask for the client certificate, or take one that is known by its CA \
    only: try `transport = \"mqtt\"` (port 8883), or give the device a key. Otherwise look whether the certificate or \
    its CA is registered for this device and not expired, at the device id, upper and lower case included, and whether \
    the device is disabled or deleted in the hub";

/// True where the server rejects the identity itself, so that an early retry cannot help
/// (Microsoft's client libraries sort 2, 4 and 5 so).
pub fn is_identity(code: u8) -> bool {
    matches!(code, 2 | 4 | 5)
}

/// What to do about an error of a TLS handshake, by its text; begins with a full stop where there is something.
pub fn tls_hint(error: &str) -> &'static str {
    let says = |words: [&str; 2]| words.iter().any(|word| error.contains(word));
    if says(["UnknownIssuer", "BadSignature"]) {
        ". Its certificate is signed by nobody this machine trusts: for an edge or the simulator name its root in \
         `ca_file`; for Azure install the package ca-certificates. A proxy or portal that looks into TLS answers with a \
         certificate of its own: have this name exempted there"
    } else if says(["NotValidYet", "not valid yet"]) || says(["Expired", "expired"]) {
        ". Look at the clock of this machine first, then at the certificate"
    } else if says(["NotValidForName", "not valid for name"]) {
        ". The certificate is for another name: HostName (or GatewayHostName, `gateway_host_name`) must be the name in it"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_in_full_without_the_clock_and_in_brief() {
        let full = refused(5);
        let compared = full.replace(CLOCK, "");
        assert!(compared.starts_with("not authorised. In the order to look at: the key ("), "{compared}");
        for (text, expect) in
            [(full, "not authorised"), (compared.as_str(), "not authorised"), (refused(1), refused(1))]
        {
            assert_eq!(brief(text), expect);
        }
    }
}
