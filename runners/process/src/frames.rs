//! The log of a run: one file of frames, two streams with byte offsets, a size cap, and an end that may be torn.
//!
//! Frame: `CSF1`, stream (1 byte: 0 out, 1 err), three zero bytes, length (u32), CRC-32 of the payload (u32), stream
//! offset (u64), time in milliseconds (u64), all little-endian; then the payload. A frame that is not whole, or whose
//! check fails, ends what can be read: with a shim alive it is being written, without one it is a gap.
//!
//! Absent: masking (the contract's `Masker`, applied before), rotation (there is a cap instead).

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use countersign_runners_contract::model::{Digest, Timestamp};
use countersign_runners_contract::{GapReason, LogCursor, LogItem, LogRead, Stream, StreamEnd};
use sha2::{Digest as _, Sha256};

const MAGIC: [u8; 4] = *b"CSF1";
const HEADER: usize = 32;

/// The longest payload of one frame.
pub(crate) const MAX_FRAME: usize = 64 * 1024;

/// Payload given by one read, about.
const MAX_READ: usize = 256 * 1024;

struct Frame {
    stream: Stream,
    length: u32,
    check: u32,
    offset: u64,
    at: Timestamp,
}

impl Frame {
    fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        let stream = match self.stream {
            Stream::Stdout => [0u8, 0, 0, 0],
            Stream::Stderr => [1, 0, 0, 0],
        };
        let parts: [&[u8]; 6] = [
            &MAGIC,
            &stream,
            &self.length.to_le_bytes(),
            &self.check.to_le_bytes(),
            &self.offset.to_le_bytes(),
            &self.at.0.to_le_bytes(),
        ];
        for (slot, byte) in out.iter_mut().zip(parts.into_iter().flatten()) {
            *slot = *byte;
        }
        out
    }

    fn decode(bytes: &[u8; HEADER]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (stream, rest) = rest.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (check, rest) = rest.split_first_chunk::<4>()?;
        let (offset, rest) = rest.split_first_chunk::<8>()?;
        let (at, _) = rest.split_first_chunk::<8>()?;
        let stream = match stream {
            [0, 0, 0, 0] => Stream::Stdout,
            [1, 0, 0, 0] => Stream::Stderr,
            _ => return None,
        };
        let length = u32::from_le_bytes(*length);
        let sound = *magic == MAGIC && usize::try_from(length).is_ok_and(|n| n <= MAX_FRAME);
        sound.then(|| Self {
            stream,
            length,
            check: u32::from_le_bytes(*check),
            offset: u64::from_le_bytes(*offset),
            at: Timestamp(u64::from_le_bytes(*at)),
        })
    }
}

struct Written {
    bytes: u64,
    dropped: u64,
    hash: Sha256,
}

/// Writes a log. One writer, the shim.
pub(crate) struct Writer {
    file: File,
    left: u64,
    stdout: Written,
    stderr: Written,
}

impl Writer {
    /// Begins a log with a cap on the bytes of both streams together.
    pub(crate) fn create(path: &Path, cap: u64) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
        let fresh = || Written { bytes: 0, dropped: 0, hash: Sha256::new() };
        Ok(Self { file, left: cap, stdout: fresh(), stderr: fresh() })
    }

    /// Stores bytes of one stream; what is beyond the cap is counted and dropped.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8], at: Timestamp) -> io::Result<()> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        let (kept, dropped) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
        let written = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        written.dropped += u64::try_from(dropped.len()).unwrap_or(u64::MAX);
        for part in kept.chunks(MAX_FRAME) {
            let length = u32::try_from(part.len()).map_err(io::Error::other)?;
            let frame = Frame { stream, length, check: crc32fast::hash(part), offset: written.bytes, at };
            // One write for header and payload, so that a reader seldom sees half a frame.
            let mut out = Vec::with_capacity(HEADER + part.len());
            out.extend_from_slice(&frame.encode());
            out.extend_from_slice(part);
            self.file.write_all(&out)?;
            written.hash.update(part);
            written.bytes += u64::from(length);
            self.left -= u64::from(length);
        }
        Ok(())
    }

    /// Syncs, and says what the two streams were.
    pub(crate) fn finish(self) -> io::Result<(StreamEnd, StreamEnd)> {
        self.file.sync_all()?;
        let end =
            |w: Written| StreamEnd { bytes: w.bytes, sha256: Digest(w.hash.finalize().into()), dropped: w.dropped };
        Ok((end(self.stdout), end(self.stderr)))
    }
}

