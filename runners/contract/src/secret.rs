//! The values that references to secrets resolve to, and the masking of known values in log streams.
//!
//! A job carries references alone. A value exists between its provider and the workload's environment: it has no
//! `Serialize`, prints as `***` and is wiped when dropped. Absent: the providers, which are the program's.
//!
//! Read next: `job` (where a reference stands), `runner` (who resolves it).

use std::fmt;

use async_trait::async_trait;
use base64::Engine as _;
use countersign_gateway_model::SecretRef;
use zeroize::Zeroize;

/// What stands in a stream where a secret was.
pub const MASK: &[u8] = b"***";

/// A value shorter than this cannot be masked without masking everything else, so it is refused.
pub const MIN_SECRET_BYTES: usize = 6;

/// The longest value.
pub const MAX_SECRET_BYTES: usize = 64 * 1024;

/// Why a secret cannot be had. Never carries a value.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Nothing here serves that provider.
    #[error("`{0}` names a provider that this runner does not have: configure it or change the reference")]
    NoProvider(SecretRef),
    /// The provider has no such secret.
    #[error("`{0}` does not exist at its provider")]
    Missing(SecretRef),
    /// The value cannot be carried safely.
    #[error("`{reference}` cannot be used: {why}")]
    Unusable {
        /// Which one.
        reference: SecretRef,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The provider failed.
    #[error("`{reference}` could not be resolved")]
    Provider {
        /// Which one.
        reference: SecretRef,
        /// What the provider said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A resolved secret. Wiped when dropped, never printed.
#[derive(Clone)]
pub struct SecretValue(Vec<u8>);

impl SecretValue {
    /// Wraps a value; refuses what an environment cannot hold or a log cannot mask.
    pub fn new(reference: &SecretRef, mut bytes: Vec<u8>) -> Result<Self, SecretError> {
        let why = if bytes.len() < MIN_SECRET_BYTES {
            Some("it is shorter than 6 bytes, so it could not be masked in logs")
        } else if bytes.len() > MAX_SECRET_BYTES {
            Some("it is longer than 64 KiB")
        } else if bytes.contains(&0) {
            Some("it has a NUL byte, which an environment cannot hold")
        } else {
            None
        };
        match why {
            None => Ok(Self(bytes)),
            Some(why) => {
                bytes.zeroize();
                Err(SecretError::Unusable { reference: reference.clone(), why })
            }
        }
    }

    /// The value. Whoever calls this puts it in one workload's environment and nowhere else.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for SecretValue {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where values come from. The program fills it; a runner asks it just before the workload starts.
#[async_trait]
pub trait SecretSource: Send + Sync {
    /// The value behind a reference, now.
    async fn resolve(&self, reference: &SecretRef) -> Result<SecretValue, SecretError>;
}

/// A source with no provider at all: every reference is refused.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSecrets;

#[async_trait]
impl SecretSource for NoSecrets {
    async fn resolve(&self, reference: &SecretRef) -> Result<SecretValue, SecretError> {
        Err(SecretError::NoProvider(reference.clone()))
    }
}

/// Replaces known values in one stream, also where a value straddles two reads.
///
/// Masked are each value as it is, each of its lines of 8 bytes or more, and its base64 and hexadecimal forms.
/// What could be the beginning of a value is held back until the next bytes decide or the stream ends.
pub struct Masker {
    needles: Vec<Vec<u8>>,
    held: Vec<u8>,
}

impl Masker {
    /// A masker for one stream.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a SecretValue>) -> Self {
        let mut needles = Vec::new();
        for value in values {
            let bytes = value.expose();
            let trimmed = bytes.trim_ascii();
            needles.push(bytes.to_vec());
            needles.extend(bytes.split(|b| *b == b'\n').filter(|line| line.len() >= 8).map(<[u8]>::to_vec));
            if trimmed.len() >= MIN_SECRET_BYTES {
                needles.push(trimmed.to_vec());
                needles.push(base64::engine::general_purpose::STANDARD_NO_PAD.encode(trimmed).into_bytes());
                needles.push(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(trimmed).into_bytes());
                let hex = hex(trimmed);
                needles.push(hex.to_uppercase().into_bytes());
                needles.push(hex.into_bytes());
            }
        }
        // The longest first, so that a value that contains another is masked whole.
        needles.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        needles.dedup();
        Self { needles, held: Vec::new() }
    }

    /// Takes the next bytes of the stream and gives what may be stored of it so far.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.needles.is_empty() {
            return bytes.to_vec();
        }
        self.held.extend_from_slice(bytes);
        self.drain(false)
    }

    /// The stream has ended: gives the rest.
    pub fn finish(&mut self) -> Vec<u8> {
        self.drain(true)
    }

    fn drain(&mut self, ended: bool) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        let mut out = Vec::with_capacity(held.len());
        let mut rest = held.as_slice();
        while let Some((first, tail)) = rest.split_first() {
            // A longer value may still be coming, so a shorter match inside it has to wait as well.
            if !ended && self.needles.iter().any(|n| n.len() > rest.len() && n.starts_with(rest)) {
                break;
            }
            if let Some(after) = self.needles.iter().find_map(|n| rest.strip_prefix(n.as_slice())) {
                out.extend_from_slice(MASK);
                rest = after;
            } else {
                out.push(*first);
                rest = tail;
            }
        }
        self.held = rest.to_vec();
        out
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

impl Drop for Masker {
    fn drop(&mut self) {
        self.held.zeroize();
        self.needles.iter_mut().for_each(Zeroize::zeroize);
    }
}

impl fmt::Debug for Masker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Masker({} needles)", self.needles.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> SecretValue {
        SecretValue::new(&"secret://env/X".parse().unwrap(), text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn a_value_that_cannot_be_masked_or_carried_is_refused() {
        let reference = "secret://env/X".parse().unwrap();
        assert!(SecretValue::new(&reference, b"short".to_vec()).is_err());
        assert!(SecretValue::new(&reference, b"nul\0inside".to_vec()).is_err());
        assert!(SecretValue::new(&reference, vec![b'x'; MAX_SECRET_BYTES + 1]).is_err());
        assert_eq!(format!("{:?}", value("hunter2hunter2")), "***");
    }

    #[test]
    fn a_value_is_masked_wherever_the_reads_split_it() {
        let (secret, inner) = (value("s3cr3t-value"), value("cr3t-v"));
        let text = b"a s3cr3t-value b s3cr3t-valuX c s3cr3t-value";
        for split in 0..=text.len() {
            let mut masker = Masker::new([&secret, &inner]);
            let mut out = masker.push(&text[..split]);
            out.extend(masker.push(&text[split..]));
            out.extend(masker.finish());
            assert_eq!(String::from_utf8_lossy(&out), "a *** b s3***aluX c ***", "split at {split}");
        }
        let mut masker = Masker::new([&secret]);
        let mut out = Vec::new();
        for byte in b"s3cr3t-values3cr3t" {
            out.extend(masker.push(&[*byte]));
        }
        out.extend(masker.finish());
        assert_eq!(out, b"***s3cr3t");
    }

    #[test]
    fn encoded_forms_and_lines_are_masked_too() {
        let secret = value("first-line-of-key\nsecond-line-of-key\n");
        let mut masker = Masker::new([&secret]);
        let encoded = base64::engine::general_purpose::STANDARD.encode("first-line-of-key\nsecond-line-of-key");
        let mut out = masker.push(format!("second-line-of-key {encoded}").as_bytes());
        out.extend(masker.finish());
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains("second") && !text.contains("Zmly"), "{text}");
    }
    proptest::proptest! {
        #[test]
        fn splits_change_nothing_and_no_value_comes_through(
            text in "[ab]{0,60}", first in "[ab]{6,8}", second in "[ab]{6,12}", cuts in proptest::collection::vec(0usize..60, 0..5)
        ) {
            let values = [value(&first), value(&second)];
            let mask = |parts: &[&[u8]]| {
                let mut masker = Masker::new(&values);
                let mut out: Vec<u8> = parts.iter().flat_map(|part| masker.push(part)).collect();
                out.extend(masker.finish());
                out
            };
            let whole = mask(&[text.as_bytes()]);
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut <= text.len()).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let parts: Vec<&[u8]> = cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            proptest::prop_assert_eq!(&mask(&parts), &whole);
            let whole = String::from_utf8(whole).unwrap();
            proptest::prop_assert!(!whole.contains(&first) && !whole.contains(&second), "{}", whole);
        }
    }
}
