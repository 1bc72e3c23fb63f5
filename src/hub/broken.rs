//! What an error of a line to the cloud means, for a person who has only the log.

use std::io;

/// The error in words. Who closes a TLS connection without a word leaves an error that is a manual of the library.
pub fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the other side closed the connection".to_owned(),
        _ => error.to_string(),
    }
}

/// The network gave up; nobody closed anything.
pub fn is_broken(error: &io::Error) -> bool {
    use io::ErrorKind::{HostUnreachable, NetworkDown, NetworkUnreachable, TimedOut};
    matches!(error.kind(), HostUnreachable | NetworkDown | NetworkUnreachable | TimedOut)
}

/// The network did not let a first packet through, or answered in the server's place.
pub fn looks_blocked(error: &io::Error) -> bool {
    use io::ErrorKind::ConnectionRefused;
    is_broken(error) || error.kind() == ConnectionRefused || has_hung_up(error)
}

/// The other side ended the connection.
pub fn has_hung_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_a_line() {
        use io::ErrorKind as K;
        for (kind, text, blocked, hung_up) in [
            (K::UnexpectedEof, "the other side closed the connection", true, true),
            (K::ConnectionReset, "see the manual", true, true),
            (K::ConnectionRefused, "see the manual", true, false),
            (K::TimedOut, "see the manual", true, false),
            (K::NetworkUnreachable, "see the manual", true, false),
            (K::InvalidData, "see the manual", false, false),
            (K::AddrNotAvailable, "see the manual", false, false),
        ] {
            let error = io::Error::new(kind, "see the manual");
            assert_eq!(
                (in_words(&error).as_str(), looks_blocked(&error), has_hung_up(&error)),
                (text, blocked, hung_up)
            );
        }
    }
}