/// What is known of the end of a log when it is read.
pub(crate) enum End {
    /// Its writer lives.
    Open,
    /// Its writer said what the streams were, or died before it could.
    Closed(Option<StreamEnd>, Option<StreamEnd>),
}

/// Reads from a cursor on.
pub(crate) fn read(path: &Path, cursor: LogCursor, end: &End) -> io::Result<LogRead> {
    let mut items = Vec::new();
    let mut next = cursor;
    // How far the whole frames go, per stream, read or skipped.
    let mut seen = LogCursor::default();
    let mut full = false;
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(file) => {
            let length = file.metadata()?.len();
            let mut reader = BufReader::with_capacity(MAX_FRAME, file);
            let mut position = 0u64;
            let mut given = 0usize;
            while position < length {
                if given >= MAX_READ {
                    full = true;
                    break;
                }
                let mut header = [0; HEADER];
                // With a living writer a torn tail is a frame in the making, and there at the next read.
                let whole = reader.read_exact(&mut header).is_ok();
                let Some(frame) = whole.then(|| Frame::decode(&header)).flatten() else {
                    break;
                };
                let after = position + u64::try_from(HEADER).unwrap_or(0) + u64::from(frame.length);
                let (from, to) = (frame.offset, frame.offset + u64::from(frame.length));
                if after > length || from != seen.of(frame.stream) {
                    break;
                }
                let wanted = next.of(frame.stream);
                if to <= wanted {
                    reader.seek_relative(frame.length.into())?;
                } else {
                    let mut bytes = vec![0; usize::try_from(frame.length).map_err(io::Error::other)?];
                    reader.read_exact(&mut bytes)?;
                    if crc32fast::hash(&bytes) != frame.check {
                        break;
                    }
                    let skip = usize::try_from(wanted.saturating_sub(from)).map_err(io::Error::other)?;
                    let bytes = bytes.split_off(skip.min(bytes.len()));
                    given += bytes.len();
                    let offset = from.max(wanted);
                    items.push(LogItem::Chunk { stream: frame.stream, offset, bytes, at: frame.at });
                    next.set(frame.stream, to);
                }
                seen.set(frame.stream, to);
                position = after;
            }
        }
    }
    if let (End::Closed(stdout, stderr), false) = (end, full) {
        for (stream, known) in [(Stream::Stdout, stdout), (Stream::Stderr, stderr)] {
            let from = seen.of(stream);
            let Some(known) = known else {
                // What the dead writer had read and not written is unknown, whether the last frame is torn or not.
                items.push(gap(stream, from, None, GapReason::Torn));
                continue;
            };
            if from < known.bytes {
                items.push(gap(stream, from, Some(known.bytes), GapReason::Torn));
            }
            if known.dropped > 0 {
                let to = known.bytes.saturating_add(known.dropped);
                items.push(gap(stream, known.bytes, Some(to), GapReason::OutputCap));
            }
        }
        items.push(LogItem::Eof { stdout: *stdout, stderr: *stderr });
    }
    Ok(LogRead { items, next })
}

