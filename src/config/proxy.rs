//! `proxy = "http://[user:password@]host:port"`, taken apart.

/// The parts of a proxy's address, as they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts<'t> {
    /// `user:password`, percent-encoded.
    pub credentials: Option<&'t str>,
    /// Host name or IP address, without brackets.
    pub host: &'t str,
    /// Its port.
    pub port: u16,
}

/// Takes `http://[user:password@]host:port` apart; the error says what is wrong, without the text.
pub fn split(text: &str) -> Result<Parts<'_>, &'static str> {
    let rest = match text.split_once("://") {
        Some(("http", rest)) => rest,
        Some(_) => return Err("only proxies that speak plain HTTP themselves are known: http://host:port"),
        None => return Err("it begins with http://"),
    };
    let (credentials, place) = match rest.rsplit_once('@') {
        Some((credentials, place)) => (Some(credentials), place),
        None => (None, rest),
    };
    let (host, port) = place.trim_end_matches('/').rsplit_once(':').ok_or("there is no port: http://host:port")?;
    let port = port.parse().map_err(|_| "the port is no number up to 65535")?;
    let host = host.trim_matches(['[', ']']);
    if host.is_empty() || host.contains(['/', '@', ' ']) {
        return Err("there is no host: http://host:port");
    }
    if credentials.is_some_and(|credentials| !credentials.contains(':')) {
        return Err("a user has a password: http://user:password@host:port");
    }
    Ok(Parts { credentials, host, port })
}
