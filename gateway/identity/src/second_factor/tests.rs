//! What a second factor promises, over a vault in memory and a clock that is an argument.

use std::sync::Arc;

use super::*;
use crate::testing::{MINUTE, PASSWORD, START, World, after, bearer, name, new_person};
use crate::{Identity, NewPerson, PersonChange, Session, TokenGrant};

fn code<T>(result: Result<T, IdentityError>) -> &'static str {
    result.map_or_else(|error| error.code(), |_| "ok")
}

/// What an app shows at `now` for a secret.
fn shown(secret: &Secret, now: Timestamp) -> Secret {
    Secret::new(totp(secret, "").unwrap().generate(now.0 / 1000).to_string())
}

async fn login(
    identity: &Identity,
    org: OrgId,
    id: &str,
    code: Option<&Secret>,
    now: Timestamp,
) -> Result<TokenGrant, IdentityError> {
    identity.tokens.login(org, id, (&Secret::new(PASSWORD), code), "act decide", now).await
}

async fn session(world: &World, grant: &TokenGrant, now: Timestamp) -> Arc<Session> {
    world.session(grant, now).await.unwrap()
}

/// Enrols `id` at `START` with the code of that moment; gives the secret.
async fn enrolled(world: &World, id: &str) -> Secret {
    let before = login(&world.identity, world.org, id, None, START).await.unwrap();
    let who = session(world, &before, START).await;
    let factors = &world.identity.second_factors;
    let begun = factors.begin(&who.principal, &name(id), START).await.unwrap();
    factors.confirm(&who.principal, &name(id), &shown(&begun.secret, START), START).await.unwrap();
    begun.secret
}

#[test]
fn codes_are_those_of_rfc_6238_and_hold_a_step_before_and_after() {
    let record = SecondFactorRecord {
        org: OrgId::from_bytes([1; 16]),
        person: name("ada"),
        id: name("otp_1"),
        // "12345678901234567890", as appendix B has it.
        secret: Secret::new("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"),
        begun: Timestamp(0),
        in_force: Some(Timestamp(0)),
        last_step: 0,
    };
    // The last six of the eight digits there.
    for (seconds, digits) in [
        (59, "287082"),
        (1_111_111_109, "081804"),
        (1_111_111_111, "050471"),
        (1_234_567_890, "005924"),
        (2_000_000_000, "279037"),
        (20_000_000_000, "353130"),
    ] {
        let step = seconds / 30;
        let holds = |digits: &str, seconds: u64| record.step_of(&Secret::new(digits), Timestamp(seconds * 1000)).ok();
        assert_eq!(holds(digits, seconds), Some(step), "{digits}");
        assert_eq!(holds(&format!("{} {}", &digits[..3], &digits[3..]), seconds), Some(step));
        // Of the first second of the step before to the last of the one after.
        let (first, last) = ((step - 1) * 30, (step + 2) * 30 - 1);
        assert_eq!((holds(digits, first), holds(digits, last)), (Some(step), Some(step)));
        assert_eq!(
            (first.checked_sub(1).and_then(|early| holds(digits, early)), holds(digits, last + 1)),
            (None, None)
        );
        for wrong in ["", "28708", "2870822", "+28708", "28708a", "２87082"] {
            assert_eq!(holds(wrong, seconds), None, "{wrong}");
        }
        let used = SecondFactorRecord { last_step: step, ..record.clone() };
        assert_eq!(code(used.step_of(&Secret::new(digits), Timestamp(seconds * 1000))), "second-factor-refused");
    }
}

