//! What is wrong with a file the user wrote, and where.
