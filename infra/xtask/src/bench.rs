//! Room of `cargo xtask bench`, the benchmark of governed actions over HTTP beside the floor a user would compare with.