#[tokio::test]
async fn who_has_a_second_factor_needs_its_code_and_the_token_says_so() {
    let world = World::new().await;
    world.person("ada").await;
    let (identity, org) = (&world.identity, world.org);
    let before = login(identity, org, "ada", None, START).await.unwrap();
    let who = session(&world, &before, START).await;
    assert_eq!(who.principal.assurance, Assurance::Password);
    let early = login(identity, org, "ada", Some(&Secret::new("123456")), START).await;
    assert_eq!(code(early), "second-factor-refused", "a code that nothing asks for is not overlooked");

    let begun = identity.second_factors.begin(&who.principal, &name("ada"), START).await.unwrap();
    assert_eq!(begun.secret.expose().len(), 32, "160 bits");
    let uri = format!("otpauth://totp/Countersign:ada?secret={}&issuer=Countersign", begun.secret.expose());
    assert_eq!(begun.uri.expose(), uri);
    // Until its first code it changes nothing.
    assert_eq!(code(login(identity, org, "ada", None, START).await), "ok");
    let confirm = |code, now| identity.second_factors.confirm(&who.principal, &who.principal.id, code, now);
    let wrong = Secret::new("000000");
    assert_eq!(code(confirm(&wrong, START).await), "second-factor-refused");
    assert_eq!(code(login(identity, org, "ada", None, START).await), "ok");
    let first = shown(&begun.secret, START);
    confirm(&first, START).await.unwrap();
    assert_eq!(code(confirm(&first, START).await), "second-factor-in-force");
    assert_eq!(
        code(identity.second_factors.begin(&who.principal, &who.principal.id, START).await),
        "second-factor-in-force"
    );
    assert_eq!(world.code(&before, START).await, "token-revoked", "what was had without a code ends");

    assert_eq!(code(login(identity, org, "ada", None, START).await), "second-factor-required");
    assert_eq!(code(login(identity, org, "ada", Some(&first), START).await), "second-factor-refused", "it was used");
    let next = shown(&begun.secret, after(30));
    let grant = login(identity, org, "ada", Some(&next), START).await.unwrap();
    let sure = session(&world, &grant, START).await;
    assert_eq!(sure.principal.assurance, Assurance::Mfa);
    assert_eq!(sure.methods, [name("pwd"), name("otp")]);
    // Whoever has not the password learns nothing of the code.
    let guess = identity.tokens.login(org, "ada", (&Secret::new("wrong password"), Some(&next)), "", after(30)).await;
    assert_eq!(code(guess), "credentials-invalid");
}

#[tokio::test]
async fn a_code_is_taken_once_also_by_two_at_once_and_after_a_restart() {
    let world = World::new().await;
    world.person("ada").await;
    let secret = enrolled(&world, "ada").await;
    let (identity, org, now) = (&world.identity, world.org, after(300));
    let this = shown(&secret, now);
    let (one, other) =
        tokio::join!(login(identity, org, "ada", Some(&this), now), login(identity, org, "ada", Some(&this), now),);
    let mut codes = [code(one), code(other)];
    codes.sort_unstable();
    assert_eq!(codes, ["ok", "second-factor-refused"]);
    let restarted = world.restarted(now).await;
    assert_eq!(code(login(&restarted, org, "ada", Some(&this), now).await), "second-factor-refused");
    // Neither is one of a step before the last that was accepted, although it was never used.
    let earlier = shown(&secret, after(270));
    assert_eq!(code(login(&restarted, org, "ada", Some(&earlier), now).await), "second-factor-refused");
    assert_eq!(code(login(&restarted, org, "ada", Some(&shown(&secret, after(330))), now).await), "ok");
}

#[tokio::test]
async fn wrong_codes_are_slowed_down_and_only_after_the_right_password() {
    let world = World::new().await;
    world.person("ada").await;
    let secret = enrolled(&world, "ada").await;
    let (identity, org, now) = (&world.identity, world.org, after(300));
    let right = shown(&secret, now);
    let wrong = Secret::new(if right.expose() == "111111" { "222222" } else { "111111" });
    let mut codes = Vec::new();
    // The code that put it in force was the first of ten.
    for _ in 0..10 {
        codes.push(code(login(identity, org, "ada", Some(&wrong), now).await));
        // The brake on passwords is another one; it is not what is seen here.
        identity.tokens.forgive_passwords(org, "ada");
    }
    assert_eq!(codes.pop(), Some("rate-limited"));
    assert!(codes.iter().all(|code| *code == "second-factor-refused"), "{codes:?}");
    assert_eq!(
        code(login(identity, org, "ada", Some(&right), now).await),
        "rate-limited",
        "nor is the right one looked at"
    );

    // A stranger to the password does not use up the codes of anybody.
    world.person("bob").await;
    let bobs = enrolled(&world, "bob").await;
    for _ in 0..9 {
        let guess = identity.tokens.login(org, "bob", (&Secret::new("no"), Some(&wrong)), "", now).await;
        assert_eq!(code(guess), "credentials-invalid");
    }
    assert_eq!(code(login(identity, org, "bob", Some(&shown(&bobs, now)), now).await), "ok");
    // Nor does whoever knows the password win guesses by a login of the owner's: two of ten are spent, and stay so.
    for said in [["second-factor-refused"; 8].as_slice(), &["rate-limited"]].concat() {
        identity.tokens.forgive_passwords(org, "bob");
        assert_eq!(code(login(identity, org, "bob", Some(&wrong), now).await), said);
    }
}

