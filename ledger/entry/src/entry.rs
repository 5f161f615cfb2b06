//! The leaf: header, signature, canonical encoding.
//!
//! `[h, sig]` with `h` a CBOR array of 21 items in the order of [`Header`]'s fields and `sig` 64 bytes, or empty in
//! a log whose genesis says `checkpoint_only`. The signature is Ed25519 over `countersign/entry/v1\0 ‖ h`. There is
//! no tree index in `h`: it is not known when signing; order within a stream is bound by `sequence` and `previous`.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use minicbor::{Decode, Decoder, Encode, Encoder};

use countersign_gateway_model::{
    Determining, Digest, GatewayId, PolicyDigests, Pseudonym, StreamId, Timestamp, Verdict,
};
use countersign_ledger_merkle::{Hash, leaf_hash};

use crate::body::{AuthorityMode, Body, Kind, StreamKind};
use crate::{EntryError, FORMAT, MAX_APPEND, MAX_LEAF};

/// What an entry's signature covers comes after this.
const DOMAIN: &[u8] = b"countersign/entry/v1\0";

/// Items in `h`.
const FIELDS: u64 = 21;

/// A stream of entries: one instance, one organization or one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(array)]
pub struct Stream {
    /// Which kind.
    #[n(0)]
    pub kind: StreamKind,
    /// Which one.
    #[n(1)]
    pub id: StreamId,
}

/// Where an entry stands in its append of 1 to 64 entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct AppendPosition {
    /// Place, from 0.
    #[n(0)]
    pub index: u8,
    /// How many entries the append has.
    #[n(1)]
    pub length: u8,
}

/// What a payload is to its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum PayloadRole {
    /// The question and its manifest of entity versions: what the verdict is computed again from.
    #[n(0)]
    Question,
    /// The canonical typed input.
    #[n(1)]
    Input,
    /// The approval view as shown.
    #[n(2)]
    Shown,
    /// A person's justification or comment.
    #[n(3)]
    Justification,
    /// A job.
    #[n(4)]
    Job,
    /// An output with its evidence.
    #[n(5)]
    Output,
    /// The changed input of an OVERRIDE.
    #[n(6)]
    Delta,
    /// Labels and other descriptive text of an instance, a principal or a setting.
    #[n(7)]
    Description,
}

/// A payload, named by the digest of its bytes; the bytes begin with a 32-byte random salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct PayloadRef {
    /// What it is.
    #[n(0)]
    pub role: PayloadRole,
    /// `payload::digest` of salt and content.
    #[n(1)]
    pub digest: Digest,
    /// Bytes, salt included.
    #[n(2)]
    pub length: u32,
}

/// `h`: what is signed. `B` is the body: read, or of a kind that this program does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header<B = Body> {
    /// Which kinds exist and how the state machine moves.
    pub semantics: u16,
    /// Origin line of the log.
    pub origin: String,
    /// The stream.
    pub stream: Stream,
    /// Place in the stream, from 0, without gaps.
    pub sequence: u64,
    /// Leaf hash of the stream's entry before this one; none for the first.
    pub previous: Option<Digest>,
    /// Place in the append.
    pub append: AppendPosition,
    /// What happened.
    pub body: B,
    /// What policy said, where it was asked.
    pub verdict: Option<Verdict>,
    /// The policies that determined it, per asked principal.
    pub determining: Determining,
    /// The policy snapshot in force; none before the first bundle.
    pub policy: Option<PolicyDigests>,
    /// Who may approve what.
    pub authority: AuthorityMode,
    /// Who acted.
    pub actor: Pseudonym,
    /// On whose behalf, outermost first.
    pub on_behalf_of: Vec<Pseudonym>,
    /// The gateway that wrote this.
    pub gateway: GatewayId,
    /// Its boot, counted per log; 0 in genesis.
    pub boot: u64,
    /// C2SP key id of the signing key.
    pub key: [u8; 4],
    /// When, as the gateway claims.
    pub claimed: Timestamp,
    /// Payloads kept beside the ledger.
    pub payloads: Vec<PayloadRef>,
    /// Salted commitments to single fields, for selective disclosure.
    pub fields: Vec<Digest>,
}

/// An entry read from bytes. The signature is carried, not yet checked: see [`Entry::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What is signed.
    pub header: Header,
    /// The signature; none in a `checkpoint_only` log.
    pub signature: Option<[u8; 64]>,
}

/// An entry in its final bytes, ready to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedEntry {
    /// The leaf.
    pub leaf: Vec<u8>,
    /// Its RFC 6962 leaf hash.
    pub hash: Hash,
    /// What it says.
    pub header: Header,
}

impl<B> Header<B> {
    fn encode_around(&self, kind: u16, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(640);
        let written = self.write(kind, body, &mut Encoder::new(&mut out));
        // A `Vec` never fails to be written to.
        debug_assert!(written.is_ok(), "encoding to memory");
        out
    }

