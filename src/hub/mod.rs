//! IoT Hub's protocol as pure functions: topics, property bag, SAS tokens, connection strings, limits.