fn gap(stream: Stream, from: u64, to: Option<u64>, reason: GapReason) -> LogItem {
    LogItem::Gap { stream: Some(stream), from, to, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(7);

    fn bytes_of(read: &LogRead, wanted: Stream) -> Vec<u8> {
        let mut out = Vec::new();
        for item in &read.items {
            if let LogItem::Chunk { stream, bytes, .. } = item
                && *stream == wanted
            {
                out.extend_from_slice(bytes);
            }
        }
        out
    }

    #[test]
    fn a_log_resumes_at_every_byte_of_both_streams() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut writer = Writer::create(&path, 1 << 20).unwrap();
        writer.write(Stream::Stdout, b"hello ", NOW).unwrap();
        writer.write(Stream::Stderr, b"oh", NOW).unwrap();
        writer.write(Stream::Stdout, b"world", NOW).unwrap();
        let (out, err) = writer.finish().unwrap();
        assert_eq!((out.bytes, err.bytes, out.dropped), (11, 2, 0));
        for stdout in 0..=11u64 {
            for stderr in 0..=2u64 {
                let cursor = LogCursor { stdout, stderr };
                let got = read(&path, cursor, &End::Closed(Some(out), Some(err))).unwrap();
                let (so, se) = (usize::try_from(stdout).unwrap(), usize::try_from(stderr).unwrap());
                assert_eq!(bytes_of(&got, Stream::Stdout), b"hello world"[so..]);
                assert_eq!(bytes_of(&got, Stream::Stderr), b"oh"[se..]);
                assert!(got.ended());
                assert_eq!(got.next, LogCursor { stdout: 11, stderr: 2 });
            }
        }
    }

    #[test]
    fn a_torn_last_frame_is_a_gap_and_never_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut writer = Writer::create(&path, 1 << 20).unwrap();
        writer.write(Stream::Stdout, b"whole", NOW).unwrap();
        writer.write(Stream::Stdout, b"torn", NOW).unwrap();
        drop(writer);
        let whole = std::fs::read(&path).unwrap();
        for cut in 1..=(HEADER + 3) {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let got = read(&path, LogCursor::default(), &End::Open).unwrap();
            assert_eq!(bytes_of(&got, Stream::Stdout), b"whole", "cut {cut}");
            assert_eq!(got.items.len(), 1, "cut {cut}");
            let got = read(&path, LogCursor::default(), &End::Closed(None, None)).unwrap();
            let torn = LogItem::Gap { stream: Some(Stream::Stdout), from: 5, to: None, reason: GapReason::Torn };
            assert!(got.items.contains(&torn) && got.ended(), "cut {cut}");
        }
        // A flipped bit in the payload.
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &flipped).unwrap();
        let got = read(&path, LogCursor::default(), &End::Closed(None, None)).unwrap();
        assert_eq!(bytes_of(&got, Stream::Stdout), b"whole");
    }

    #[test]
    fn the_cap_bounds_what_is_stored_and_counts_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut writer = Writer::create(&path, 10).unwrap();
        writer.write(Stream::Stdout, b"12345678", NOW).unwrap();
        writer.write(Stream::Stderr, b"abcd", NOW).unwrap();
        writer.write(Stream::Stdout, b"9", NOW).unwrap();
        let (out, err) = writer.finish().unwrap();
        assert_eq!((out.bytes, out.dropped, err.bytes, err.dropped), (8, 1, 2, 2));
        let got = read(&path, LogCursor::default(), &End::Closed(Some(out), Some(err))).unwrap();
        let gap = LogItem::Gap { stream: Some(Stream::Stderr), from: 2, to: Some(4), reason: GapReason::OutputCap };
        assert!(got.items.contains(&gap));
    }

    #[test]
    fn a_long_log_comes_in_parts_that_join() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut writer = Writer::create(&path, 1 << 30).unwrap();
        let text: Vec<u8> = (0..1_500_000u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        for part in text.chunks(100_000) {
            writer.write(Stream::Stdout, part, NOW).unwrap();
        }
        let (out, err) = writer.finish().unwrap();
        let (mut cursor, mut all, mut reads) = (LogCursor::default(), Vec::new(), 0);
        loop {
            let got = read(&path, cursor, &End::Closed(Some(out), Some(err))).unwrap();
            all.extend(bytes_of(&got, Stream::Stdout));
            cursor = got.next;
            reads += 1;
            if got.ended() {
                break;
            }
        }
        assert!(reads > 3);
        assert_eq!(all, text);
        assert_eq!(Digest(Sha256::digest(&all).into()), out.sha256);
    }
}