    fn write<W: minicbor::encode::Write>(
        &self,
        kind: u16,
        body: &[u8],
        e: &mut Encoder<W>,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.array(FIELDS)?.u8(FORMAT)?.u16(self.semantics)?.str(&self.origin)?;
        e.encode(self.stream)?.u64(self.sequence)?.encode(self.previous)?.encode(self.append)?;
        e.u16(kind)?;
        e.writer_mut().write_all(body).map_err(minicbor::encode::Error::write)?;
        e.encode(&self.verdict)?.encode(&self.determining)?.encode(self.policy)?.encode(self.authority)?;
        e.encode(self.actor)?.encode(&self.on_behalf_of)?.encode(self.gateway)?.u64(self.boot)?;
        e.bytes(&self.key)?.encode(self.claimed)?.encode(&self.payloads)?.encode(&self.fields)?;
        Ok(())
    }

    fn with_body<C>(self, body: C) -> Header<C> {
        Header {
            semantics: self.semantics,
            origin: self.origin,
            stream: self.stream,
            sequence: self.sequence,
            previous: self.previous,
            append: self.append,
            body,
            verdict: self.verdict,
            determining: self.determining,
            policy: self.policy,
            authority: self.authority,
            actor: self.actor,
            on_behalf_of: self.on_behalf_of,
            gateway: self.gateway,
            boot: self.boot,
            key: self.key,
            claimed: self.claimed,
            payloads: self.payloads,
            fields: self.fields,
        }
    }
}

impl Header {
    /// `h` as deterministic CBOR.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_around(self.body.kind().number(), &self.body.encode())
    }

    /// Signs and closes the entry.
    ///
    /// # Errors
    /// [`EntryError::TooLong`], [`EntryError::Position`] or [`EntryError::Misplaced`] if this can be no entry.
    pub fn sign(self, key: &SigningKey) -> Result<SignedEntry, EntryError> {
        self.close(|signed| Some(key.sign(signed).to_bytes()))
    }

    /// Closes the entry without a signature, for a log whose genesis says `checkpoint_only`.
    ///
    /// # Errors
    /// As [`Header::sign`].
    pub fn unsigned(self) -> Result<SignedEntry, EntryError> {
        self.close(|_| None)
    }

    fn close(self, sign: impl FnOnce(&[u8]) -> Option<[u8; 64]>) -> Result<SignedEntry, EntryError> {
        check_position(self.append)?;
        check_place(self.body.kind(), self.stream)?;
        check_version(self.body.kind(), self.semantics)?;
        let h = self.encode();
        let mut signed = Vec::with_capacity(DOMAIN.len() + h.len());
        signed.extend_from_slice(DOMAIN);
        signed.extend_from_slice(&h);
        let signature = sign(&signed);
        let mut leaf = Vec::with_capacity(h.len() + 67);
        leaf.push(0x82);
        leaf.extend_from_slice(&h);
        match signature {
            Some(bytes) => {
                leaf.extend_from_slice(&[0x58, 64]);
                leaf.extend_from_slice(&bytes);
            }
            None => leaf.push(0x40),
        }
        if leaf.len() > MAX_LEAF {
            return Err(EntryError::TooLong(leaf.len()));
        }
        let hash = leaf_hash(&leaf);
        Ok(SignedEntry { leaf, hash, header: self })
    }
}

impl Entry {
    /// Reads a leaf.
    ///
    /// # Errors
    /// Any defect of form; [`EntryError::UnknownKind`] for a kind of a later semantics version, whose links and signature
    /// can still be checked with [`UnknownEntry::parse`].
    pub fn parse(leaf: &[u8]) -> Result<Self, EntryError> {
        let raw = RawEntry::parse(leaf)?;
        let RawBody { kind, bytes } = raw.header.body;
        let kind = Kind::from_number(kind).ok_or(EntryError::UnknownKind(kind))?;
        check_version(kind, raw.header.semantics)?;
        let body = Body::decode(kind, bytes)?;
        check_place(kind, raw.header.stream)?;
        Ok(Self { header: raw.header.with_body(body), signature: raw.signature })
    }

    /// Checks the signature over `leaf`, from which this entry was read.
    ///
    /// # Errors
    /// [`EntryError::Signature`] if it is absent or not by `key`.
    pub fn verify(&self, leaf: &[u8], key: &VerifyingKey) -> Result<(), EntryError> {
        verify_signature(leaf, self.signature, key)
    }
}

/// A body whose meaning this program does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownBody {
    /// The kind's number.
    pub kind: u16,
    /// One CBOR item; whether it is in canonical form is for those to say who know the kind.
    pub bytes: Vec<u8>,
}

/// An entry of a later semantics version: its links and its signature can be checked, its meaning not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownEntry {
    /// What is signed.
    pub header: Header<UnknownBody>,
    /// The signature; none in a `checkpoint_only` log.
    pub signature: Option<[u8; 64]>,
}

impl UnknownEntry {
    /// Reads what every kind has in common.
    ///
    /// # Errors
    /// Any defect of form outside the body.
    pub fn parse(leaf: &[u8]) -> Result<Self, EntryError> {
        let raw = RawEntry::parse(leaf)?;
        let body = UnknownBody { kind: raw.header.body.kind, bytes: raw.header.body.bytes.to_vec() };
        Ok(Self { header: raw.header.with_body(body), signature: raw.signature })
    }

