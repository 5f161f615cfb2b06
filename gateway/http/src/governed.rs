//! Changes of accounts: policy is asked first, then the accounts change with the entry that says so, in one append.
//!
//! A denial is committed as a refusal and answered with its receipt. The change runs in a task of its own, so that a
//! caller who goes away leaves nothing half done. Absent: accounts themselves (`gateway/identity`) and how their rows
//! come beside an entry (the program's store).

use std::sync::Arc;

use countersign_gateway_engine::{EntityKind, EntityRef, Operation, acting, trail};
use countersign_gateway_identity::{IdentityError, Subject};
use countersign_gateway_model::{Name, Principal, PrincipalKind};
use serde_json::Value;

use crate::problem::{BODY_VALUE_INVALID, Problem};
use crate::state::AppState;

/// Asks whether `who` may, and carries `change` out with that authority.
pub(crate) async fn governed<T: Send + 'static>(
    app: &AppState,
    who: &Arc<Principal>,
    operation: Operation,
    resource: EntityRef,
    details: &Value,
    change: impl Future<Output = Result<T, IdentityError>> + Send + 'static,
) -> Result<T, Problem> {
    let allowed = app.engine.authorize(who, operation, resource, details).await?;
    let who = Arc::clone(who);
    let change = trail::spawn(acting::scope(who, allowed, change));
    match change.await {
        Ok(done) => Ok(done?),
        Err(error) => Err(Problem::internal("a change of accounts ended early", &error)),
    }
}

/// The organization, as policy names it.
pub(crate) fn organization(who: &Principal) -> EntityRef {
    EntityRef::organization(who.org)
}

/// An account, as policy names it. One that is not there is no question, for those who may know who is there; to all
/// others policy says no, whether it is there or not.
pub(crate) async fn of_subject(app: &AppState, who: &Principal, subject: &Subject) -> Result<EntityRef, Problem> {
    if app.identity.directory.pseudonym_of(who.org, subject).await?.is_none()
        && app.engine.may(who, Operation::ListPrincipals, organization(who), "account").is_ok()
    {
        return Err(IdentityError::AccountUnknown(subject.to_string()).into());
    }
    Ok(EntityRef::new(who.org, EntityKind::from(subject.kind()), subject.id().clone()))
}

/// Refuses roles that the policy in force does not know: a word misspelt would be an account that may do nothing. While
/// the kernel alone decides there are no roles to compare with.
pub(crate) fn check_roles(app: &AppState, who: &Principal, roles: &[Name]) -> Result<(), Problem> {
    let snapshot = app.engine.snapshot(who.org);
    let known = snapshot.roles();
    let Some(unknown) = roles.iter().find(|role| !known.is_empty() && !known.contains(*role)) else { return Ok(()) };
    let mut words = format!("`{unknown}` is no role of the policy in force");
    // For people: a program learns nothing here about who may approve.
    if who.kind == PrincipalKind::Person && who.on_behalf_of.is_empty() {
        let known: Vec<&str> = known.iter().map(Name::as_str).collect();
        words.push_str("; there are ");
        words.push_str(&known.join(", "));
    }
    Err(Problem::new(BODY_VALUE_INVALID, words).at("/roles"))
}
