//! Kernel and base schema are named by digest in every verdict. These are the ones of this version; each is one text.

#![expect(clippy::unwrap_used, reason = "tests")]

use countersign_gateway_model::Digest;
use countersign_policy_decide::{kernel_digest, schema};

/// What it takes to change one of them.
fn frozen(what: &str, file: &str, got: Digest, wanted: &str) {
    let wanted: Digest = wanted.parse().unwrap();
    assert_eq!(
        got, wanted,
        "{what} (`policy/decide/src/{file}`) changed, if only a comment of it. Every verdict names it by this digest, and a \
         program replays those alone that name its own: the verdicts of before would then be computed again by an older \
         program only. If that is meant, it is a new version: say so in the changelog, and set the new digest here"
    );
}

#[test]
fn the_kernel_is_the_one_that_verdicts_name() {
    let digest = "222d0f32c172fd91103f7e89c07cef68f68e5a7d654c8c53213ab689df824f8f";
    frozen("the kernel", "kernel.cedar, recovery.cedar", kernel_digest(), digest);
}

#[test]
fn the_base_schema_is_the_one_that_verdicts_name() {
    let digest = "4246c8c731223542e3effa03b4f1d5013dd507444577848fecb4703458d3047c";
    frozen("the base schema", "base.cedarschema", schema::digest(), digest);
}
