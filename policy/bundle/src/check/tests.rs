//! What a check finds, and where.