#[tokio::test]
async fn a_person_enrols_themselves_with_a_password_given_for_it() {
    let world = World::new().await;
    world.person("ada").await;
    world.person("bob").await;
    let client = world.agent("fixer").await;
    let factors = &world.identity.second_factors;
    let sure = session(&world, &login(&world.identity, world.org, "ada", None, START).await.unwrap(), START).await;
    let act = session(&world, &world.login("ada", "act", START).await, START).await;
    let machine = session(&world, &world.exchange(&client, START).await, START).await;
    let demo = Principal { assurance: Assurance::Demo, ..(*sure.principal).clone() };
    let chained = Principal {
        on_behalf_of: vec![countersign_gateway_model::Delegator {
            kind: PrincipalKind::Person,
            id: name("bob"),
            pseudonym: sure.principal.pseudonym,
        }],
        ..(*sure.principal).clone()
    };
    for (who, person, expected) in [
        (&*sure.principal, "bob", "account-invalid"),
        (&*act.principal, "ada", "scope-missing"),
        (&*machine.principal, "ada", "account-invalid"),
        (&*machine.principal, "fixer", "account-invalid"),
        (&demo, "ada", "account-invalid"),
        (&chained, "ada", "account-invalid"),
        (&*sure.principal, "ada", "ok"),
    ] {
        assert_eq!(code(factors.begin(who, &name(person), START).await), expected, "{person}");
    }
    let any = Secret::new("123456");
    assert_eq!(code(factors.confirm(&act.principal, &name("ada"), &any, START).await), "scope-missing");
    assert_eq!(code(factors.confirm(&machine.principal, &name("ada"), &any, START).await), "account-invalid");
}

#[tokio::test]
async fn what_was_begun_ends_by_itself_and_leaves_nothing() {
    let world = World::new().await;
    world.person("ada").await;
    let factors = &world.identity.second_factors;
    let who = session(&world, &login(&world.identity, world.org, "ada", None, START).await.unwrap(), START).await;
    let (who, ada) = (&who.principal, name("ada"));
    assert_eq!(code(factors.confirm(who, &ada, &Secret::new("123456"), START).await), "second-factor-unknown");
    let first = factors.begin(who, &ada, START).await.unwrap();
    let second = factors.begin(who, &ada, START).await.unwrap();
    assert_ne!(first.secret.expose(), second.secret.expose());
    let (late, replaced) = (after(15 * MINUTE), shown(&first.secret, START));
    assert_eq!(code(factors.confirm(who, &ada, &replaced, START).await), "second-factor-refused");
    assert_eq!(code(factors.confirm(who, &ada, &shown(&second.secret, late), late).await), "second-factor-unknown");
    assert!(factors.of(world.org, &ada, late).await.unwrap().is_none());
    assert_eq!(world.identity.sweep(after(15 * MINUTE - 1)).await.unwrap().second_factors, 0);
    assert_eq!(world.identity.sweep(late).await.unwrap().second_factors, 1);
    assert_eq!(world.accounts.list(RecordKind::SecondFactor, None, None, 10).await.unwrap(), []);
    // One in force is never swept.
    enrolled(&world, "ada").await;
    assert_eq!(world.identity.sweep(after(90 * 24 * 60 * MINUTE)).await.unwrap().second_factors, 0);
}