    /// Checks the signature over `leaf`, from which this entry was read.
    ///
    /// # Errors
    /// [`EntryError::Signature`] if it is absent or not by `key`.
    pub fn verify(&self, leaf: &[u8], key: &VerifyingKey) -> Result<(), EntryError> {
        verify_signature(leaf, self.signature, key)
    }
}

/// `[h, sig]` with its one-byte array head: `h` is what lies between it and the 66 bytes of the signature.
fn verify_signature(leaf: &[u8], signature: Option<[u8; 64]>, key: &VerifyingKey) -> Result<(), EntryError> {
    let bad = || EntryError::Signature("entry");
    let signature = signature.ok_or_else(bad)?;
    let h = leaf.get(1..leaf.len().saturating_sub(66)).ok_or_else(bad)?;
    let mut signed = Vec::with_capacity(DOMAIN.len() + h.len());
    signed.extend_from_slice(DOMAIN);
    signed.extend_from_slice(h);
    key.verify_strict(&signed, &Signature::from_bytes(&signature)).map_err(|_| bad())
}

fn check_position(at: AppendPosition) -> Result<(), EntryError> {
    if at.index < at.length && usize::from(at.length) <= MAX_APPEND {
        Ok(())
    } else {
        Err(EntryError::Position { index: at.index, length: at.length })
    }
}

/// Version 0 was never written; that it is none is for those to say who read a log.
fn check_version(kind: Kind, semantics: u16) -> Result<(), EntryError> {
    let since = kind.since();
    if semantics >= since || since == 1 {
        Ok(())
    } else {
        Err(EntryError::BeforeItsTime { kind: kind.as_str(), since, semantics })
    }
}

fn check_place(kind: Kind, stream: Stream) -> Result<(), EntryError> {
    if kind.belongs_in(stream.kind) {
        Ok(())
    } else {
        Err(EntryError::Misplaced { kind: kind.as_str(), stream: stream.kind })
    }
}

/// A leaf taken apart, with the body still as bytes.
struct RawEntry<'b> {
    header: Header<RawBody<'b>>,
    signature: Option<[u8; 64]>,
}

struct RawBody<'b> {
    kind: u16,
    bytes: &'b [u8],
}

impl<'b> RawEntry<'b> {
    fn parse(leaf: &'b [u8]) -> Result<Self, EntryError> {
        if leaf.len() > MAX_LEAF {
            return Err(EntryError::TooLong(leaf.len()));
        }
        let mut d = Decoder::new(leaf);
        // 0x82: an array of two in its only canonical spelling.
        if d.array()? != Some(2) || d.position() != 1 {
            return Err(EntryError::NotCanonical);
        }
        let from = d.position();
        let header = Header::read(&mut d, leaf)?;
        let h = leaf.get(from..d.position()).ok_or(EntryError::NotCanonical)?;
        let signature_from = d.position();
        let signature = match d.bytes()? {
            [] => None,
            bytes => Some(bytes.try_into().map_err(|_| EntryError::NotCanonical)?),
        };
        let expected = signature_from + if signature.is_some() { 66 } else { 1 };
        if d.position() != leaf.len() || leaf.len() != expected {
            return Err(EntryError::NotCanonical);
        }
        check_position(header.append)?;
        // Bytes that decode but are not what we would have written are not an entry.
        if header.encode_around(header.body.kind, header.body.bytes) != h {
            return Err(EntryError::NotCanonical);
        }
        Ok(Self { header, signature })
    }
}

impl<'b> Header<RawBody<'b>> {
    fn read(d: &mut Decoder<'b>, leaf: &'b [u8]) -> Result<Self, EntryError> {
        if d.array()? != Some(FIELDS) {
            return Err(EntryError::NotCanonical);
        }
        let format = d.u8()?;
        if format != FORMAT {
            return Err(EntryError::Format(format));
        }
        Ok(Self {
            semantics: d.u16()?,
            origin: d.str()?.to_owned(),
            stream: d.decode()?,
            sequence: d.u64()?,
            previous: d.decode()?,
            append: d.decode()?,
            body: RawBody::read(d, leaf)?,
            verdict: d.decode()?,
            determining: d.decode()?,
            policy: d.decode()?,
            authority: d.decode()?,
            actor: d.decode()?,
            on_behalf_of: d.decode()?,
            gateway: d.decode()?,
            boot: d.u64()?,
            key: d.bytes()?.try_into().map_err(|_| EntryError::NotCanonical)?,
            claimed: d.decode()?,
            payloads: d.decode()?,
            fields: d.decode()?,
        })
    }
}

impl<'b> RawBody<'b> {
    fn read(d: &mut Decoder<'b>, leaf: &'b [u8]) -> Result<Self, EntryError> {
        let kind = d.u16()?;
        let from = d.position();
        d.skip()?;
        let bytes = leaf.get(from..d.position()).ok_or(EntryError::NotCanonical)?;
        Ok(Self { kind, bytes })
    }
}

#[cfg(test)]
mod tests;
