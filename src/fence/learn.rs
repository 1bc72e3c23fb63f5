//! What was seen of clients.
