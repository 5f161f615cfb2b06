//! A ZIP in one canonical form: stored, sorted, no clock, no extras.
//!
//! There is exactly one file for a set of parts, so reading is: take the parts out of the local headers, write them
//! again, compare all bytes. Compression, data descriptors, comments, extra fields, attributes and prefixes are thereby
//! refused, and with them bombs. Format: PKWARE APPNOTE 6.3.10, §4.3.7 (local header), §4.3.12 (central directory),
//! §4.3.16 (end record). Packs of 4 GiB and more, or of more than 65,534 parts, cannot be written.

use crate::VerifyError;

/// Most parts of a pack.
pub(crate) const MAX_PARTS: usize = 65_534;

/// Largest pack in bytes.
pub const MAX_PACK: u64 = 2 << 30;

/// Largest part in bytes.
const MAX_PART: usize = 256 << 20;

const LOCAL: [u8; 4] = *b"PK\x03\x04";
const CENTRAL: [u8; 4] = *b"PK\x01\x02";
const END: [u8; 4] = *b"PK\x05\x06";

/// 1980-01-01 00:00, the earliest date of the format.
const DATE: u16 = 0x0021;

/// Version 1.0: stored files need no more.
const VERSION: u16 = 10;

/// Writes `parts`, which must be sorted by name without duplicates.
pub(crate) fn write(parts: &[(&str, &[u8])]) -> Result<Vec<u8>, VerifyError> {
    if parts.len() > MAX_PARTS {
        return Err(VerifyError::Limit("more than 65534 parts"));
    }
    let total: usize = parts.iter().map(|(name, data)| 76 + 2 * name.len() + data.len()).sum();
    let mut out = Vec::with_capacity(total + 22);
    let mut central = Vec::new();
    let mut last = "";
    for (name, data) in parts {
        check_name(name)?;
        if !last.is_empty() && *name <= last {
            return Err(VerifyError::Container("the parts are not sorted by name"));
        }
        last = name;
        let offset = u32::try_from(out.len()).map_err(|_| VerifyError::Limit("4 GiB or more"))?;
        let size = u32::try_from(data.len()).map_err(|_| VerifyError::Limit("a part of 4 GiB or more"))?;
        let name_length = u16::try_from(name.len()).map_err(|_| VerifyError::Container("a name is too long"))?;
        let mut common = Vec::with_capacity(26);
        for field in [VERSION, 0, 0, 0, DATE] {
            common.extend_from_slice(&field.to_le_bytes());
        }
        common.extend_from_slice(&crc32fast::hash(data).to_le_bytes());
        common.extend_from_slice(&size.to_le_bytes());
        common.extend_from_slice(&size.to_le_bytes());
        common.extend_from_slice(&name_length.to_le_bytes());
        common.extend_from_slice(&[0, 0]);

        out.extend_from_slice(&LOCAL);
        out.extend_from_slice(&common);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(data);

        central.extend_from_slice(&CENTRAL);
        central.extend_from_slice(&VERSION.to_le_bytes());
        central.extend_from_slice(&common);
        // No comment, disk 0, no internal and no external attributes.
        central.extend_from_slice(&[0; 10]);
        central.extend_from_slice(&offset.to_le_bytes());
        central.extend_from_slice(name.as_bytes());
    }
    let count = u16::try_from(parts.len()).map_err(|_| VerifyError::Limit("more than 65534 parts"))?;
    let offset = u32::try_from(out.len()).map_err(|_| VerifyError::Limit("4 GiB or more"))?;
    let length = u32::try_from(central.len()).map_err(|_| VerifyError::Limit("4 GiB or more"))?;
    out.extend_from_slice(&central);
    out.extend_from_slice(&END);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    Ok(out)
}

/// Reads the parts of a file that [`write`] would have written, borrowing from it.
pub(crate) fn read(file: &[u8]) -> Result<Vec<(&str, &[u8])>, VerifyError> {
    if u64::try_from(file.len()).unwrap_or(u64::MAX) > MAX_PACK {
        return Err(VerifyError::Limit("the pack is larger than 2 GiB"));
    }
    let mut parts = Vec::new();
    let mut rest = file;
    while let Some(after) = rest.strip_prefix(&LOCAL) {
        let truncated = VerifyError::Container("it ends in the middle of a part");
        let (head, after) = after.split_first_chunk::<26>().ok_or(truncated)?;
        let [.., s0, s1, s2, s3, n0, n1, _, _] = *head;
        let size = usize::try_from(u32::from_le_bytes([s0, s1, s2, s3])).unwrap_or(usize::MAX);
        let name_length = usize::from(u16::from_le_bytes([n0, n1]));
        if size > MAX_PART {
            return Err(VerifyError::Limit("a part is larger than 256 MiB"));
        }
        if parts.len() == MAX_PARTS {
            return Err(VerifyError::Limit("more than 65534 parts"));
        }
        let cut = |bytes: &'_ [u8], at: usize| bytes.len() >= at;
        if !cut(after, name_length) {
            return Err(VerifyError::Container("it ends in the middle of a name"));
        }
        let (name, after) = after.split_at(name_length);
        if !cut(after, size) {
            return Err(VerifyError::Container("it ends in the middle of a part"));
        }
        let (data, after) = after.split_at(size);
        let name = std::str::from_utf8(name).map_err(|_| VerifyError::Container("a name is not UTF-8"))?;
        parts.push((name, data));
        rest = after;
    }
    if write(&parts)? == file {
        Ok(parts)
    } else {
        Err(VerifyError::Container("its bytes are not the one canonical form of its parts"))
    }
}

/// Names are relative, plain and without surprises on any filesystem.
fn check_name(name: &str) -> Result<(), VerifyError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._/-".contains(&b);
    let good = !name.is_empty()
        && name.len() <= 200
        && name.bytes().all(plain)
        && name.split('/').all(|step| !step.is_empty() && step != "." && step != "..");
    if good { Ok(()) } else { Err(VerifyError::Container("a name is not a plain relative path")) }
}
