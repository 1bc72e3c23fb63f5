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
