//! Where ids and randomness come from: `UUIDv7` and the operating system's generator.
//!
//! A machine that cannot give random bytes must not go on: an id or a salt that repeats would be worse than an end.

use countersign_gateway_engine::Mint;
use countersign_gateway_identity::EntropyError;

/// The operating system's generator.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SystemMint;

/// Fills `into` with random bytes.
pub(crate) fn fill(into: &mut [u8]) -> Result<(), getrandom::Error> {
    getrandom::fill(into)
}

/// 32 random bytes.
pub(crate) fn secret() -> Result<[u8; 32], getrandom::Error> {
    let mut bytes = [0; 32];
    fill(&mut bytes)?;
    Ok(bytes)
}

/// 16 random bytes.
pub(crate) fn random_id() -> Result<[u8; 16], getrandom::Error> {
    let mut bytes = [0; 16];
    fill(&mut bytes)?;
    Ok(bytes)
}

impl Mint for SystemMint {
    fn id(&self) -> [u8; 16] {
        uuid::Uuid::now_v7().into_bytes()
    }

    fn secret(&self) -> [u8; 32] {
        match secret() {
            Ok(bytes) => bytes,
            Err(error) => {
                // Nothing may be salted or signed with bytes that somebody could guess; what is committed is durable.
                eprintln!("countersign: the system gives no random bytes ({error}); nothing more can be signed safely");
                std::process::abort()
            }
        }
    }
}

/// Random bytes for `gateway/identity`.
pub(crate) fn identity_entropy(into: &mut [u8]) -> Result<(), EntropyError> {
    fill(into).map_err(|error| EntropyError(Box::new(error)))
}

/// Random bytes for `ledger/log`.
pub(crate) fn ledger_entropy() -> Result<[u8; 32], Box<dyn std::error::Error + Send + Sync>> {
    Ok(secret()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_of_version_seven_and_in_the_order_of_their_time() {
        let ids: Vec<[u8; 16]> = std::iter::repeat_with(|| SystemMint.id()).take(1000).collect();
        for id in &ids {
            assert_eq!((id[6] >> 4, id[8] >> 6), (7, 0b10), "version and variant: {id:02x?}");
        }
        assert!(ids.is_sorted_by(|earlier, later| earlier < later), "each after the one before, none twice");
    }
}