#[tokio::test]
async fn it_is_taken_away_with_a_fresh_login_that_used_it_or_by_another_person() {
    let world = World::new().await;
    world.person("ada").await;
    world.person("root").await;
    let client = world.agent("fixer").await;
    let (identity, org, ada) = (&world.identity, world.org, name("ada"));
    let factors = &identity.second_factors;
    let root = session(&world, &login(identity, org, "root", None, START).await.unwrap(), START).await;
    assert_eq!(code(factors.remove(&root.principal, &ada, START).await), "second-factor-unknown");

    let secret = enrolled(&world, "ada").await;
    let now = after(60);
    let grant = login(identity, org, "ada", Some(&shown(&secret, now)), now).await.unwrap();
    let own = session(&world, &grant, now).await;
    let unsure = Principal { assurance: Assurance::Password, ..(*own.principal).clone() };
    assert_eq!(code(factors.remove(&unsure, &ada, now).await), "second-factor-required");
    let stale = after(60 + 5 * MINUTE + 1);
    assert_eq!(code(factors.remove(&own.principal, &ada, stale).await), "login-stale");
    // Nor does a second account of hers do, nor what an administrator keeps for other work.
    let twin = Principal { id: name("ada2"), person: own.principal.person.clone(), ..unsure.clone() };
    assert!(twin.person.is_some());
    assert_eq!(code(factors.remove(&twin, &ada, now).await), "second-factor-required");
    let act = session(&world, &world.login("root", "act", now).await, now).await;
    assert_eq!(code(factors.remove(&act.principal, &ada, now).await), "scope-missing");
    assert_eq!(code(factors.remove(&root.principal, &ada, after(5 * MINUTE + 1)).await), "login-stale");
    let machine = session(&world, &world.exchange(&client, now).await, now).await;
    assert_eq!(code(factors.remove(&machine.principal, &ada, now).await), "account-invalid");
    factors.remove(&own.principal, &ada, after(60 + 5 * MINUTE)).await.unwrap();
    assert_eq!(world.code(&grant, now).await, "token-revoked");
    let plain = login(identity, org, "ada", None, now).await.unwrap();
    assert_eq!(session(&world, &plain, now).await.principal.assurance, Assurance::Password);

    // Lost: another person takes it away, and tokens that were had with it end.
    let secret = enrolled(&world, "ada").await;
    let grant = login(identity, org, "ada", Some(&shown(&secret, now)), now).await.unwrap();
    factors.remove(&root.principal, &ada, now).await.unwrap();
    assert_eq!(world.code(&grant, now).await, "token-revoked");
    // Of two accounts without a person key nobody knows that they are two human beings'.
    for id in ["one", "two"] {
        let new = NewPerson { password: Some(Secret::new(PASSWORD)), person: None, ..new_person(id) };
        identity.directory.create_person(org, new, None, START).await.unwrap();
    }
    enrolled(&world, "two").await;
    let one = session(&world, &login(identity, org, "one", None, now).await.unwrap(), now).await;
    assert_eq!(code(factors.remove(&one.principal, &name("two"), now).await), "second-factor-required");
    let sure = Principal { assurance: Assurance::Mfa, ..(*one.principal).clone() };
    factors.remove(&sure, &name("two"), now).await.unwrap();
    // On a stopped gateway the operator does.
    enrolled(&world, "ada").await;
    factors.withdraw(org, &ada).await.unwrap();
    assert_eq!(code(login(identity, org, "ada", None, now).await), "ok");
    assert_eq!(code(factors.withdraw(org, &ada).await), "second-factor-unknown");
}

