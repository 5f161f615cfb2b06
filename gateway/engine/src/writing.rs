//! One append to an instance's stream: decided, sealed, applied to the fold, committed, or taken back.
//!
//! The caller holds the stream's lock throughout, so heads are known when signing and nobody sees a fold that is
//! ahead of the log.

use countersign_gateway_flow::{Decided, Instance, Place};
use countersign_gateway_model::{Digest, PolicyDigests, Principal, Timestamp};
use countersign_ledger_entry::body::{AuthorityMode, Body};
use countersign_ledger_entry::{Draft, SignedEntry, payload};
use countersign_ledger_log::{Append, AppendError, Appended, IdempotencyScope, Sealing};
use sha2::{Digest as _, Sha256};
use tokio::sync::MutexGuard;

use crate::api::Idempotency;
use crate::beside::Beside;
use crate::counters::{self, Reading, takes};
use crate::error::EngineError;
use crate::org::{Cell, Live, Org, instance_stream};
use crate::own_fold::OwnFold;
use crate::{Engine, Snapshot, trail};

/// The record of an idempotency key.
pub(crate) fn idempotency(
    stream: countersign_ledger_entry::Stream,
    who: &Principal,
    request: &Idempotency,
    answer: Vec<u8>,
) -> countersign_ledger_log::Idempotency {
    countersign_ledger_log::Idempotency {
        scope: IdempotencyScope { stream, principal: who.pseudonym },
        key: key_digest(&request.key),
        request: request.request,
        answer,
    }
}

/// Keys are looked up, so their digest has no salt; it stays in the database and is in no entry.
pub(crate) fn key_digest(key: &str) -> Digest {
    Digest(Sha256::new().chain_update(payload::IDEMPOTENCY).chain_update([0]).chain_update(key).finalize().into())
}

/// What the ledger is given, and the blobs to remember once it is durable: those that it has already are not sent again.
fn append_of(org: &Org, expected: u64, entries: Vec<SignedEntry>, mut beside: Beside) -> (Append, Vec<Digest>) {
    org.unstored(&mut beside.blobs);
    let blobs = beside.blobs.iter().map(|blob| blob.digest).collect();
    let Beside { payloads, blobs: unstored, rows, idempotency, urgent, reading: _, policy: _ } = beside;
    (Append { expected, entries, payloads, blobs: unstored, rows, idempotency, erase: Vec::new(), urgent }, blobs)
}

impl Engine {
    /// Seals and commits what was decided for an instance. `live` is in the state that it was decided on.
    ///
    /// Must not be cancelled: the fold is ahead of the log until the append is answered. Callers run it in a task of
    /// its own ([`Engine::whole`]).
    pub(crate) async fn commit(
        &self,
        org: &Org,
        cell: &Cell,
        live: &mut Live,
        mut decided: Decided,
        (mut beside, now, snapshot): (Beside, Timestamp, &Snapshot),
    ) -> Result<Appended, EngineError> {
        // What was prepared and is named by no entry (an answer that turned out not to be needed) is not kept.
        beside.payloads.retain(|payload| {
            decided.drafts.iter().flat_map(|d| &d.payloads).any(|reference| reference.digest == payload.digest)
        });
        let Place::Instance(id) = decided.place else {
            return self.append_own(org, decided.drafts, beside, (now, snapshot.digests())).await;
        };
        let mut reading = beside.reading.take();
        let turn = if takes(&decided.drafts) {
            match reading.as_mut().and_then(Reading::take_turn) {
                Some(turn) => Some(turn),
                None => Some(org.counting.turn().await),
            }
        } else {
            None
        };
        // Nobody reads the counters from the ledger while an append is neither there nor in the book. After the turn:
        // whoever has that waits for this.
        let still = org.counting.still().await;
        if turn.is_some() {
            // Read from the journal now if it must be, and after every wait, so that the append is in the queue when it was
            // first polled.
            org.log.head(instance_stream(id)).await?;
        }
        let taking = org.counting.take(&mut decided.drafts, live.fold.as_ref(), reading.as_ref())?;
        let policy = beside.policy.take().unwrap_or_else(|| snapshot.digests());
        // Held until the append is answered: the mode that an entry states is the one that the log leads to there.
        let stated = org.stated.read().await;
        let sealing = Sealing {
            stream: instance_stream(id),
            sequence: live.fold.as_ref().map_or(0, |f| f.sequence() + 1),
            previous: live.fold.as_ref().map(Instance::last),
            policy: Some(policy),
            authority: *stated,
            claimed: now,
        };
        let sealed = org.log.seal(&sealing, decided.drafts).map_err(EngineError::ledger);
        // The fold is the authority: what it refuses is a bug of ours and must not be signed for.
        let applied = sealed.and_then(|entries| {
            let rows = Instance::apply(&mut live.fold, &entries).map_err(EngineError::damaged)?;
            Ok((entries, rows))
        });
        let (entries, rows) = match applied {
            Ok(applied) => applied,
            Err(error) => {
                org.counting.give_back(&taking);
                return Err(error);
            }
        };
        let counted = counters::rows_of(&rows);
        beside.rows.splice(0..0, rows);
        let (append, blobs) = append_of(org, sealing.sequence, entries, beside);
        let mut append = Box::pin(org.log.append(append));
        // It is in the ledger's queue once it was polled: who takes next comes after it, in the log as in the book.
        let first = std::future::poll_fn(|context| std::task::Poll::Ready(append.as_mut().poll(context))).await;
        drop(turn);
        let answer = match first {
            std::task::Poll::Ready(answer) => answer,
            std::task::Poll::Pending => append.await,
        };
        match answer {
            Ok(appended) => {
                // Durable from here on. A crash loses only this process's view, which the next start folds again.
                org.counting.put(&counted)?;
                drop(still);
                org.remember(blobs.into_iter());
                cell.changed.send_replace(sealing.sequence + 1);
                trail::about(id);
                trail::leaves(&appended);
                Ok(appended)
            }
            Err(error) => {
                // What may have become durable is held until the next start reads what did.
                if !matches!(error, AppendError::Unknown) {
                    org.counting.give_back(&taking);
                }
                if matches!(error, AppendError::Conflict { .. } | AppendError::Unknown) {
                    // What is in memory may not be what is on disk: the stream is read again before anything else.
                    *live = Live::default();
                } else {
                    Instance::rollback(&mut live.fold);
                }
                Err(error.into())
            }
        }
    }

