//! Where random bytes come from: the program gives the operating system's, a test gives counted ones.
//!
//! Absent: any generator. Read next: `secret`.

/// No random bytes could be had.
#[derive(Debug, thiserror::Error)]
#[error("the source of random bytes failed")]
pub struct EntropyError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// A source of random bytes, fit for keys.
pub trait Entropy: Send + Sync + 'static {
    /// Fills all of `into`, or fails.
    fn fill(&self, into: &mut [u8]) -> Result<(), EntropyError>;
}

impl<F> Entropy for F
where
    F: Fn(&mut [u8]) -> Result<(), EntropyError> + Send + Sync + 'static,
{
    fn fill(&self, into: &mut [u8]) -> Result<(), EntropyError> {
        self(into)
    }
}

/// `N` random bytes.
pub(crate) fn draw<const N: usize>(entropy: &dyn Entropy) -> Result<[u8; N], EntropyError> {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes)?;
    Ok(bytes)
}

/// 128 random bits as 32 lowercase hex digits.
pub(crate) fn hex128(entropy: &dyn Entropy) -> Result<String, EntropyError> {
    Ok(const_hex::encode(draw::<16>(entropy)?))
}