#[tokio::test]
async fn no_machine_has_what_a_persons_second_factor_is_worth() {
    let world = World::new().await;
    world.person("ada").await;
    let client = world.agent("fixer").await;
    let tokens = &world.identity.tokens;
    let before = session(&world, &login(&world.identity, world.org, "ada", None, START).await.unwrap(), START).await;
    let lent = tokens.consent(&before, &name("fixer"), None, START).await.unwrap();
    let early = session(&world, &world.exchange(&client, START).await, START).await;
    let used = tokens.exchange_on_behalf(&early, &lent.token, START).await.unwrap();
    let secret = enrolled(&world, "ada").await;
    let now = after(60);
    // What she had before she enrolled, and lent, ends with it.
    assert_eq!(code(tokens.exchange_on_behalf(&early, &lent.token, now).await), "token-revoked");
    assert_eq!(world.code(&used, now).await, "token-revoked");
    let grant = login(&world.identity, world.org, "ada", Some(&shown(&secret, now)), now).await.unwrap();
    let ada = session(&world, &grant, now).await;
    let consent = tokens.consent(&ada, &name("fixer"), None, now).await.unwrap();
    let fixer = session(&world, &world.exchange(&client, now).await, now).await;
    let acting = tokens.exchange_on_behalf(&fixer, &consent.token, now).await.unwrap();
    let acting = session(&world, &acting, now).await;
    assert_eq!(acting.principal.on_behalf_of.len(), 1);
    assert_eq!((fixer.principal.assurance, acting.principal.assurance), (Assurance::Secret, Assurance::Secret));
    assert_eq!(acting.methods, [name("client_secret")]);
    // What she lent since ends when it is taken away.
    world.identity.second_factors.withdraw(world.org, &name("ada")).await.unwrap();
    assert_eq!(code(tokens.exchange_on_behalf(&fixer, &consent.token, now).await), "token-revoked");
}

#[tokio::test]
async fn the_secret_is_in_its_row_and_in_nothing_that_is_printed() {
    let world = World::new().await;
    world.person("ada").await;
    let who = session(&world, &login(&world.identity, world.org, "ada", None, START).await.unwrap(), START).await;
    let begun = world.identity.second_factors.begin(&who.principal, &name("ada"), START).await.unwrap();
    let secret = begun.secret.expose();
    let record = world.identity.second_factors.of(world.org, &name("ada"), START).await.unwrap().unwrap();
    let printed = format!("{begun:?} {record:?} {:?} {:?}", world.identity, totp(&begun.secret, "ada").unwrap());
    assert!(!printed.contains(secret), "{printed}");
    for kind in RecordKind::ALL {
        for (key, stored) in world.accounts.list(kind, None, None, 10).await.unwrap() {
            let there = String::from_utf8(stored.value).unwrap().contains(secret);
            assert_eq!(there, key.kind == RecordKind::SecondFactor, "{key:?}");
        }
    }
    let uri = begun.uri.expose();
    assert!(uri.contains(secret) && !format!("{:?} {}", begun.uri, begun.uri).contains(secret));
}

#[tokio::test]
async fn it_goes_with_its_person_and_is_of_one_organization() {
    let world = World::new().await;
    world.person("ada").await;
    let elsewhere = OrgId::from_bytes([9; 16]);
    world.person_in(elsewhere, "ada").await;
    enrolled(&world, "ada").await;
    let identity = &world.identity;
    assert_eq!(code(login(identity, elsewhere, "ada", None, START).await), "ok");
    assert!(identity.second_factors.of(elsewhere, &name("ada"), START).await.unwrap().is_none());
    assert_eq!(code(identity.second_factors.withdraw(elsewhere, &name("ada")).await), "second-factor-unknown");
    identity.directory.erase_person(world.org, &name("ada")).await.unwrap();
    // Whoever comes after them under the same name begins without it.
    let again = NewPerson { password: Some(Secret::new(PASSWORD)), ..new_person("ada") };
    identity.directory.create_person(world.org, again, None, START).await.unwrap();
    assert_eq!(code(login(identity, world.org, "ada", None, START).await), "ok");
}

#[tokio::test]
async fn one_who_is_disabled_spends_no_code_and_a_colon_is_no_issuer() {
    let world = World::new().await;
    world.person("a:b").await;
    let secret = enrolled(&world, "a:b").await;
    assert!(totp(&secret, "a:b").unwrap().to_url().unwrap().starts_with("otpauth://totp/Countersign:a-b?"));
    let disabled = |disabled| PersonChange { disabled: Some(disabled), ..PersonChange::default() };
    let directory = &world.identity.directory;
    directory.change_person(world.org, &name("a:b"), disabled(true)).await.unwrap();
    let this = shown(&secret, after(60));
    assert_eq!(code(login(&world.identity, world.org, "a:b", Some(&this), after(60)).await), "credentials-invalid");
    directory.change_person(world.org, &name("a:b"), disabled(false)).await.unwrap();
    let grant = login(&world.identity, world.org, "a:b", Some(&this), after(60)).await.unwrap();
    assert!(bearer(&grant).len() > 7);
}
