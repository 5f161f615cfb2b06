//! A ZIP in one canonical form: stored, sorted, no clock, no extras.
//!
//! There is exactly one file for a set of parts, so reading is: take the parts out of the local headers, write them
//! again, compare all bytes. Compression, data descriptors, comments, extra fields, attributes and prefixes are thereby
//! refused, and with them bombs. Compression and a file that ends too early are told from the rest: every beginning of a
//! pack is `Truncated`, and so is a part whose header claims more than the file still holds, whichever of both is wrong. Format: PKWARE APPNOTE 6.3.10, §4.3.7 (local header), §4.3.12 (central directory),
//! §4.3.16 (end record).

use crate::VerifyError;

/// Most parts of a pack; one more and the format would need its 64-bit form.
pub(crate) const MAX_PARTS: usize = 65_534;

/// Largest pack in bytes.
pub const MAX_PACK: u64 = 2 << 30;

/// Largest part in bytes.
const MAX_PART: usize = 256 << 20;

/// Longest name of a part.
const MAX_NAME: usize = 200;

const LOCAL: [u8; 4] = *b"PK\x03\x04";
const CENTRAL: [u8; 4] = *b"PK\x01\x02";
const END: [u8; 4] = *b"PK\x05\x06";

/// 1980-01-01 00:00, the earliest date of the format.
const DATE: u16 = 0x0021;

/// Version 1.0: stored files need no more.
const VERSION: u16 = 10;

const OVER_SIZE: VerifyError = VerifyError::Limit("it is larger than 2 GiB");

const OTHER_FORM: VerifyError = VerifyError::Container("its bytes are not the one canonical form of its parts");

/// Writes `parts`, which must be sorted by name without duplicates.
pub(crate) fn write(parts: &[Part<'_>]) -> Result<Vec<u8>, VerifyError> {
    let total: usize = parts.iter().map(|(name, data)| 76 + 2 * name.len() + data.len()).sum();
    if u64::try_from(total).unwrap_or(u64::MAX) > MAX_PACK {
        return Err(OVER_SIZE);
    }
    let mut out = Vec::with_capacity(total + 22);
    emit(parts, |bytes| {
        out.extend_from_slice(bytes);
        true
    })?;
    Ok(out)
}

/// Reads the parts of a file that [`write()`] would have written, borrowing from it.
pub(crate) fn read(file: &[u8]) -> Result<Vec<Part<'_>>, VerifyError> {
    if u64::try_from(file.len()).unwrap_or(u64::MAX) > MAX_PACK {
        return Err(OVER_SIZE);
    }
    let mut parts = Vec::new();
    let mut rest = file;
    while let Some(after) = rest.strip_prefix(&LOCAL) {
        if parts.len() == MAX_PARTS {
            return Err(VerifyError::Limit("it has more than 65534 parts"));
        }
        let (part, after) = part(after)?;
        parts.push(part);
        rest = after;
    }
    let mut rest = file;
    let mut cut = false;
    let same = emit(&parts, |bytes| {
        let Some(after) = rest.strip_prefix(bytes) else {
            // What is left is the beginning of what must follow, or of a part that is not there.
            cut = bytes.starts_with(rest) || LOCAL.starts_with(rest);
            return false;
        };
        rest = after;
        true
    })?;
    match (same && rest.is_empty(), cut) {
        (true, _) => Ok(parts),
        (false, true) => Err(VerifyError::Truncated("it ends before its directory does")),
        (false, false) => Err(OTHER_FORM),
    }
}

/// Name and bytes.
type Part<'a> = (&'a str, &'a [u8]);

