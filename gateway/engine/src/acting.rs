//! Who acts, for stores that are asked by others: a task-local that an account vault reads when it must write an entry.
//!
//! `gateway/identity` changes accounts through a store that knows no ledger. The program's store commits each batch of
//! rows with a `principal` entry; what that entry says of actor and verdict was decided before, and is found here.

use std::cell::RefCell;
use std::sync::Arc;

use countersign_gateway_model::Principal;

use crate::own::Allowed;

tokio::task_local! {
    static ACTING: RefCell<Option<(Arc<Principal>, Allowed)>>;
}

/// Runs `work` with the authority that was given for it. The authority is used up by the first entry.
pub async fn scope<F: Future>(who: Arc<Principal>, allowed: Allowed, work: F) -> F::Output {
    ACTING.scope(RefCell::new(Some((who, allowed))), work).await
}

/// Takes the authority, if this task was given one and has not used it.
pub fn take() -> Option<(Arc<Principal>, Allowed)> {
    ACTING.try_with(RefCell::take).ok().flatten()
}