    /// Appends to the organization's stream, one append at a time. `policy` is what the verdicts were computed with: by
    /// the time an append gets its turn another may be in force.
    pub(crate) async fn append_own(
        &self,
        org: &Org,
        drafts: Vec<Draft>,
        beside: Beside,
        at: (Timestamp, PolicyDigests),
    ) -> Result<Appended, EngineError> {
        let turn = org.own.lock().await;
        let appended = self.append_in_turn(org, &turn, drafts, beside, at).await?;
        trail::leaves(&appended);
        Ok(appended)
    }

    /// As [`Engine::append_own`], for one who has the stream's turn already, and says whose entries they are.
    pub(crate) async fn append_in_turn(
        &self,
        org: &Org,
        _turn: &MutexGuard<'_, ()>,
        drafts: Vec<Draft>,
        mut beside: Beside,
        (now, policy): (Timestamp, PolicyDigests),
    ) -> Result<Appended, EngineError> {
        // An entry that sets the authority mode states it already, and no other append is on its way meanwhile.
        let sets = drafts.iter().find_map(|draft| match &draft.body {
            Body::Settings(set) => AuthorityMode::of(set),
            _ => None,
        });
        let (mut alone, among) = match sets {
            Some(_) => (Some(org.stated.write().await), None),
            None => (None, Some(org.stated.read().await)),
        };
        let stated = sets.or(among.as_deref().copied()).unwrap_or_else(|| org.authority());
        let stream = org.own_stream();
        let head = org.log.head(stream).await?;
        let sealing = Sealing {
            stream,
            sequence: head.map_or(0, |h| h.next_sequence),
            previous: head.map(|h| h.last_hash),
            policy: Some(policy),
            authority: stated,
            // The wait for the lock may have been long; what is claimed must not lie far behind.
            claimed: now.max(self.now()),
        };
        let kept = org.own_fold().to_keep(&org.log, sealing.sequence);
        let keeps = kept.is_some();
        beside.rows.extend(kept);
        let entries = org.log.seal(&sealing, drafts).map_err(EngineError::ledger)?;
        let (append, blobs) = append_of(org, sealing.sequence, entries, beside);
        let appended = org.log.append(append).await?;
        if let Some(mode) = &mut alone {
            **mode = stated;
        }
        let follows = org.own_fold().appended(&appended.entries, keeps);
        if let Err(error) = follows {
            // Committed all the same: what memory says of the stream is read again.
            tracing::error!(%error, org = %org.id, "the organization's stream went on without this process knowing");
            let read = OwnFold::of(&org.log).await?;
            *org.own_fold() = read;
        }
        org.remember(blobs.into_iter());
        Ok(appended)
    }

    /// Runs `work` to its end even if the caller goes away in the middle; what it logs belongs to the caller's request.
    pub(crate) async fn whole<T: Send + 'static>(
        work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
    ) -> Result<T, EngineError> {
        match trail::spawn(work).await {
            Ok(result) => result,
            Err(error) => Err(EngineError::damaged(error)),
        }
    }
}