/// Takes one part from behind its signature. What is wrong with the header itself is said before the file is called too
/// short for it; the checksum is compared later.
fn part(bytes: &[u8]) -> Result<(Part<'_>, &[u8]), VerifyError> {
    const TORN: VerifyError = VerifyError::Truncated("it ends in the middle of a part");
    let (head, after) = bytes.split_first_chunk::<26>().ok_or(TORN)?;
    let [v0, v1, f0, f1, m0, m1, t0, t1, d0, d1, _, _, _, _, p0, p1, p2, p3, s0, s1, s2, s3, n0, n1, x0, x1] = *head;
    if [m0, m1] != [0, 0] {
        return Err(VerifyError::Compressed);
    }
    let [packed, size] = [[p0, p1, p2, p3], [s0, s1, s2, s3]].map(u32::from_le_bytes);
    let size = usize::try_from(size.max(packed)).unwrap_or(usize::MAX);
    if size > MAX_PART {
        return Err(VerifyError::Limit("a part is larger than 256 MiB"));
    }
    let fixed = [[v0, v1], [f0, f1], [t0, t1], [d0, d1], [x0, x1]].map(u16::from_le_bytes);
    if fixed != [VERSION, 0, 0, DATE, 0] || [p0, p1, p2, p3] != [s0, s1, s2, s3] {
        return Err(OTHER_FORM);
    }
    let (name, after) = after.split_at_checked(usize::from(u16::from_le_bytes([n0, n1]))).ok_or(TORN)?;
    let (data, after) = after.split_at_checked(size).ok_or(TORN)?;
    let name = std::str::from_utf8(name).map_err(|_| VerifyError::Container("a name is not UTF-8"))?;
    check_name(name)?;
    Ok(((name, data), after))
}

/// Gives the bytes of the file to `out`, in order, until it answers false; then the answer is false.
fn emit(parts: &[Part<'_>], mut out: impl FnMut(&[u8]) -> bool) -> Result<bool, VerifyError> {
    let count = u16::try_from(parts.len()).ok().filter(|_| parts.len() <= MAX_PARTS);
    let count = count.ok_or(VerifyError::Limit("it has more than 65534 parts"))?;
    let mut central = Vec::new();
    let mut offset: usize = 0;
    let mut last: Option<&str> = None;
    for (name, data) in parts {
        check_name(name)?;
        if last.is_some_and(|last| *name <= last) {
            return Err(VerifyError::Container("its parts are not sorted by name, or one stands twice"));
        }
        last = Some(name);
        if data.len() > MAX_PART {
            return Err(VerifyError::Limit("a part is larger than 256 MiB"));
        }
        let common = common(name, data)?;
        let local = [&LOCAL, common.as_slice(), name.as_bytes(), data];
        central.extend_from_slice(&CENTRAL);
        central.extend_from_slice(&VERSION.to_le_bytes());
        central.extend_from_slice(&common);
        // No comment, disk 0, no internal and no external attributes.
        central.extend_from_slice(&[0; 10]);
        central.extend_from_slice(&u32::try_from(offset).map_err(|_| OVER_SIZE)?.to_le_bytes());
        central.extend_from_slice(name.as_bytes());
        offset += local.iter().map(|bytes| bytes.len()).sum::<usize>();
        if !local.iter().all(|bytes| out(bytes)) {
            return Ok(false);
        }
    }
    let mut end = END.to_vec();
    end.extend_from_slice(&[0; 4]);
    end.extend_from_slice(&count.to_le_bytes());
    end.extend_from_slice(&count.to_le_bytes());
    end.extend_from_slice(&u32::try_from(central.len()).map_err(|_| OVER_SIZE)?.to_le_bytes());
    end.extend_from_slice(&u32::try_from(offset).map_err(|_| OVER_SIZE)?.to_le_bytes());
    end.extend_from_slice(&[0; 2]);
    Ok(out(&central) && out(&end))
}

/// What the local header and the central directory say of a part alike.
fn common(name: &str, data: &[u8]) -> Result<Vec<u8>, VerifyError> {
    let size = u32::try_from(data.len()).map_err(|_| OVER_SIZE)?;
    let name = u16::try_from(name.len()).map_err(|_| VerifyError::Container("a name is too long"))?;
    let mut out = Vec::with_capacity(26);
    // Version, flags, method (stored), time, date.
    for field in [VERSION, 0, 0, 0, DATE] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    out.extend_from_slice(&crc32fast::hash(data).to_le_bytes());
    out.extend_from_slice(&size.to_le_bytes());
    out.extend_from_slice(&size.to_le_bytes());
    out.extend_from_slice(&name.to_le_bytes());
    // No extra field.
    out.extend_from_slice(&[0, 0]);
    Ok(out)
}

/// Names are relative, plain and without surprises on any filesystem.
fn check_name(name: &str) -> Result<(), VerifyError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._/-".contains(&b);
    let good = name.len() <= MAX_NAME
        && name.bytes().all(plain)
        && name.split('/').all(|step| !step.is_empty() && step != "." && step != "..");
    if good { Ok(()) } else { Err(VerifyError::Container("a name is not a plain relative path")) }
}
