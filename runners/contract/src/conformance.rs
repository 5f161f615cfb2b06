//! The promises of a runner as tests; being filled.
